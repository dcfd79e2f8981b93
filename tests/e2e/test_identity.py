from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Collected, Run

pytestmark = pytest.mark.e2e

NAMES = [f"process_{index}" for index in range(12)]


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("identity")


@pytest.fixture(scope="module")
def combined(run: Run) -> Collected:
    return run.collected("combine")


def test_every_declared_branch_has_an_outcome_and_10_comes_after_9(combined: Collected) -> None:
    assert list(combined.outcomes) == NAMES


def test_an_outcome_says_where_it_comes_from(combined: Collected) -> None:
    assert [(o["index"], o["task_id"], o["map_index"]) for o in combined.outcomes.values()] == [
        (index, f"process.{name}", -1) for index, name in enumerate(NAMES)
    ]


def test_every_state_is_the_branchs_own(combined: Collected) -> None:
    unsuccessful = {"process_4": "failed", "process_5": "skipped"}
    assert combined.states == {name: unsuccessful.get(name, "success") for name in NAMES}


def test_every_value_is_under_its_own_name_in_order(combined: Collected) -> None:
    assert combined.items == [
        ("process_0", "value of 0, try 1"),
        ("process_1", None),
        ("process_2", 0),
        ("process_3", ""),
        ("process_6", "value of 6, try 2"),
        ("process_7", "value of 7, try 1"),
        ("process_8", "value of 8, try 1"),
        ("process_9", "value of 9, try 1"),
        ("process_10", "value of 10, try 1"),
        ("process_11", "value of 11, try 1"),
    ]


def test_a_failed_branch_has_no_value_though_it_pushed_one(combined: Collected) -> None:
    assert combined.outcomes["process_4"]["value"] is None


def test_a_failed_branch_has_the_error_of_its_last_try(combined: Collected) -> None:
    assert combined.outcomes["process_4"]["error"] == "ValueError: broken on try 2"


def test_a_branch_that_succeeded_on_its_retry_has_no_error(combined: Collected) -> None:
    assert combined.outcomes["process_6"]["error"] is None


def test_parts_of_the_outcomes_name_the_failed_and_the_skipped(combined: Collected) -> None:
    assert (combined.failed, combined.skipped, combined.missing) == (["process_4"], ["process_5"], [])


def test_durations_are_those_that_airflow_shows(run: Run, combined: Collected) -> None:
    for name, outcome in combined.outcomes.items():
        assert outcome["duration"] == run.instance(f"process.{name}").duration


def test_a_failed_branch_and_a_none_cost_one_request_each(run: Run) -> None:
    requests = run.xcom("combine", "requests")
    assert sum(requests.values()) <= len(NAMES) + 3 + 1


def test_a_tolerated_failure_makes_the_report_degraded(run: Run) -> None:
    report = run.report("combine")
    seconds = {name: report.pop(name) for name in ("total_branch_seconds", "longest_branch_seconds")}
    assert report.pop("longest_branch") in NAMES
    assert 0 < seconds["longest_branch_seconds"] < seconds["total_branch_seconds"]
    assert report == {
        "expected": 12,
        "counted": 11,
        "succeeded": 10,
        "failed": 1,
        "skipped": 1,
        "missing": 0,
        "degraded": True,
        "problems": [{"name": "process_4", "state": "failed", "error": "ValueError: broken on try 2"}],
    }


def test_a_tolerated_failure_is_named_in_the_log(run: Run) -> None:
    log = run.log("combine")
    assert "Degraded: 10 of 11 branches succeeded" in log
    assert "process_4: failed: ValueError: broken on try 2" in log


def test_without_a_function_another_fan_in_of_the_group_returns_its_values(
    run: Run, combined: Collected
) -> None:
    assert list(run.xcom("values").items()) == combined.items


def test_another_key_has_values_of_its_own(run: Run) -> None:
    scores = [(name, index * 10) for index, name in enumerate(NAMES) if index not in {4, 5, 10, 11}]
    assert run.collected("scores").items == [*scores, ("process_10", None)]


def test_a_success_that_pushed_nothing_under_another_key_is_missing(run: Run) -> None:
    assert run.collected("scores").missing == ["process_11"]
