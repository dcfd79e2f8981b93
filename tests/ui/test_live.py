"""A run that is on: the tab keeps up with it, and stops asking when there is no more to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ui.runs import RunKey, Runs
    from tests.ui.tab import Open, Tab

AN_HOUR = 3600 * 1000

HIDE = """
(state) => {
  Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
  document.dispatchEvent(new Event("visibilitychange"));
}
"""


@pytest.fixture(scope="module")
def run(runs: Runs) -> Iterator[RunKey]:
    waiting = runs.waiting()
    yield waiting
    runs.let_go(waiting)


def settle(tab: Tab) -> int:
    """Let an hour pass in the page; return how often it has asked for the report by then."""
    tab.page.clock.fast_forward(AN_HOUR)
    # Two round trips: what was sent when the time was up has been noted by now.
    for _ in range(2):
        tab.frame.evaluate("fetch('../static/format.js').then(answer => answer.text())")
    return len(tab.asked("report"))


def test_what_runs_is_shown_and_asked_for_again(open_tab: Open, run: RunKey) -> None:
    tab = open_tab(run, clock=True)
    expect(tab.group("wait").locator(".head")).to_have_text("2 of 4 branches done · 2 running")
    chips = tab.group("wait").locator(".by-state button")
    assert chips.all_inner_texts() == ["running 2", "success 2"]
    before = len(tab.asked("report"))
    with tab.page.expect_request("**/report/**"):
        tab.page.clock.fast_forward(AN_HOUR)
    assert len(tab.asked("report")) > before


def test_a_hidden_tab_asks_only_when_it_is_seen_again(open_tab: Open, run: RunKey) -> None:
    tab = open_tab(run, clock=True)
    tab.frame.evaluate(HIDE, "hidden")
    before = len(tab.asked("report"))
    assert settle(tab) == before
    assert settle(tab) == before
    with tab.page.expect_request("**/report/**"):
        tab.frame.evaluate(HIDE, "visible")


def test_what_one_has_chosen_stays_while_the_tab_keeps_up(open_tab: Open, run: RunKey) -> None:
    tab = open_tab(run, clock=True)
    group = tab.group("wait")
    group.locator(".by-state button", has_text="running").click()
    group.get_by_label("Sort by").select_option("name")
    group.locator(".row", has_text="wait_3").click()
    group.get_by_role("treegrid").focus()

    with tab.page.expect_response("**/report/**") as answered:
        tab.page.clock.fast_forward(AN_HOUR)
    answered.value.finished()
    tab.frame.evaluate("new Promise(requestAnimationFrame)")

    assert tab.rows("wait") == ["wait_2", "wait_3"]
    expect(group.locator(".row.active .name")).to_have_text("wait_3")
    expect(group.get_by_role("region", name="Chosen branch").get_by_role("heading")).to_have_text("wait_3")
    assert group.get_by_role("treegrid").evaluate("each => each === document.activeElement")


def test_when_the_run_has_ended_it_shows_that_and_asks_no_more(open_tab: Open, runs: Runs) -> None:
    run = runs.waiting()
    tab = open_tab(run, clock=True)
    expect(tab.group("wait").locator(".head")).to_contain_text("2 of 4")
    runs.let_go(run)
    runs.airflow.wait_for_run(*run, timeout=300)
    tab.page.clock.fast_forward(AN_HOUR)
    expect(tab.group("wait").locator(".head")).to_have_text("4 of 4 branches done")
    expect(tab.find("#groups")).to_have_attribute("data-state", "success")

    before = settle(tab)
    assert settle(tab) == before


def test_a_run_that_had_ended_is_asked_for_once(open_tab: Open, runs: Runs) -> None:
    tab = open_tab(runs.finished("tab"), clock=True)
    assert settle(tab) == 1
