"""Names and errors that would be more than text, if the tab let them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.ui.runs import Runs
    from tests.ui.tab import Open, Tab

OWN_ELEMENTS = {
    *("a", "body", "button", "dd", "details", "dialog", "div", "dl", "dt", "form", "h2", "h3"),
    *("head", "header", "html", "input", "label", "li", "link", "main", "meta", "option", "p"),
    *("script", "section", "select", "span", "summary", "table", "tbody", "td", "template"),
    *("th", "thead", "title", "tr", "ul"),
}

HANDLERS = """
[...document.querySelectorAll("*")].flatMap((each) => [...each.attributes])
  .filter((each) => /^on/i.test(each.name)).length
"""

INJECT = """
const made = document.createElement("script");
made.textContent = "document.title = 'gone'";
document.body.append(made);
"""

LINES = """
cell => {
  const range = document.createRange();
  range.selectNodeContents(document.createTreeWalker(cell, NodeFilter.SHOW_TEXT).nextNode());
  return new Set([...range.getClientRects()].map(({ top }) => Math.round(top))).size;
}
"""


def test_nothing_hostile_becomes_part_of_the_page(tab: Tab) -> None:
    """Everything that shows names or errors is opened; violations of the policy fail each test."""
    group = tab.group("read")
    for index in range(3):
        row = group.locator(".row").nth(index)
        row.hover()
        row.click()
        expect(group.get_by_role("region", name="Chosen branch")).to_be_visible()
    group.get_by_label("Filter by name").fill("<script>")
    expect(group.locator(".row")).to_have_count(1)
    for title in ("read", "visit"):
        tab.open_dialog(title).get_by_role("button", name="Cancel").click()

    assert tab.page.title() == "Fan-out"
    elements = tab.frame.evaluate("[...document.querySelectorAll('*')].map(each => each.localName)")
    assert set(elements) <= OWN_ELEMENTS
    expect(tab.find("script")).to_have_count(1)
    expect(tab.find("script")).to_have_attribute("src", "../static/page.js")
    assert tab.frame.evaluate(HANDLERS) == 0


def test_hostile_texts_are_there_to_read_as_they_are_without_marks_that_turn_text_around(tab: Tab) -> None:
    why = tab.group("visit").locator(".failed tbody tr").first.locator("td").nth(1)
    expect(why).to_have_text(
        "ValueError: <script>document.title='gone'</script><img src=x onerror=\"document.title='gone'\"> '\"&"
    )
    shown = tab.frame.evaluate("document.body.innerText")
    assert "\\u{202e}gnp.exe" in shown
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")


def test_a_text_of_10000_characters_makes_the_page_neither_wide_nor_endless(tab: Tab) -> None:
    assert tab.frame.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    heights = "rows => rows.map(row => row.offsetHeight)"
    assert max(tab.group("visit").locator(".failed tbody tr").evaluate_all(heights)) < 300
    assert set(tab.group("read").locator(".row").evaluate_all(heights)) == {28}


def test_a_long_name_of_what_failed_is_read_in_lines_and_not_by_letters(tab: Tab) -> None:
    name = tab.group("read").locator(".failed tbody th")
    assert len(name.inner_text()) / name.evaluate(LINES) >= 25


def test_the_policy_stops_what_would_get_past_all_that(open_tab: Open, runs: Runs) -> None:
    """The other tests rely on violations being told."""
    tab = open_tab(runs.finished("tab_plain"))
    tab.frame.evaluate(INJECT)
    tab.frame.evaluate("new Promise(requestAnimationFrame)")
    assert tab.page.title() == "Fan-out"
    assert any("script-src-elem" in each for each in tab.take_complaints())
