"""The finished task instances of a run -> which of them make a branch, and how it ended; on the worker."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from airflow_fanout.names import instance_name
from airflow_fanout.xcom import InstanceState

if TYPE_CHECKING:
    from airflow_fanout.declaration import DeclaredGroup

__all__ = [
    "States",
    "failed_before_last",
    "failed_names",
    "instances_at",
    "instances_of",
    "total_duration",
    "unexpanded_state",
]

States = Mapping[tuple[str, int], InstanceState]
"""``{(task_id, map_index): state}`` of the finished instances of a run."""


def instances_of(states: States, task_id: str) -> dict[int, InstanceState]:
    """Finished instances of a mapped task by map_index, in order; none if it never expanded."""
    found = {index: state for (of, index), state in states.items() if of == task_id and index >= 0}
    return dict(sorted(found.items()))


def instances_at(states: States, task_id: str, map_index: int) -> dict[int, InstanceState]:
    """Instances of a branch's task: one, or, if it is mapped within the branch, many."""
    found = states.get((task_id, map_index))
    if found is not None:
        return {map_index: found}
    return instances_of(states, task_id) if map_index < 0 else {}


def total_duration(instances: Iterable[InstanceState]) -> float | None:
    """Add up the seconds of instances; None if none of them ever started."""
    seconds = [each.duration for each in instances if each.duration is not None]
    return math.fsum(seconds) if seconds else None


def unexpanded_state(states: States, task_id: str) -> str | None:
    """State of a mapped task that never expanded; None if it did, or is not finished."""
    unexpanded = states.get((task_id, -1))
    return None if unexpanded is None or instances_of(states, task_id) else unexpanded.state


def failed_names(states: States, group: DeclaredGroup, map_index: int) -> list[str]:
    """
    Names of a group's branches that have failed: in their last task, or in one that kept it from running.

    Where only the items' task knows the names, they are Airflow's own, ``id[map_index]``.

    :param states: States of the run's finished instances.
    :param group: The group.
    :param map_index: Index of the mapped task group that it stands in; -1 outside of one.
    """
    if group.mode == "static":
        return [branch.name for branch in group.branches if _has_failed(states, branch.task_ids, map_index)]
    last, known = group.each[-1], group.known_names
    return [
        known[index] if index < len(known) else instance_name(last, index)
        for index in instances_of(states, last)
        if _has_failed(states, group.each, index)
    ]


def _has_failed(states: States, task_ids: Sequence[str], map_index: int) -> bool:
    last = states.get((task_ids[-1], map_index))
    if last is None:
        return False
    return last.state == "failed" or (
        last.state == "upstream_failed" and failed_before_last(states, task_ids, map_index) is not None
    )


def failed_before_last(states: States, task_ids: Sequence[str], map_index: int) -> tuple[str, int] | None:
    """
    Find the first instance of a branch that failed, if it is not its last task.

    :param states: States of the run's finished instances.
    :param task_ids: Ids of its tasks, in the order in which they run.
    :param map_index: The branch's own index in a mapped task group; -1 outside of one.
    """
    return next(
        (
            (task_id, at)
            for task_id in task_ids[:-1]
            for at, found in instances_at(states, task_id, map_index).items()
            if found.state == "failed"
        ),
        None,
    )
