"""The package's own hooks replace none of the author's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.run import Run

DAG_ID = "hooks"


@pytest.mark.parametrize(
    ("group", "called"),
    [
        ("by_dag", ["on_failure_callback of the Dag"]),
        ("by_group", ["on_failure_callback of the group"]),
        ("by_operator", ["on_failure_callback of the operator"]),
        ("by_success", ["on_execute_callback", "post_execute with 'fine'", "pre_execute"]),
    ],
)
def test_the_nearest_callbacks_and_hooks_are_called_once_each(
    run: Run, scratch: Path, group: str, called: list[str]
) -> None:
    notes = scratch.joinpath("hooks.txt").read_text(encoding="utf-8").splitlines()
    task_id = f"{group}.{group}_0 "
    assert sorted(note.removeprefix(task_id) for note in notes if note.startswith(task_id)) == called


def test_an_error_is_recorded_beside_the_authors_callback(run: Run) -> None:
    errors = {name: outcome["error"] for name, outcome in run.collected("collect").outcomes.items()}
    failed = [f"{group}.{group}_0" for group in ("by_dag", "by_group", "by_operator")]
    assert errors == {**dict.fromkeys(failed, "ValueError: broken on try 1"), "by_success.by_success_0": None}


def test_a_branchs_work_is_recorded_beside_the_authors_hooks(run: Run) -> None:
    record = run.xcom("by_success.by_success_0", "fan_out_branch")
    assert (record["state"], record["has_value"]) == ("success", True)
    assert record["seconds"] >= 0
