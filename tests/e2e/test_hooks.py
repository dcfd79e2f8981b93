"""The package's own hooks replace none of the author's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.run import Collected, Run

DAG_ID = "hooks"


@pytest.fixture(scope="module")
def notes(run: Run, scratch: Path) -> list[str]:
    return scratch.joinpath("hooks.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def collected(run: Run) -> Collected:
    return run.collected("collect")


@pytest.mark.parametrize(
    ("task_id", "level"),
    [("by_dag.by_dag_0", "Dag"), ("by_group.by_group_0", "group"), ("by_operator.by_operator_0", "operator")],
)
def test_the_nearest_failure_callback_fires_once(notes: list[str], task_id: str, level: str) -> None:
    fired = [note for note in notes if note.startswith(f"{task_id} ")]
    assert fired == [f"{task_id} on_failure_callback of the {level}"]


def test_the_authors_execute_hooks_run_once_each(notes: list[str]) -> None:
    task_id = "by_success.by_success_0"
    ran = [note.removeprefix(task_id) for note in notes if note.startswith(f"{task_id} ")]
    assert sorted(ran) == [" on_execute_callback", " post_execute with 'fine'", " pre_execute"]


def test_an_error_is_recorded_beside_the_authors_callback(collected: Collected) -> None:
    errors = {name: outcome["error"] for name, outcome in collected.outcomes.items()}
    assert errors == {
        "by_dag.by_dag_0": "ValueError: out of order",
        "by_group.by_group_0": "ValueError: out of order",
        "by_operator.by_operator_0": "ValueError: out of order",
        "by_success.by_success_0": None,
    }


def test_a_branchs_work_is_recorded_beside_the_authors_hooks(run: Run) -> None:
    record = run.xcom("by_success.by_success_0", "fan_out_branch")
    assert (record["state"], record["has_value"]) == ("success", True)
    assert record["seconds"] >= 0
