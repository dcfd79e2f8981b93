"""2,000 branches: what goes over the wire, what is in the document; and, printed, how long it takes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import RunKey
    from tests.ui.tab import Tab

    Open = Callable[..., Tab]

SCRIPT = Path(__file__).parent / "write_branches.py"
DAGS = ("tab_large", "tab_large_static")
MOST_BYTES = 300_000

FRAMES = """
async (act) => {
  const scroller = document.querySelector(".scroller");
  const frames = [];
  let last = performance.now();
  const frame = () => new Promise(requestAnimationFrame).then(() => {
    const now = performance.now();
    frames.push(now - last);
    last = now;
  });
  for (let step = 0; step < 60; step += 1) {
    if (act === "scroll") scroller.scrollTop = (scroller.scrollHeight * step) / 60;
    else {
      const select = document.querySelector(".sort");
      select.selectedIndex = step % select.options.length;
      select.dispatchEvent(new Event("change"));
    }
    await frame();
  }
  return { longest: Math.max(...frames), most: frames.filter((each) => each > 50).length };
}
"""

OUT_OF_SIGHT = """
() => new Promise(requestAnimationFrame).then(() => {
  const around = document.querySelector(".scroller").getBoundingClientRect();
  const row = document.querySelector(".row.active").getBoundingClientRect();
  return [around.top - row.top, row.bottom - around.bottom];
})
"""
"""Pixels by which the chosen row stands out above and below."""


@pytest.fixture(scope="module", params=DAGS)
def run(request: pytest.FixtureRequest, airflow: AirflowWithUsers) -> RunKey:
    dag_id = request.param
    airflow.wait_for_dag(dag_id, timeout=300)
    run = (dag_id, airflow.trigger(dag_id))  # the Dag is paused
    airflow.run_script(SCRIPT, None, *run)
    return run


@pytest.fixture
def tab(open_tab: Open, run: RunKey) -> Tab:
    return open_tab(run)


def test_all_is_told_in_at_most_two_requests_and_300_kb(tab: Tab) -> None:
    group = tab.group("number")
    expect(group.locator(".head")).to_have_text("2,000 of 2,000 branches done · 100 failed · degraded")
    data = [each for each in tab.requests if each.resource_type in {"fetch", "xhr"}]
    (report,) = tab.asked("report")
    answer = report.response()
    assert answer is not None
    assert answer.all_headers()["content-encoding"] == "gzip"
    on_the_wire = sum(each.sizes()["responseBodySize"] for each in data)
    print(
        f"\n{tab.run[0]}: {len(data)} request(s), {on_the_wire:,} bytes on the wire "
        f"({len(answer.body()):,} unpacked), load average {os.getloadavg()[0]:.0f}"
    )
    assert len(data) <= 2
    assert on_the_wire <= MOST_BYTES


def test_few_rows_are_in_the_document_wherever_one_scrolls(tab: Tab) -> None:
    scroller = tab.group("number").get_by_role("treegrid")
    assert scroller.get_attribute("aria-rowcount") == "2000"
    scroller.focus()
    for key in ("Home", "PageDown", "End", "PageUp"):
        tab.page.keyboard.press(key)
        assert 0 < tab.find(".row").count() < 100
    tab.page.keyboard.press("End")
    assert tab.rows("number")[-1] == "number_1999"
    expect(tab.group("number").locator(".failed tbody tr")).to_have_count(20)
    assert tab.frame.evaluate("document.querySelectorAll('*').length") < 2000


def test_what_is_chosen_stays_in_sight_down_to_the_last(tab: Tab) -> None:
    tab.group("number").get_by_role("treegrid").focus()
    for key in ("PageDown", "PageDown", "ArrowDown", "End", "PageUp", "ArrowUp", "Home"):
        tab.page.keyboard.press(key)
        hidden, below = tab.frame.evaluate(OUT_OF_SIGHT)
        assert hidden <= 0, key
        assert below <= 1, key


def test_the_longest_frame_is_printed(tab: Tab, airflow: AirflowWithUsers) -> None:
    """How long is a matter of the machine; that all was drawn is not."""
    began = time.monotonic()
    tab.frame.evaluate("fetch(location.pathname.replace('/page/', '/report/')).then(answer => answer.text())")
    answered = time.monotonic() - began
    tab.page.reload()
    tab.find(".row").first.wait_for()
    paints: dict[str, float] = dict(
        tab.frame.evaluate("performance.getEntriesByType('paint').map(each => [each.name, each.startTime])")
    )
    rows = tab.frame.evaluate("new Promise(done => requestAnimationFrame(() => done(performance.now())))")
    found: dict[str, Any] = {act: tab.frame.evaluate(FRAMES, act) for act in ("scroll", "sort")}
    print(
        f"\n{tab.run[0]}: report {answered:.2f} s, first paint {paints['first-contentful-paint']:.0f} ms, "
        f"rows after {rows:.0f} ms; longest of 60 frames scrolling {found['scroll']['longest']:.0f} ms, "
        f"sorting {found['sort']['longest']:.0f} ms; above 50 ms {found['scroll']['most']} and "
        f"{found['sort']['most']}; load average {os.getloadavg()[0]:.0f}"
    )
    assert 0 < tab.find(".row").count() < 100


def test_filtering_goes_through_all_of_them(tab: Tab) -> None:
    group = tab.group("number")
    group.locator(".by-state button", has_text="failed").click()
    expect(group.get_by_role("treegrid")).to_have_attribute("aria-rowcount", "100")
    group.get_by_label("Filter by name").fill("199")
    assert tab.rows("number") == []
    group.locator(".by-state button", has_text="failed").click()
    assert tab.rows("number") == ["number_199", *(f"number_{index}" for index in (1199, *range(1990, 2000)))]
