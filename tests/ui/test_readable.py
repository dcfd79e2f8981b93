"""Whether everybody can read the tab and work with it: names, contrast, narrow windows, no mouse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from tests.ui.runs import Runs
    from tests.ui.tab import Open, Tab

NAMED = {"button", "checkbox", "combobox", "dialog", "link", "region", "searchbox", "textbox", "treegrid"}
"""Roles of what one reads or works with, which nobody can without a name."""

LEAST_CONTRAST = 4.5

CONTRASTS = """
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
    return [red, green, blue, alpha / 255];
  };
  const over = (below, [red, green, blue, alpha]) =>
    [red, green, blue].map((each, index) => each * alpha + below[index] * (1 - alpha));
  const behind = (element) => {
    const above = [];
    for (let each = element; each; each = each.parentElement) {
      above.unshift(rgba(getComputedStyle(each).backgroundColor));
    }
    return above.reduce(over, [255, 255, 255]);
  };
  const light = (color) => {
    const [red, green, blue] = color.map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (element, color) => {
    const below = behind(element);
    let [red, green, blue, alpha] = rgba(color);
    for (let each = element; each; each = each.parentElement) alpha *= Number(getComputedStyle(each).opacity);
    const [a, b] = [light(below), light(over(below, [red, green, blue, alpha]))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const found = [];
  const note = (element, text, color) => {
    const { fontSize, visibility } = getComputedStyle(element);
    if (visibility !== "visible" || fontSize === "0px" || !element.getClientRects().length) return;
    if (element.closest(":disabled")) return; // nothing to read there
    const name = `${element.tagName.toLowerCase()}.${element.className}`;
    found.push([contrast(element, color), `${name}: ${text.slice(0, 30)}`]);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const { data, parentElement } = texts.currentNode;
    if (data.trim()) note(parentElement, data.trim(), getComputedStyle(parentElement).color);
  }
  for (const input of document.querySelectorAll("input[placeholder]")) {
    note(input, input.placeholder, getComputedStyle(input, "::placeholder").color);
  }
  return found;
}
"""

TOO_WIDE = """
() => {
  const width = document.documentElement.clientWidth;
  const clips = (each) => getComputedStyle(each).overflowX !== "visible";
  const clipped = (each) => each && (clips(each) || clipped(each.parentElement));
  const own = document.documentElement.scrollWidth;
  return [...document.querySelectorAll("body, body *")]
    .filter((each) => each.getClientRects().length && each.getBoundingClientRect().right > width + 1)
    .filter((each) => !clipped(each.parentElement))
    .map((each) => `${each.tagName.toLowerCase()}.${each.className}`)
    .concat(own > width ? [`scrolls to ${own}`] : []);
}
"""


def open_everything(tab: Tab) -> None:
    """Open a batch and a branch; the dialog is for each test to open, for it covers the rest."""
    tab.choose("square")
    expect(tab.group("square").locator(".row.item").first).to_be_visible()
    expect(tab.choose("visit", has_text="visit_2")).to_be_visible()


def unnamed(tab: Tab) -> tuple[set[str], list[dict[str, Any]]]:
    """Return the roles that assistive technology is told of, and what has no name of those that need one."""
    session = tab.context.new_cdp_session(tab.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    session.detach()
    told = [node for node in nodes if not node.get("ignored")]
    roles = {node["role"]["value"] for node in told}
    return roles, [
        node
        for node in told
        if node["role"]["value"] in NAMED and not node.get("name", {}).get("value", "").strip()
    ]


def test_everything_one_works_with_has_a_name(tab: Tab) -> None:
    open_everything(tab)
    roles, nameless = unnamed(tab)
    assert nameless == []
    assert {"button", "combobox", "link", "region", "searchbox", "treegrid", "row", "gridcell"} <= roles
    tab.open_dialog("visit")
    roles, nameless = unnamed(tab)
    assert nameless == []
    assert {"dialog", "button"} <= roles


def test_every_row_tells_in_words_what_its_bars_show(tab: Tab) -> None:
    row = tab.group("visit").get_by_role("row", name="visit_2")
    text = row.get_by_role("gridcell").nth(1).get_attribute("aria-label") or ""
    assert text.startswith("visit_2 · failed · queued ")
    assert "ValueError: <script>" in text


@pytest.mark.parametrize("framed", [True, False], ids=["in Airflow's colours", "in its own colours"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(
    open_tab: Open, runs: Runs, theme: str, *, framed: bool
) -> None:
    tab = open_tab(runs.finished("tab"), framed=framed, theme=theme)
    assert tab.frame.evaluate("document.documentElement.dataset.theme") == theme
    open_everything(tab)
    contrasts: list[tuple[float, str]] = tab.frame.evaluate(CONTRASTS)
    tab.open_dialog("visit")
    contrasts += tab.frame.evaluate(CONTRASTS)
    assert len(contrasts) > 200
    assert sorted({(round(ratio, 2), text) for ratio, text in contrasts if ratio < LEAST_CONTRAST}) == []


@pytest.mark.parametrize("width", [1280, 480, 390])
@pytest.mark.parametrize("framed", [True, False], ids=["framed", "alone"])
def test_the_page_is_never_wider_than_its_window_and_rows_stay_whole(
    open_tab: Open, runs: Runs, width: int, *, framed: bool
) -> None:
    tab = open_tab(runs.finished("tab"), framed=framed, width=width)
    open_everything(tab)
    assert tab.frame.evaluate(TOO_WIDE) == []
    if not framed:
        for part in (".name", ".bars", ".took"):
            box = tab.group("visit").locator(".row").first.locator(part).bounding_box()
            assert box is not None
            assert box["width"] >= 60, part
    tab.open_dialog("visit")
    assert tab.frame.evaluate(TOO_WIDE) == []


FOCUS = """
() => {
  const own = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(own);
  const isOutlined = outlineStyle !== "none" && parseFloat(outlineWidth) >= 1;
  return {
    kind: own.getAttribute("role") ?? own.tagName.toLowerCase(), text: (own.innerText ?? "").slice(0, 40),
    isSeen: isOutlined && own.matches(":focus-visible"),
  };
}
"""


class TestWithoutAMouse:
    def tab_to(self, tab: Tab, wanted: Locator) -> list[dict[str, Any]]:
        """Press Tab until something has the focus; return what had it on the way."""
        passed = []
        for _ in range(60):
            tab.page.keyboard.press("Tab")
            passed.append(tab.frame.evaluate(FOCUS))
            if wanted.evaluate("box => box === document.activeElement"):
                return passed
        message = f"not reached; on the way: {passed}"
        raise AssertionError(message)

    def active(self, tab: Tab, title: str) -> str:
        """Return what the time line says is chosen."""
        chosen = tab.group(title).get_by_role("treegrid").get_attribute("aria-activedescendant")
        assert chosen is not None
        return str(tab.find(f"#{chosen} .name").inner_text())

    def test_every_stop_of_the_tab_key_can_be_seen(self, tab: Tab) -> None:
        passed = self.tab_to(tab, tab.find("section.group").last.get_by_role("treegrid"))
        assert [stop for stop in passed if not stop["isSeen"]] == []
        kinds = [stop["kind"] for stop in passed]
        assert kinds.count("treegrid") == 3
        assert {"button", "summary", "a", "input", "select"} <= set(kinds)

    def test_arrows_choose_a_branch_enter_opens_it_and_escape_closes_it(self, tab: Tab) -> None:
        group = tab.group("visit")
        scroller = group.get_by_role("treegrid")
        detail = group.get_by_role("region", name="Chosen branch")
        self.tab_to(tab, scroller)
        chosen = [self.active(tab, "visit")]
        for key in ("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp"):
            tab.page.keyboard.press(key)
            chosen.append(self.active(tab, "visit"))
        assert chosen == ["visit_0", "visit_1", "visit_2", "visit_3", "visit_2"]
        expect(group.locator(".readout")).to_contain_text("visit_2 · failed")
        tab.page.keyboard.press("Enter")
        expect(detail.get_by_role("heading")).to_have_text("visit_2")
        tab.page.keyboard.press("Escape")
        expect(detail).to_be_hidden()
        assert scroller.evaluate("box => box === document.activeElement")
        for key, name in (("End", "visit_11"), ("Home", "visit_0")):
            tab.page.keyboard.press(key)
            assert self.active(tab, "visit") == name

    def test_a_batch_is_opened_and_closed_with_arrows(self, tab: Tab) -> None:
        group = tab.group("square")
        self.tab_to(tab, group.get_by_role("treegrid"))
        tab.page.keyboard.press("ArrowRight")
        expect(group.locator(".row.item").first).to_contain_text("square_0")
        tab.page.keyboard.press("ArrowDown")
        assert self.active(tab, "square") == "square_0"
        tab.page.keyboard.press("ArrowLeft")
        expect(group.locator(".row.item")).to_have_count(0)

    def test_the_dialog_is_left_with_escape_and_clears_nothing(self, tab: Tab) -> None:
        button = tab.group("visit").get_by_role("button", name="Run failed again…")
        self.tab_to(tab, button)
        tab.page.keyboard.press("Enter")
        expect(tab.find("dialog .sum")).to_contain_text("will be cleared")
        tab.page.keyboard.press("Escape")
        expect(tab.find("dialog")).to_be_hidden()
        assert [request.method for request in tab.asked("rerun")] == ["GET"]
        assert button.evaluate("box => box === document.activeElement")
