"""What is asked of tasks and task groups, in a parsed Dag and in one from the database."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, TaskGroup
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    AnyOperator = BaseOperator | MappedOperator

__all__ = ["nearest_mapped_group", "waits_on_past"]


def waits_on_past(task: AnyOperator) -> bool:
    """Whether a task waits for its own success, or its downstream's, in the run before."""
    return bool(task.depends_on_past or task.wait_for_downstream)


def nearest_mapped_group(group: TaskGroup | None) -> str | None:
    """Id of the mapped task group that a group is, or is in; None if there is none."""
    nearest = next(group.iter_mapped_task_groups(), None) if group is not None else None
    return None if nearest is None else nearest.group_id
