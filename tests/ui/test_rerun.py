"""What failed is run again, with the button: of 120 branches 60 failed, in a round that was written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import RunKey
    from tests.ui.tab import Open, Tab

SCRIPT = Path(__file__).parents[1] / "e2e" / "write_round.py"
DAG_ID = "rerun_many"
FAILED = [f"static.static_{index}" for index in range(1, 120, 2)]


@pytest.fixture(scope="module")
def run(airflow: AirflowWithUsers) -> RunKey:
    """Two groups of which branches failed; the Dag is paused, so that nothing runs until a test wants it."""
    airflow.wait_for_dag(DAG_ID, timeout=180)
    run = (DAG_ID, airflow.trigger(DAG_ID))
    failed = [*FAILED, "mapped.each[7]", "collect_static", "collect_mapped"]
    airflow.run_script(SCRIPT, {**dict.fromkeys(failed, "failed"), "add": "upstream_failed"}, *run)
    return run


@pytest.fixture
def tab(open_tab: Open, run: RunKey) -> Tab:
    return open_tab(run)


def states(airflow: AirflowWithUsers, run: RunKey) -> dict[tuple[str, int], str | None]:
    return {(ti["task_id"], ti["map_index"]): ti["state"] for ti in airflow.task_instances(*run)}


def test_the_dialog_lists_exactly_what_will_be_cleared_with_numbers(tab: Tab) -> None:
    dialog = tab.open_dialog("static")
    expect(dialog.get_by_role("heading", level=2)).to_have_text("Run again what failed in static")
    expect(dialog.locator(".sum")).to_have_text("62 task instances will be cleared, and run again.")
    lists = {
        box.locator("h3").inner_text(): [item.strip() for item in box.locator("li").all_inner_texts()]
        for box in dialog.locator(".plan > div").all()
    }
    assert lists == {
        "Branches of static: 60": [f"{task_id} (failed)" for task_id in FAILED],
        "Fan-in: 1": ["collect_static (failed)"],
        "Downstream of the fan-in: 1": ["add (upstream_failed)"],
    }
    expect(dialog.get_by_role("button", name="Clear 62 task instances")).to_be_enabled()
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()


def test_exactly_these_are_cleared_and_shown_until_they_have_run(
    airflow: AirflowWithUsers, tab: Tab, run: RunKey
) -> None:
    before = states(airflow, run)
    expect(tab.group("static").locator(".head")).to_have_text("120 of 120 branches done · 60 failed")

    tab.open_dialog("static").get_by_role("button", name="Clear 62 task instances").click()

    expect(tab.find("#notice")).to_have_text(
        "Cleared 62 task instances. The Dag is paused: unpause it, and they run."
    )
    expect(tab.group("static").locator(".head")).to_have_text("60 of 120 branches done · 60 waiting")
    expect(tab.group("static").get_by_role("button", name="Run failed again…")).to_be_hidden()
    after = states(airflow, run)
    cleared = {*((task_id, -1) for task_id in FAILED), ("collect_static", -1), ("add", -1)}
    assert {key for key in before if after[key] != before[key]} == cleared
    assert {after[key] for key in cleared} == {None}

    airflow.request("PATCH", f"dags/{DAG_ID}", json={"is_paused": False})
    # The page asks by itself, and is not touched.
    chips = tab.group("static").locator(".by-state button")
    chips.filter(has_text=re.compile("running|queued")).first.wait_for()
    airflow.wait_for_run(*run, timeout=300)
    expect(tab.group("static").locator(".head")).to_have_text("120 of 120 branches done", timeout=30_000)
    expect(tab.group("mapped").locator(".head")).to_have_text("300 of 300 branches done · 1 failed")
    tries = {ti["task_id"]: ti["try_number"] for ti in airflow.task_instances(*run) if ti["map_index"] < 0}
    assert {task_id for task_id, number in tries.items() if number == 2} == {*FAILED, "collect_static"}


def test_what_has_changed_since_it_was_shown_is_shown_anew_and_nothing_is_cleared(
    airflow: AirflowWithUsers, open_tab: Open, run: RunKey
) -> None:
    airflow.request("PATCH", f"dags/{DAG_ID}", json={"is_paused": True})
    tab = open_tab(run, expect=(409,))
    dialog = tab.open_dialog("mapped")
    expect(dialog.locator("li", has_text="mapped.each[7] (failed)")).to_have_count(1)
    expect(dialog.locator("li", has_text="mapped.each[9] (failed)")).to_have_count(0)
    airflow.set_state(*run, "mapped.each", "failed", map_index=9)
    before = states(airflow, run)

    dialog.locator(".confirm").click()

    expect(dialog.locator(".problem")).to_contain_text("Nothing was cleared")
    expect(dialog.locator("li", has_text="mapped.each[9] (failed)")).to_have_count(1)
    expect(dialog.locator(".confirm")).to_be_enabled()
    assert states(airflow, run) == before
