"""What is asked of tasks and task groups, in a parsed Dag and in one from the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_fanout.rules.names import PLACEHOLDER

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, TaskGroup
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    AnyOperator = BaseOperator | MappedOperator


def waits_on_past(task: AnyOperator) -> bool:
    """Whether a task waits for its own success, or its downstream's, in the run before."""
    return bool(task.depends_on_past or task.wait_for_downstream)


def nearest_mapped_group(group: TaskGroup | None) -> str | None:
    """Id of the mapped task group that a group is, or is in; None if there is none."""
    nearest = next(group.iter_mapped_task_groups(), None) if group is not None else None
    return None if nearest is None else nearest.group_id


def placeholder_matches(task_id: str, prefix: str) -> bool:
    """Whether a task is an empty group's placeholder, and a prefix would take the group's first branch."""
    if not task_id.endswith(PLACEHOLDER):
        return False
    stem = task_id.removesuffix(PLACEHOLDER)
    # 'outer.process.' of a group that prefixes the ids in it, 'outer.process_' of one that doesn't.
    label = "" if stem.endswith("_") else stem.removesuffix(".").rpartition(".")[2] + "_"
    return f"{stem}{label}0".startswith(prefix)
