"""What a fan-in collects from: a branch, or a mapped task; on the worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_fanout.rules.names import instance_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_fanout.execution_time.results import Page
    from airflow_fanout.execution_time.xcom import RunReader
    from airflow_fanout.rules.instances import States
    from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup

__all__ = ["Naming", "Source", "branch_source", "instance_source"]


class Naming(Protocol):
    """How the instances, or the items, of a group of this package are called, and how they are read."""

    def read(self, reader: RunReader, states: States, source: Source, key: str, index: int) -> Iterator[Page]:
        """
        Find the outcome of every branch of a mapped or batched group.

        :param reader: Reads the run.
        :param states: States of the run's finished instances.
        :param source: The group's last task.
        :param key: XCom key of each branch's value.
        :param index: Place of the first of them.
        :raises BranchesRunningError: If one of them is not finished.
        """


@dataclass(frozen=True, kw_only=True)
class Source:
    """
    A task that a fan-in collects from.

    :param name: Name of its branch; of a mapped task, the part before ``[map_index]``.
    :param task_id: Full id of the task.
    :param mapped: Whether each of its instances is a branch.
    :param recorded: Whether it is a branch of this package, which records more than Airflow does.
    :param map_index: Instance that is read if the task is not mapped: -1, or that of the mapped task group
        which the fan-in runs in.
    :param task_ids: Ids of all tasks of its branch, in the order in which they run, if it is of this package.
    :param stoppable: Whether ``stop_after_failures`` may have kept it from starting.
    :param naming: How the instances of a mapped group of this package are called.
    """

    name: str
    task_id: str
    mapped: bool = False
    recorded: bool = False
    map_index: int = -1
    task_ids: tuple[str, ...] = ()
    stoppable: bool = False
    naming: Naming | None = None


def branch_source(
    branch: DeclaredBranch, group: DeclaredGroup, map_index: int, *, name: str | None = None
) -> Source:
    """
    Say where to read a branch of this package.

    :param branch: The branch.
    :param group: Its group.
    :param map_index: The reader's own index in a mapped task group; -1 outside of one.
    :param name: What the fan-in calls it, if not by its name.
    """
    return Source(
        name=branch.name if name is None else name,
        task_id=branch.last_task_id,
        recorded=True,
        map_index=map_index,
        task_ids=branch.task_ids,
        stoppable=group.stop_after_failures is not None,
    )


def instance_source(source: Source, map_index: int) -> Source:
    """
    Say where to read one instance of a mapped task.

    :param source: The mapped task.
    :param map_index: Index of the instance.
    """
    return Source(
        name=instance_name(source.name, map_index),
        task_id=source.task_id,
        recorded=source.recorded,
        map_index=map_index,
    )
