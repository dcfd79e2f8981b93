"""The finished task instances of a run: which make a branch, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

__all__ = [
    "InstanceState",
    "States",
    "failed_before_last",
    "instances_at",
    "instances_of",
    "total_duration",
    "unexpanded_state",
]


@dataclass(frozen=True, kw_only=True)
class InstanceState:
    """
    What the server knows of one finished task instance.

    :param state: Its state, in Airflow's words.
    :param duration: Seconds from start to end of its last try; None if it never started.
    :param operator: Class name of its operator.
    """

    state: str
    duration: float | None
    operator: str | None


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
