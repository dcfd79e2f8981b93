"""2,000 branches: what goes over the wire, and what is in the document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import RunKey
    from tests.ui.tab import Open, Tab

SCRIPT = Path(__file__).parent / "write_branches.py"

OUT_OF_SIGHT = """
() => new Promise(requestAnimationFrame).then(() => {
  const around = document.querySelector(".scroller").getBoundingClientRect();
  const row = document.querySelector(".row.active").getBoundingClientRect();
  return [around.top - row.top, row.bottom - around.bottom];
})
"""
"""Pixels by which the chosen row stands out above and below."""


@pytest.fixture(scope="module", params=["tab_large", "tab_large_static"])
def run(request: pytest.FixtureRequest, airflow: AirflowWithUsers) -> RunKey:
    dag_id = request.param
    airflow.wait_for_dag(dag_id, timeout=300)
    run = (dag_id, airflow.trigger(dag_id))  # the Dag is paused
    airflow.run_script(SCRIPT, None, *run)
    return run


@pytest.fixture
def tab(open_tab: Open, run: RunKey) -> Tab:
    return open_tab(run)


def test_all_comes_in_at_most_two_requests_and_300_kb(tab: Tab) -> None:
    expect(tab.group("number").locator(".head")).to_have_text(
        "2,000 of 2,000 branches done · 100 failed · degraded"
    )
    requests = [request for request in tab.requests if request.resource_type in {"fetch", "xhr"}]
    answer = tab.asked("report")[0].response()
    assert answer is not None
    assert answer.all_headers()["content-encoding"] == "gzip"
    on_the_wire = sum(request.sizes()["responseBodySize"] for request in requests)
    print(f"\n{tab.run[0]}: {on_the_wire:,} bytes on the wire, {len(answer.body()):,} unpacked")
    assert len(requests) <= 2
    assert on_the_wire <= 300_000


def test_few_rows_are_in_the_document_wherever_one_scrolls(tab: Tab) -> None:
    scroller = tab.group("number").get_by_role("treegrid")
    assert scroller.get_attribute("aria-rowcount") == "2000"
    scroller.focus()
    for key in ("Home", "PageDown", "End", "PageUp"):
        tab.page.keyboard.press(key)
        assert 0 < tab.find(".row").count() < 100
    tab.page.keyboard.press("End")
    assert tab.rows("number")[-1] == "number_1999"
    expect(tab.group("number").locator(".failed tbody tr")).to_have_count(1)
    assert tab.frame.evaluate("document.querySelectorAll('*').length") < 2000


def test_branches_that_failed_alike_are_a_row_that_opens_to_all_of_them(tab: Tab) -> None:
    rows = tab.group("number").locator(".failed tbody tr")
    kind = rows.get_by_role("button", name="100 branches")
    expect(rows.first).to_contain_text("and 95 more")
    kind.click()
    expect(rows).to_have_count(22)
    expect(kind).to_have_attribute("aria-expanded", "true")
    rows.get_by_role("button", name="Show 80 more").click()
    expect(rows).to_have_count(101)
    kind.click()
    expect(rows).to_have_count(1)
    assert kind.evaluate("button => button === document.activeElement")


def test_what_is_chosen_stays_in_sight_down_to_the_last(tab: Tab) -> None:
    tab.group("number").get_by_role("treegrid").focus()
    for key in ("PageDown", "PageDown", "ArrowDown", "End", "PageUp", "ArrowUp", "Home"):
        tab.page.keyboard.press(key)
        hidden, below = tab.frame.evaluate(OUT_OF_SIGHT)
        assert hidden <= 0, key
        assert below <= 1, key


def test_a_click_opens_the_row_that_is_clicked_wherever_one_has_scrolled(tab: Tab) -> None:
    scroller = tab.group("number").locator(".scroller")
    scroller.evaluate("box => { box.scrollTop = 28 * 150 }")
    expect(tab.choose("number", has_text="number_152").get_by_role("heading")).to_have_text("number_152")
    assert scroller.evaluate("box => box.scrollTop") == 28 * 150


def test_filtering_goes_through_all_of_them(tab: Tab) -> None:
    group = tab.group("number")
    group.locator(".by-state button", has_text="failed").click()
    expect(group.get_by_role("treegrid")).to_have_attribute("aria-rowcount", "100")
    group.get_by_label("Filter by name").fill("199")
    assert tab.rows("number") == []
    group.locator(".by-state button", has_text="failed").click()
    assert tab.rows("number") == ["number_199", *(f"number_{index}" for index in (1199, *range(1990, 2000)))]
