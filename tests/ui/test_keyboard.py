"""The tab without a mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator

    from tests.ui.runs import Runs
    from tests.ui.tab import Tab

    Open = Callable[..., Tab]

FOCUS = """
() => {
  const own = document.activeElement;
  const outline = (each) => {
    const style = getComputedStyle(each);
    return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  };
  return {
    tag: own.tagName.toLowerCase(), role: own.getAttribute("role"), cls: own.className,
    text: (own.innerText ?? "").slice(0, 40), isSeen: outline(own) && own.matches(":focus-visible"),
  };
}
"""


@pytest.fixture
def tab(open_tab: Open, runs: Runs) -> Tab:
    return open_tab(runs.finished("tab"))


def tab_to(tab: Tab, wanted: Locator) -> list[dict[str, Any]]:
    """Press Tab until something has the focus; return what had it on the way."""
    passed = []
    for _ in range(60):
        tab.page.keyboard.press("Tab")
        passed.append(tab.frame.evaluate(FOCUS))
        if wanted.evaluate("each => each === document.activeElement"):
            return passed
    message = f"not reached; on the way: {passed}"
    raise AssertionError(message)


def active(tab: Tab, title: str) -> str:
    """Return what the time line says is chosen."""
    scroller = tab.group(title).get_by_role("treegrid")
    chosen = scroller.get_attribute("aria-activedescendant")
    assert chosen is not None
    return str(tab.find(f"#{chosen} .name").inner_text())


def test_every_stop_of_the_tab_key_can_be_seen(tab: Tab) -> None:
    # Groups are in the order in which they began.
    passed = tab_to(tab, tab.find("section.group").last.get_by_role("treegrid"))
    assert [stop for stop in passed if not stop["isSeen"]] == []
    roles = [stop["role"] or stop["tag"] for stop in passed]
    assert roles.count("treegrid") == 3
    assert {"button", "summary", "a", "input", "select"} <= set(roles)


def test_arrows_choose_a_branch_enter_opens_it_and_escape_closes_it(tab: Tab) -> None:
    group = tab.group("visit")
    scroller = group.get_by_role("treegrid")
    tab_to(tab, scroller)
    assert active(tab, "visit") == "visit_0"
    for _ in range(3):
        tab.page.keyboard.press("ArrowDown")
    assert active(tab, "visit") == "visit_3"
    tab.page.keyboard.press("ArrowUp")
    assert active(tab, "visit") == "visit_2"
    expect(group.locator(".readout")).to_contain_text("visit_2 · failed")

    tab.page.keyboard.press("Enter")
    detail = group.get_by_role("region", name="Chosen branch")
    expect(detail.get_by_role("heading")).to_have_text("visit_2")

    tab.page.keyboard.press("Escape")
    expect(detail).to_be_hidden()
    assert scroller.evaluate("each => each === document.activeElement")
    tab.page.keyboard.press("End")
    assert active(tab, "visit") == "visit_11"
    tab.page.keyboard.press("Home")
    assert active(tab, "visit") == "visit_0"


def test_a_batch_is_opened_and_closed_with_arrows(tab: Tab) -> None:
    group = tab.group("square")
    tab_to(tab, group.get_by_role("treegrid"))
    tab.page.keyboard.press("ArrowRight")
    expect(group.locator(".row.item").first).to_contain_text("square_0")
    tab.page.keyboard.press("ArrowDown")
    assert active(tab, "square") == "square_0"
    tab.page.keyboard.press("ArrowLeft")
    expect(group.locator(".row.item")).to_have_count(0)


def test_the_dialog_is_left_with_escape_and_clears_nothing(tab: Tab) -> None:
    button = tab.group("visit").get_by_role("button", name="Run failed again…")
    tab_to(tab, button)
    tab.page.keyboard.press("Enter")
    expect(tab.find("dialog .sum")).to_contain_text("will be cleared")
    tab.page.keyboard.press("Escape")
    expect(tab.find("dialog")).to_be_hidden()
    assert [each.method for each in tab.asked("rerun")] == ["GET"]
    assert button.evaluate("each => each === document.activeElement")
