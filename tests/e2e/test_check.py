"""``airflow fanout check`` beside runs that keep to the numbers that it says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Instance, Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checked(airflow: ControlledAirflow, limit_runs: dict[str, Run]) -> dict[str, dict[str, Any]]:
    """What the command says of every Dag of the folder, by id."""
    ended = airflow.command("fanout", "check", "--all", "--output", "json")
    assert ended.returncode in {0, 1}, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["import_errors"] == []
    return {dag["dag_id"]: dag for dag in answer["dags"]}


def peak_concurrency(instances: list[Instance]) -> int:
    """Count how many run at the busiest moment; who ends makes room for who starts then."""
    changes = sorted([(one.start, 1) for one in instances] + [(one.end, -1) for one in instances])
    running = peak = 0
    for _, change in changes:
        running += change
        peak = max(peak, running)
    return peak


@pytest.mark.parametrize(
    ("dag_id", "expected"),
    [
        ("limits", ("pool", 4, 2, "pool", "e2e_two")),
        ("limits", ("pool_slots", 4, 2, "pool", "e2e_five")),
        ("limits", ("mapped", 4, 2, "max_concurrency", "mapped")),
        ("limits", ("batched", 8, 2, "max_concurrency", "batched")),
        ("limits", ("instances", 4, 2, "max_active_tis_per_dagrun", "instances.each")),
        ("limits", ("few", 3, 3, "branches", "few")),
        ("limits", ("many", 12, 10, "core.parallelism", "")),
        ("limits_of_the_dag", ("work", 5, 3, "max_active_tasks", "the Dag")),
    ],
)
def test_the_number_and_its_cause_are_told_and_a_run_keeps_to_them(
    checked: dict[str, dict[str, Any]],
    limit_runs: dict[str, Run],
    dag_id: str,
    expected: tuple[str, int, int, str, str],
) -> None:
    groups = {
        (group["group_id"], group["declared"], group["effective"], limit["name"], limit["where"])
        for group in checked[dag_id]["groups"]
        for limit in [group["limit"]]
    }
    assert expected in groups

    group_id, _, effective, *_ = expected
    branches = limit_runs[dag_id].group(group_id)
    assert {branch.state for branch in branches} == {"success"}
    assert effective - 1 <= peak_concurrency(branches) <= effective


def test_batches_are_told_in_items_too(checked: dict[str, dict[str, Any]]) -> None:
    (group,) = (group for group in checked["limits"]["groups"] if group["group_id"] == "batched")

    assert (group["tasks"], group["effective_items"]) == (4, 4)


def test_nothing_is_wrong_with_dags_that_run(checked: dict[str, dict[str, Any]]) -> None:
    assert [checked[dag_id]["problems"] for dag_id in ("limits", "limits_of_the_dag")] == [[], []]


def test_prefixes_that_fail_their_fan_ins_are_told_before(checked: dict[str, dict[str, Any]]) -> None:
    problems = {(problem["kind"], *problem["task_ids"]) for problem in checked["prefix"]["problems"]}

    assert problems == {
        ("prefix_matches_nothing", "collect_nothing"),
        ("prefix_matches_others", "collect_stray"),
    }
