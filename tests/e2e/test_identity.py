"""Static groups: each branch has its name, its state, its value and its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Collected, Run

DAG_ID = "identity"

NAMES = [f"process_{index}" for index in range(12)]


@pytest.fixture(scope="module")
def combined(run: Run) -> Collected:
    return run.collected("combine")


def test_every_branch_has_its_own_outcome_and_10_comes_after_9(run: Run, combined: Collected) -> None:
    states = {4: "failed", 5: "skipped"}
    outcomes = combined.outcomes.values()
    assert [(o["name"], o["index"], o["task_id"], o["map_index"], o["state"]) for o in outcomes] == [
        (name, index, f"process.{name}", -1, states.get(index, "success")) for index, name in enumerate(NAMES)
    ]
    assert {o["task_id"]: o["duration"] for o in outcomes} == {
        f"process.{name}": run.instance(f"process.{name}").duration for name in NAMES
    }
    assert (combined.failed, combined.skipped, combined.missing) == (["process_4"], ["process_5"], [])


def test_every_value_is_under_its_own_name_in_order(run: Run, combined: Collected) -> None:
    values = {1: None, 2: 0, 3: "", 6: "value of 6, try 2"}
    assert combined.items == [
        (name, values.get(index, f"value of {index}, try 1"))
        for index, name in enumerate(NAMES)
        if index not in {4, 5}
    ]
    assert list(run.xcom("values").items()) == combined.items


def test_a_failed_branch_has_the_error_of_its_last_try_and_no_value_though_it_pushed_one(
    combined: Collected,
) -> None:
    outcome = combined.outcomes["process_4"]
    assert (outcome["error"], outcome["value"]) == ("ValueError: broken on try 2", None)
    assert combined.outcomes["process_6"]["error"] is None


def test_a_failed_branch_and_a_none_cost_one_request_each(run: Run) -> None:
    assert run.requests("combine") <= len(NAMES) + 3 + 1


def test_a_tolerated_failure_makes_the_report_degraded_and_is_named_in_the_log(run: Run) -> None:
    report = run.report("combine")
    seconds = {name: report.pop(name) for name in ("total_branch_seconds", "longest_branch_seconds")}
    assert report.pop("longest_branch") in NAMES
    assert 0 < seconds["longest_branch_seconds"] < seconds["total_branch_seconds"]
    assert report == {
        "expected": 12,
        "counted": 11,
        "needed": 10,
        "succeeded": 10,
        "failed": 1,
        "skipped": 1,
        "missing": 0,
        "degraded": True,
        "reused": 0,
        "problems": [{"name": "process_4", "state": "failed", "error": "ValueError: broken on try 2"}],
        "errors": [
            {
                "state": "failed",
                "error": "ValueError: broken on try 2",
                "branches": 1,
                "names": ["process_4"],
            },
        ],
    }
    log = run.log("combine")
    assert "Degraded: 10 of 11 branches succeeded" in log
    assert "process_4: failed: ValueError: broken on try 2" in log


def test_another_key_has_values_of_its_own_and_what_pushed_none_is_missing(run: Run) -> None:
    scores = [(name, index * 10) for index, name in enumerate(NAMES) if index not in {4, 5, 10, 11}]
    assert run.collected("scores").items == [*scores, ("process_10", None)]
    assert run.collected("scores").missing == ["process_11"]
