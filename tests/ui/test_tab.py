"""What the tab shows of real runs, and what can be chosen there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import Runs
    from tests.ui.tab import Tab

    Open = Callable[..., Tab]


def figures(tab: Tab, title: str) -> dict[str, str]:
    pairs = tab.group(title).locator(".figures > div").all()
    return {pair.locator("dt").inner_text(): pair.locator("dd").inner_text() for pair in pairs}


class TestStatic:
    """Twelve branches: one failed at first, two for good, one skipped itself."""

    @pytest.fixture
    def tab(self, open_tab: Open, runs: Runs) -> Tab:
        return open_tab(runs.finished("tab"))

    def test_the_head_says_how_far_it_is_and_what_went_wrong(self, tab: Tab) -> None:
        expect(tab.group("visit").locator(".head")).to_have_text(
            "12 of 12 branches done · 2 failed · 1 skipped · degraded"
        )
        expect(tab.group("visit").locator(".mode")).to_have_text("static")

    def test_the_figures_are_those_of_the_report(self, tab: Tab) -> None:
        shown = figures(tab, "visit")
        assert list(shown) == [
            *("Work", "Wall", "Speed-up", "Overhead", "At once", "Possible at once"),
            *("CPU", "Memory", "Slowest"),
        ]
        assert re.fullmatch(r"\d+ of 12", shown["At once"])
        assert shown["Possible at once"] == "8"
        assert re.fullmatch(r"[\d.]+×", shown["Speed-up"])
        expect(tab.group("visit").locator(".limit")).to_contain_text("parallelism")

    def test_the_failed_are_listed_with_why_and_how_often_they_were_tried(self, tab: Tab) -> None:
        failed = tab.group("visit").locator(".failed")
        expect(failed.locator("summary")).to_have_text("Failed: 2 branches")
        rows = failed.locator("tbody tr").all()
        assert [row.locator("th").inner_text() for row in rows] == ["visit_2", "visit_3"]
        cells = [[cell.inner_text() for cell in row.locator("td").all()] for row in rows]
        assert [(state, tries) for state, _, tries, _ in cells] == [("failed", "2"), ("failed", "2")]
        assert cells[0][1].startswith("ValueError: <script>document.title='gone'</script>")
        assert cells[1][1].startswith("ValueError: \\u202egnp.exelong long ")
        assert len(cells[1][1]) <= 500

    def test_a_state_chip_leaves_the_branches_of_that_state(self, tab: Tab) -> None:
        chips = tab.group("visit").locator(".by-state button")
        assert chips.all_inner_texts() == ["failed 2", "skipped 1", "success 9"]
        chips.filter(has_text="failed").click()
        assert tab.rows("visit") == ["visit_2", "visit_3"]
        chips.filter(has_text="skipped").click()
        assert tab.rows("visit") == ["visit_2", "visit_3", "visit_5"]
        expect(chips.filter(has_text="failed")).to_have_attribute("aria-pressed", "true")
        chips.filter(has_text="failed").click()
        assert tab.rows("visit") == ["visit_5"]

    def test_a_name_leaves_the_branches_that_have_it(self, tab: Tab) -> None:
        tab.group("visit").get_by_label("Filter by name").fill("VISIT_1")
        assert tab.rows("visit") == ["visit_1", "visit_10", "visit_11"]
        tab.group("visit").get_by_label("Filter by name").fill("nowhere")
        assert tab.rows("visit") == []
        empty = tab.group("visit").locator(".scroller.empty")
        assert "No branch fits" in empty.evaluate("each => getComputedStyle(each, '::after').content")

    def test_branches_are_sorted_as_one_chooses(self, tab: Tab) -> None:
        declared = [f"visit_{index}" for index in range(12)]
        sort = tab.group("visit").get_by_label("Sort by")
        assert tab.rows("visit") == declared
        sort.select_option("name")
        assert tab.rows("visit") == declared  # 10 after 9
        sort.select_option("state")
        assert tab.rows("visit")[:3] == ["visit_2", "visit_3", "visit_5"]
        sort.select_option("duration, longest first")
        took = [seconds(text) for text in tab.group("visit").locator(".row .took").all_inner_texts()]
        assert took == sorted(took, reverse=True)
        assert len(took) == 12
        sort.select_option("start")
        (asked,) = tab.asked("report")
        answer = asked.response()
        assert answer is not None
        (group,) = (each for each in answer.json()["report"]["groups"] if each["title"] == "visit")
        began = {each["name"]: each["started"] for each in group["branches"]}
        assert tab.rows("visit") == sorted(declared, key=lambda name: began[name])

    def test_a_retried_branch_has_a_bar_for_each_try(self, tab: Tab) -> None:
        row = tab.group("visit").locator(".row", has_text=re.compile("^visit_1[^0-9]"))
        expect(row.locator(".bar.run.earlier")).to_have_count(1)
        expect(row.locator(".bar.run:not(.earlier)")).to_have_count(1)
        earlier = row.locator(".bar.run.earlier").bounding_box()
        last = row.locator(".bar.run:not(.earlier)").bounding_box()
        assert earlier is not None
        assert last is not None
        assert earlier["x"] + earlier["width"] <= last["x"]

    def test_a_branch_that_is_chosen_tells_all_that_is_known(self, tab: Tab) -> None:
        tab.group("visit").locator(".row", has_text="visit_3").click()
        detail = tab.group("visit").get_by_role("region", name="Chosen branch")
        expect(detail.get_by_role("heading")).to_have_text("visit_3")
        expect(detail.locator(".error")).to_contain_text("ValueError: \\u202egnp.exe")
        expect(detail.locator(".before")).to_contain_text("1 earlier try")
        names, values = (detail.locator(each).all_inner_texts() for each in ("dt", "dd"))
        known = dict(zip(names, values, strict=True))
        assert known["Tries"] == "2"
        assert known["Host"] != "–"
        detail.get_by_role("button", name="Close").click()
        expect(detail).to_be_hidden()

    def test_a_click_opens_the_row_that_is_clicked_wherever_one_has_scrolled(
        self, open_tab: Open, runs: Runs
    ) -> None:
        tab = open_tab(runs.finished("tab_many"))
        tab.group("give").locator(".scroller").evaluate("each => { each.scrollTop = 28 * 150 }")
        row = tab.group("give").locator(".row", has_text="give_152")
        row.click()
        detail = tab.group("give").get_by_role("region", name="Chosen branch")
        expect(detail.get_by_role("heading")).to_have_text("give_152")
        assert tab.group("give").locator(".scroller").evaluate("each => each.scrollTop") == 28 * 150

    def test_a_row_that_is_pointed_at_is_read_out_in_one_line(self, tab: Tab) -> None:
        tab.group("visit").locator(".row", has_text="visit_3").hover()
        expect(tab.group("visit").locator(".readout")).to_have_text(
            re.compile(r"^visit_3 · failed · queued .+ · ran .+ · work .+ · try 2 · ValueError: ")
        )


def seconds(text: str) -> float:
    """Read a duration as the tab writes it; what has none is the shortest."""
    units = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0}
    if text == "–":
        return -1.0
    words = text.split()
    return sum(float(number) * units[unit] for number, unit in zip(words[::2], words[1::2], strict=True))


class TestAirflowAround:
    """The tab in Airflow's own page."""

    def test_a_log_link_opens_airflows_log_in_the_page_around(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab"), framed=True)
        tab.group("visit").get_by_role("link", name="Log of visit_2").click()
        tab.page.wait_for_url(re.compile(r"/dags/tab/runs/[^/]+/tasks/visit\.visit_2\?try_number=2"))
        # The log itself: what the task said, in Airflow's viewer.
        expect(tab.page.get_by_text("document.title='gone'").first).to_be_visible()
        expect(tab.page.locator("iframe")).to_have_count(0)

    def test_a_mapped_branchs_log_is_that_of_its_instance(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab"), framed=True)
        tab.group("read").locator(".failed a").first.click()
        tab.page.wait_for_url(re.compile(r"/tasks/read\.each/mapped/\d"))

    def test_the_tab_is_on_the_page_of_a_run(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_plain"), framed=True)
        dag_id, run_id = tab.run
        tab.page.goto(f"/dags/{dag_id}/runs/{run_id}")
        tab.page.get_by_role("link", name="Fan-out", exact=True).click()
        notice = tab.page.frame_locator("iframe").locator("#notice")
        expect(notice).to_contain_text("Nothing is fanned out in this run")

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_it_is_as_light_or_dark_as_airflow(self, open_tab: Open, runs: Runs, theme: str) -> None:
        tab = open_tab(runs.finished("tab_failed"), framed=True, theme=theme)
        assert tab.frame.evaluate("document.documentElement.dataset.theme") == theme
        token = "getComputedStyle(document.documentElement).getPropertyValue('--chakra-colors-bg')"
        around = tab.page.evaluate(token)
        own = tab.frame.evaluate("document.documentElement.style.getPropertyValue('--bg')")
        assert own == around.strip() != ""

    def test_it_follows_when_airflow_is_switched(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_failed"), framed=True)
        tab.page.evaluate("document.documentElement.classList.replace('light', 'dark')")
        tab.find(":root[data-theme=dark]").wait_for()


class TestBatched:
    """2,000 items in 8 batches, of which four are no good."""

    @pytest.fixture
    def tab(self, open_tab: Open, runs: Runs) -> Tab:
        return open_tab(runs.finished("tab"))

    def test_the_head_counts_items(self, tab: Tab) -> None:
        expect(tab.group("square").locator(".head")).to_have_text(
            "2,000 of 2,000 items done · in 8 batches · 4 failed · degraded"
        )

    def test_its_chips_count_items_and_leave_the_batches_that_have_such(self, tab: Tab) -> None:
        chips = tab.group("square").locator(".by-state button")
        assert chips.all_inner_texts() == ["failed 4", "success 1,996"]

        chips.filter(has_text="failed").click()

        shown = [name.removeprefix("▸").strip() for name in tab.rows("square")]
        assert shown == [f"square batch {number}" for number in (0, 2, 4, 6)]

    def test_the_failed_are_items(self, tab: Tab) -> None:
        failed = tab.group("square").locator(".failed")
        expect(failed.locator("summary")).to_have_text("Failed: 4 items")
        names = [f"square_{index}" for index in (7, 507, 1007, 1507)]
        assert failed.locator("tbody th").all_inner_texts() == names
        said = failed.locator("tbody td:nth-child(3)").all_inner_texts()
        assert said == [f"ValueError: {index} is no good" for index in (7, 507, 1007, 1507)]

    def test_a_batch_opens_into_its_items_and_closes(self, tab: Tab) -> None:
        group = tab.group("square")
        batches = group.locator(".row.branch")
        expect(batches).to_have_count(8)
        batches.nth(1).click()
        expect(batches.nth(1)).to_have_attribute("aria-expanded", "true")
        expect(group.locator(".row.item").first).to_contain_text("square_250")
        assert group.get_by_role("treegrid").get_attribute("aria-rowcount") == str(8 + 250)
        assert len(tab.asked("items")) == 1
        batches.nth(1).click()
        expect(group.locator(".row.item")).to_have_count(0)

    def test_an_opened_batchs_items_are_filtered(self, tab: Tab) -> None:
        group = tab.group("square")
        group.locator(".row.branch").first.click()
        expect(group.locator(".row.item").first).to_be_visible()
        group.get_by_label("Filter by name").fill("square_11")
        names = group.locator(".row.item .name").all_inner_texts()
        assert names == ["square_11", *(f"square_{index}" for index in range(110, 120))]


class TestMapped:
    def test_instances_are_named_by_their_items(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab"))
        expect(tab.group("read").locator(".head")).to_have_text("4 of 4 branches done · 1 failed · degraded")
        # A database need not keep the order of a mapping's keys.
        script, right_to_left, long, ordinary = sorted(tab.rows("read"))
        assert script.startswith("<script>")
        assert right_to_left == "\\u{202e}gnp.exe"
        assert long.startswith("long long")
        assert ordinary == "ordinary"

    def test_300_instances_are_all_there_and_few_in_the_document(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_many"))
        expect(tab.group("give").locator(".head")).to_have_text("300 of 300 branches done")
        expect(tab.group("give").locator(".mode")).to_have_text("mapped")
        assert tab.group("give").get_by_role("treegrid").get_attribute("aria-rowcount") == "300"
        assert tab.group("give").locator(".row").count() < 100
        tab.group("give").get_by_role("treegrid").focus()
        tab.page.keyboard.press("End")
        assert tab.rows("give")[-1] == "give_299"


class TestOtherRuns:
    def test_a_failed_run_is_not_degraded_and_has_the_button(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_failed"))
        expect(tab.group("visit").locator(".head")).to_have_text(
            "6 of 6 branches done · 3 failed · 1 skipped"
        )
        expect(tab.group("visit").get_by_role("button", name="Run failed again…")).to_be_visible()

    def test_a_viewer_sees_the_same_without_the_button(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_failed"), user="viewer")
        expect(tab.group("visit").locator(".failed summary")).to_have_text("Failed: 3 branches")
        expect(tab.group("visit").get_by_role("button", name="Run failed again…")).to_have_count(0)

    def test_a_group_without_failures_has_no_button(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_many"))
        expect(tab.group("give").get_by_role("button", name="Run failed again…")).to_have_count(0)
        expect(tab.group("give").locator(".failed")).to_be_hidden()

    def test_a_run_that_fans_nothing_out_says_so_in_one_line(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_plain"))
        expect(tab.find("#notice")).to_have_text(
            "Nothing is fanned out in this run that a fan-in collects, so there is nothing to show here."
        )
        expect(tab.find("section.group")).to_have_count(0)

    def test_a_run_that_is_not_there_is_named(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_plain"), expect=(404,))
        tab.page.goto("/fan-out/dags/tab_plain/page/never")
        expect(tab.find("#notice")).to_contain_text("Dag 'tab_plain' has no run 'never'")

    def test_a_run_is_shown_as_its_dag_was_then(
        self, open_tab: Open, runs: Runs, airflow: AirflowWithUsers
    ) -> None:
        run = runs.finished("tab_changed")
        runs.change_dag("tab_changed", '"early", 3', '"late", 5')
        tab = open_tab(run)
        expect(tab.group("early").locator(".head")).to_have_text("3 of 3 branches done")
        expect(tab.find("section.group")).to_have_count(1)
