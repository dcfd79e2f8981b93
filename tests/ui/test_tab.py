"""What the tab shows of real runs, and what can be chosen there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect

from airflow_fanout.rules.wording import format_seconds

if TYPE_CHECKING:
    from playwright.sync_api import Locator

    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import Runs
    from tests.ui.tab import Open, Tab

DURATIONS = [
    *(None, 0, 0.0004, 0.04, 0.0994, 0.0999, 3, 59.94, 59.96),
    *(72, 3599.4, 3599.6, 7500, 86_369, 86_371, 1e8),
]


def reported(tab: Tab, title: str) -> dict[str, Any]:
    """What the page was given of a group."""
    answer = tab.asked("report")[0].response()
    assert answer is not None
    (group,) = (group for group in answer.json()["report"]["groups"] if group["title"] == title)
    assert isinstance(group, dict)
    return group


def chips(group: Locator) -> Locator:
    return group.locator(".by-state button")


class TestStatic:
    """Twelve branches: one failed at first, two for good, one skipped itself."""

    @pytest.fixture
    def visit(self, tab: Tab) -> Locator:
        return tab.group("visit")

    def test_headline_and_figures_are_those_of_the_report(self, tab: Tab, visit: Locator) -> None:
        expect(visit.locator(".head")).to_have_text(
            "12 of 12 branches done · 2 failed · 1 skipped · degraded"
        )
        expect(visit.locator(".mode")).to_have_text("static")
        shown = [
            figure.locator("dt, dd").all_inner_texts() for figure in visit.locator(".figures > div").all()
        ]
        assert shown == [list(figure.values()) for figure in reported(tab, "visit")["figures"]]
        assert ["Limit", "8", "12 branches, at most 8 at once: core.parallelism is 8"] in shown

    def test_durations_are_written_as_in_the_report(self, tab: Tab) -> None:
        script = "async (all) => all.map((await import('../static/format.js')).duration)"
        assert tab.frame.evaluate(script, DURATIONS) == [format_seconds(seconds) for seconds in DURATIONS]

    def test_the_failed_are_listed_with_why_and_how_often_they_were_tried(self, visit: Locator) -> None:
        expect(visit.locator(".failed summary")).to_have_text("2 of 12 branches failed")
        rows = visit.locator(".failed tbody tr").all()
        assert [row.locator("th").inner_text() for row in rows] == ["visit_2", "visit_3"]
        cells = [row.locator("td").all_inner_texts() for row in rows]
        assert [(state, tries) for state, _, tries, _ in cells] == [("failed", "2"), ("failed", "2")]
        assert cells[0][1].startswith("ValueError: <script>document.title='gone'</script>")
        assert cells[1][1].startswith("ValueError: \\u202egnp.exelong long ")
        assert len(cells[1][1]) <= 500

    def test_a_state_chip_leaves_the_branches_of_that_state(self, tab: Tab, visit: Locator) -> None:
        assert chips(visit).all_inner_texts() == ["failed 2", "skipped 1", "success 9"]
        chips(visit).filter(has_text="failed").click()
        assert tab.rows("visit") == ["visit_2", "visit_3"]
        chips(visit).filter(has_text="skipped").click()
        assert tab.rows("visit") == ["visit_2", "visit_3", "visit_5"]
        expect(chips(visit).filter(has_text="failed")).to_have_attribute("aria-pressed", "true")
        chips(visit).filter(has_text="failed").click()
        assert tab.rows("visit") == ["visit_5"]

    def test_a_name_leaves_the_branches_that_have_it(self, tab: Tab, visit: Locator) -> None:
        visit.get_by_label("Filter by name").fill("VISIT_1")
        assert tab.rows("visit") == ["visit_1", "visit_10", "visit_11"]
        visit.get_by_label("Filter by name").fill("nowhere")
        assert tab.rows("visit") == []
        content = visit.locator(".scroller.empty").evaluate("box => getComputedStyle(box, '::after').content")
        assert "No branch fits" in content

    def test_branches_are_sorted_as_one_chooses(self, tab: Tab, visit: Locator) -> None:
        declared = [f"visit_{index}" for index in range(12)]
        branches = {branch["name"]: branch for branch in reported(tab, "visit")["branches"]}
        sort = visit.get_by_label("Sort by")
        assert tab.rows("visit") == declared
        sort.select_option("name")
        assert tab.rows("visit") == declared  # 10 after 9
        sort.select_option("state")
        assert tab.rows("visit")[:3] == ["visit_2", "visit_3", "visit_5"]
        sort.select_option("duration, longest first")
        longest_first = sorted(declared, key=lambda name: -branches[name]["elapsed_seconds"])
        assert tab.rows("visit") == longest_first
        sort.select_option("start")
        assert tab.rows("visit") == sorted(declared, key=lambda name: branches[name]["started"])

    def test_a_retried_branch_has_a_bar_for_each_try(self, visit: Locator) -> None:
        row = visit.locator(".row", has_text=re.compile("^visit_1[^0-9]"))
        earlier, last = row.locator(".bar.run.earlier"), row.locator(".bar.run:not(.earlier)")
        expect(earlier).to_have_count(1)
        expect(last).to_have_count(1)
        before, after = earlier.bounding_box(), last.bounding_box()
        assert before is not None
        assert after is not None
        assert before["x"] + before["width"] <= after["x"]

    def test_a_branch_that_is_chosen_tells_all_that_is_known(self, visit: Locator) -> None:
        row = visit.locator(".row", has_text="visit_3")
        row.hover()
        expect(visit.locator(".readout")).to_have_text(
            re.compile(r"^visit_3 · failed · queued .+ · ran .+ · work .+ · try 2 · ValueError: ")
        )
        row.click()
        detail = visit.get_by_role("region", name="Chosen branch")
        expect(detail.get_by_role("heading")).to_have_text("visit_3")
        expect(detail.locator(".error")).to_contain_text("ValueError: \\u202egnp.exe")
        expect(detail.locator(".before")).to_contain_text("1 earlier try")
        names, values = (detail.locator(tag).all_inner_texts() for tag in ("dt", "dd"))
        known = dict(zip(names, values, strict=True))
        assert known["Tries"] == "2"
        assert known["Host"] != "–"
        detail.get_by_role("button", name="Close").click()
        expect(detail).to_be_hidden()


class TestBatched:
    """2,000 items in 8 batches, of which four are no good."""

    @pytest.fixture
    def square(self, tab: Tab) -> Locator:
        return tab.group("square")

    def test_headline_and_failed_are_about_items(self, square: Locator) -> None:
        expect(square.locator(".head")).to_have_text(
            "2,000 of 2,000 items done · in 8 batches · 4 failed · degraded"
        )
        expect(square.locator(".failed summary")).to_have_text("4 of 2,000 items failed")
        items = (7, 507, 1007, 1507)
        square.locator(".failed button", has_text="4 items").click()
        rows = square.locator(".failed tbody tr.inside")
        assert rows.locator("th").all_inner_texts() == [f"square_{item}" for item in items]
        errors = rows.locator("td:nth-child(3)").all_inner_texts()
        assert errors == [f"ValueError: {item} is no good" for item in items]
        assert rows.locator("td:nth-child(4)").all_inner_texts() == ["2"] * 4
        expect(square.locator(".figures")).to_contain_text("Retried")

    def test_an_item_says_how_often_it_was_called(self, square: Locator) -> None:
        square.locator(".row.branch").first.click()
        item = square.locator(".row.item").filter(has_text="square_7").first
        item.hover()

        expect(square.locator(".readout")).to_contain_text("square_7 · failed")
        expect(square.locator(".readout")).to_contain_text("· try 2 ·")
        item.click()
        detail = square.get_by_role("region", name="Chosen branch")
        names, values = (detail.locator(tag).all_inner_texts() for tag in ("dt", "dd"))
        assert dict(zip(names, values, strict=True))["Tries"] == "2"

    def test_its_chips_count_items_and_leave_the_batches_that_have_such(
        self, tab: Tab, square: Locator
    ) -> None:
        assert chips(square).all_inner_texts() == ["failed 4", "success 1,996"]

        chips(square).filter(has_text="failed").click()

        shown = [name.removeprefix("▸").strip() for name in tab.rows("square")]
        assert shown == [f"square batch {number}" for number in (0, 2, 4, 6)]

    def test_a_batch_opens_into_its_items_which_are_filtered_and_closes(
        self, tab: Tab, square: Locator
    ) -> None:
        batches, items = square.locator(".row.branch"), square.locator(".row.item")
        expect(batches).to_have_count(8)
        batches.nth(1).click()
        expect(batches.nth(1)).to_have_attribute("aria-expanded", "true")
        expect(items.first).to_contain_text("square_250")
        assert square.get_by_role("treegrid").get_attribute("aria-rowcount") == str(8 + 250)
        assert len(tab.asked("items")) == 1
        square.get_by_label("Filter by name").fill("square_26")
        assert items.locator(".name").all_inner_texts() == [f"square_{item}" for item in range(260, 270)]
        square.get_by_label("Filter by name").fill("")
        batches.nth(1).click()
        expect(items).to_have_count(0)


def test_mapped_instances_are_named_by_their_items(tab: Tab) -> None:
    expect(tab.group("read").locator(".mode")).to_have_text("mapped")
    expect(tab.group("read").locator(".head")).to_have_text("4 of 4 branches done · 1 failed · degraded")
    # A database need not keep the order of a mapping's keys.
    script, right_to_left, long, ordinary = sorted(tab.rows("read"))
    assert script.startswith("<script>")
    assert right_to_left == "\\u{202e}gnp.exe"
    assert long.startswith("long long")
    assert ordinary == "ordinary"


class TestAirflowAround:
    """The tab in Airflow's own page."""

    @pytest.mark.parametrize(
        ("group", "address"),
        [
            pytest.param("visit", r"/dags/tab/runs/[^/]+/tasks/visit\.visit_2\?try_number=2", id="branch"),
            pytest.param("read", r"/tasks/read\.each/mapped/\d", id="instance"),
        ],
    )
    def test_a_log_link_opens_airflows_log_in_the_page_around(
        self, open_tab: Open, runs: Runs, group: str, address: str
    ) -> None:
        tab = open_tab(runs.finished("tab"), framed=True)
        tab.group(group).locator(".failed a").first.click()
        tab.page.wait_for_url(re.compile(address))
        # The log itself: what the task said, in Airflow's viewer.
        expect(tab.page.get_by_text("document.title='gone'").first).to_be_visible()
        expect(tab.page.locator("iframe")).to_have_count(0)

    def test_the_tab_is_on_the_page_of_a_run(self, open_tab: Open, runs: Runs) -> None:
        tab = open_tab(runs.finished("tab_plain"), framed=True)
        dag_id, run_id = tab.run
        tab.page.goto(f"/dags/{dag_id}/runs/{run_id}")
        tab.page.get_by_role("link", name="Fan-out", exact=True).click()
        notice = tab.page.frame_locator("iframe").locator("#notice")
        expect(notice).to_contain_text("Nothing is fanned out in this run")

    @pytest.mark.parametrize("theme", ["light", "dark"])
    def test_it_is_as_light_or_dark_as_airflow_and_follows_when_that_is_switched(
        self, open_tab: Open, runs: Runs, theme: str
    ) -> None:
        tab = open_tab(runs.finished("tab_failed"), framed=True, theme=theme)
        assert tab.frame.evaluate("document.documentElement.dataset.theme") == theme
        token = "getComputedStyle(document.documentElement).getPropertyValue('--chakra-colors-bg')"
        around = tab.page.evaluate(token)
        own = tab.frame.evaluate("document.documentElement.style.getPropertyValue('--bg')")
        assert own == around.strip() != ""
        other = {"light": "dark", "dark": "light"}[theme]
        tab.page.evaluate(f"document.documentElement.classList.replace('{theme}', '{other}')")
        tab.find(f":root[data-theme={other}]").wait_for()


class TestOtherRuns:
    @pytest.mark.parametrize("user", ["admin", "viewer"])
    def test_a_failed_run_is_not_degraded_and_has_the_button_for_who_may_clear(
        self, open_tab: Open, runs: Runs, user: str
    ) -> None:
        visit = open_tab(runs.finished("tab_failed"), user=user).group("visit")
        expect(visit.locator(".head")).to_have_text("6 of 6 branches done · 3 failed · 1 skipped")
        expect(visit.get_by_role("button", name="Run failed again…")).to_have_count(int(user == "admin"))

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

    def test_a_run_is_shown_as_its_dag_was_then_and_without_failures_has_no_list_and_no_button(
        self, open_tab: Open, runs: Runs, airflow: AirflowWithUsers
    ) -> None:
        run = runs.finished("tab_changed")
        runs.change_dag("tab_changed", '"early", 3', '"late", 5')
        tab = open_tab(run)
        early = tab.group("early")
        expect(early.locator(".head")).to_have_text("3 of 3 branches done")
        expect(early.locator(".failed")).to_be_hidden()
        expect(early.get_by_role("button", name="Run failed again…")).to_have_count(0)
        expect(tab.find("section.group")).to_have_count(1)
