from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Instance, Run

pytestmark = [pytest.mark.e2e, pytest.mark.commands]

Case = tuple[str, str, int, int, tuple[str, str]]
"""Dag, group, how many are declared, how many tasks run at once, what sets that and where."""

CASES = [
    pytest.param(("limits", "pool", 4, 2, ("pool", "e2e_two")), id="pool"),
    pytest.param(("limits", "pool_slots", 4, 2, ("pool", "e2e_five")), id="pool_slots"),
    pytest.param(("limits", "mapped", 4, 2, ("max_concurrency", "mapped")), id="max_concurrency"),
    pytest.param(
        ("limits", "batched", 8, 2, ("max_concurrency", "batched")), id="max_concurrency of batches"
    ),
    pytest.param(
        ("limits", "instances", 4, 2, ("max_active_tis_per_dagrun", "instances.each")),
        id="max_active_tis_per_dagrun",
    ),
    pytest.param(("limits", "few", 3, 3, ("branches", "few")), id="fewer branches than slots"),
    pytest.param(("limits", "many", 12, 10, ("core.parallelism", "")), id="parallelism"),
    pytest.param(("limits_of_the_dag", "work", 5, 3, ("max_active_tasks", "the Dag")), id="max_active_tasks"),
]


@pytest.fixture(scope="module")
def checked(airflow: ControlledAirflow, limit_runs: dict[str, Run]) -> dict[str, dict[str, Any]]:
    """What the command says of every Dag of the folder."""
    completed = airflow.command("fanout", "check", "--all", "--output", "json")
    assert completed.returncode in {0, 1}, completed.stderr
    said = json.loads(completed.stdout)
    assert said["import_errors"] == []
    return {dag["dag_id"]: dag for dag in said["dags"]}


def most_at_once(instances: list[Instance]) -> int:
    """Count how many run at the busiest moment; who ends makes room for who starts then."""
    moments = sorted([(each.start, 1) for each in instances] + [(each.end, -1) for each in instances])
    running = most = 0
    for _, change in moments:
        running += change
        most = max(most, running)
    return most


@pytest.mark.parametrize("case", CASES)
def test_the_number_and_its_cause_are_told_and_a_run_keeps_to_them(
    checked: dict[str, dict[str, Any]], limit_runs: dict[str, Run], case: Case
) -> None:
    dag_id, group_id, declared, effective, limit = case
    (group,) = (each for each in checked[dag_id]["groups"] if each["group_id"] == group_id)
    cause = (group["limit"]["name"], group["limit"]["where"])

    assert (group["declared"], group["effective"], cause) == (declared, effective, limit)

    run = limit_runs[dag_id]
    branches = [
        found
        for (task_id, _), found in run.instances.items()
        if task_id.startswith(f"{group_id}.") and not task_id.endswith(".split")
    ]
    assert {branch.state for branch in branches} == {"success"}
    assert effective - 1 <= most_at_once(branches) <= effective


def test_batches_are_told_in_items_too(checked: dict[str, dict[str, Any]]) -> None:
    (group,) = (each for each in checked["limits"]["groups"] if each["group_id"] == "batched")

    assert (group["tasks"], group["effective_items"]) == (4, 4)


def test_nothing_is_wrong_with_dags_that_run(checked: dict[str, dict[str, Any]]) -> None:
    assert [dag_id for dag_id in ("limits", "limits_of_the_dag") if checked[dag_id]["problems"]] == []


def test_prefixes_that_fail_their_fan_ins_are_told_before(checked: dict[str, dict[str, Any]]) -> None:
    problems = {(problem["kind"], *problem["task_ids"]) for problem in checked["prefix"]["problems"]}

    assert problems == {
        ("prefix_matches_nothing", "collect_nothing"),
        ("prefix_matches_others", "collect_stray"),
    }
