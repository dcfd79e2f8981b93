"""Task instances of a run, as far as they say how a branch ended."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

FINISHED = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})
"""States in which Airflow does no more with a task instance."""


@dataclass(frozen=True, kw_only=True)
class InstanceState:
    """
    How one task instance stands.

    :param state: Its state, in Airflow's words; None if it has none yet.
    :param duration: Seconds from start to end of its last try; None if it never started.
    :param operator: Class name of its operator.
    """

    state: str | None
    duration: float | None = None
    operator: str | None = None

    @property
    def has_run(self) -> bool:
        """
        Whether its last try ran.

        Airflow gives a task that never ran a duration of exactly 0 when it is skipped or marked by hand. An
        EmptyOperator has it too: Airflow does not run it.
        """
        return bool(self.duration) or self.operator == "EmptyOperator"

    @property
    def always_records(self) -> bool:
        """Whether no success of its own lacks a record: ``post_execute`` comes after each Python function."""
        return self.operator == "_PythonDecoratedOperator"


States = Mapping[tuple[str, int], InstanceState]
"""``{(task_id, map_index): state}`` of the finished instances of a run."""


def instances_of(states: States, task_id: str) -> dict[int, InstanceState]:
    """Finished instances of a mapped task by map_index, in order; none if it never expanded."""
    instances = {index: state for (of, index), state in states.items() if of == task_id and index >= 0}
    return dict(sorted(instances.items()))


def instances_at(states: States, task_id: str, map_index: int) -> dict[int, InstanceState]:
    """Instances of a branch's task: one, or, if it is mapped within the branch, many."""
    instance = states.get((task_id, map_index))
    if instance is not None:
        return {map_index: instance}
    return instances_of(states, task_id) if map_index < 0 else {}


def runs_mark(states: States, task_ids: Collection[str]) -> str:
    """
    Tell runs of tasks apart: the text is another one after an instance of them has run again.

    No request tells a fan-in when a task ran; but for how long is never the same, to the microsecond.
    """
    runs = sorted(
        (*at, str(instance.state), instance.duration) for at, instance in states.items() if at[0] in task_ids
    )
    return hashlib.sha256(repr(runs).encode()).hexdigest()[:16]


def total_duration(instances: Iterable[InstanceState]) -> float | None:
    """Add up the seconds of instances; None if none of them ever started."""
    seconds = [instance.duration for instance in instances if instance.duration is not None]
    return math.fsum(seconds) if seconds else None


def unexpanded_state(states: States, task_id: str) -> str | None:
    """State of a mapped task that never expanded; None if it did, or is not finished."""
    unexpanded = states.get((task_id, -1))
    return None if unexpanded is None or instances_of(states, task_id) else unexpanded.state
