"""A Dag, parsed or read from the database -> its fan-outs and fan-ins as plain values; for CLI and UI."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_fanout.rules.names import PLACEHOLDER, natural_key
from airflow_fanout.serialization.declaration import (
    DeclaredFanIn,
    DeclaredGroup,
    declared_group,
    read_fan_in,
    read_group,
)
from airflow_fanout.serialization.tasks import waits_on_past

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


__all__ = ["DagOutline", "FanInOutline", "TaskOutline", "outline"]

HAS_TEMPLATE = ("{{", "{%")


@dataclass(frozen=True, kw_only=True)
class TaskOutline:
    """
    What limits a task, and where it stands.

    :param task_id: Its id.
    :param operator: Name of its operator's class.
    :param is_mapped: Whether it is expanded by itself.
    :param mapped_group: Id of the nearest mapped task group that it is in; None if it is in none.
    :param upstream: Ids of the tasks directly before it.
    :param downstream: Ids of the tasks directly after it.
    :param pool: Its pool.
    :param pool_slots: Slots of it that an instance takes.
    :param max_active_tis_per_dag: Instances that run at once, over all runs; None for no limit.
    :param max_active_tis_per_dagrun: Instances that run at once in one run; None for no limit.
    :param executor: Name of its executor; None for the default one.
    :param queue: Its queue.
    :param retries: How often Airflow tries it again.
    :param waits_on_past: Whether it waits for its own success, or its downstream's, in the run before.
    :param is_setup: Whether it is a setup.
    :param is_teardown: Whether it is a teardown.
    """

    task_id: str
    operator: str = ""
    is_mapped: bool = False
    mapped_group: str | None = None
    upstream: frozenset[str] = frozenset()
    downstream: frozenset[str] = frozenset()
    pool: str = "default_pool"
    pool_slots: int = 1
    max_active_tis_per_dag: int | None = None
    max_active_tis_per_dagrun: int | None = None
    executor: str | None = None
    queue: str = "default"
    retries: int = 0
    waits_on_past: bool = False
    is_setup: bool = False
    is_teardown: bool = False

    @property
    def is_helper(self) -> bool:
        """Whether it is a task that this package adds, and no branch."""
        if self.operator == "EmptyOperator":
            return self.task_id.endswith(PLACEHOLDER)
        return self.operator == "SplitOperator"

    @property
    def stands_for(self) -> str | None:
        """Id that the first branch of its group would have, if it is there because there are none."""
        if not self.is_helper or not self.task_id.endswith(PLACEHOLDER):
            return None
        before = self.task_id.removesuffix(PLACEHOLDER)
        if before.endswith("_"):  # prefix_group_id=False
            return f"{before}0"
        return f"{before}{before[:-1].rpartition('.')[2]}_0"


@dataclass(frozen=True, kw_only=True)
class FanInOutline(DeclaredFanIn):
    """
    A fan-in as declared, and where it stands.

    :param task_id: Its id.
    """

    task_id: str

    @property
    def group_id(self) -> str | None:
        """Id of the group that it collects; None if it collects by prefix."""
        return None if self.group is None else self.group.group_id

    @property
    def is_templated(self) -> bool:
        """Whether its prefix is known only at run time."""
        return self.task_id_prefix is not None and any(
            opening in self.task_id_prefix for opening in HAS_TEMPLATE
        )


@dataclass(frozen=True, kw_only=True)
class DagOutline:
    """
    The fan-outs and fan-ins of a Dag.

    :param dag_id: The Dag's id.
    :param max_active_tasks: Tasks of a run that may run at once.
    :param groups: Its groups by id, as far as they are known: in a parsed Dag all, in one from the database
        those that have a fan-in of their own, and the batched.
    :param fan_ins: Its fan-ins, in the order of their ids.
    :param tasks: All its tasks by id.
    """

    dag_id: str
    max_active_tasks: int
    groups: Mapping[str, DeclaredGroup] = field(default_factory=dict)
    fan_ins: tuple[FanInOutline, ...] = ()
    tasks: Mapping[str, TaskOutline] = field(default_factory=dict)

    def matches(self, fan_in: FanInOutline, prefix: str) -> list[str]:
        """
        Ids of the tasks directly before a fan-in that start with a prefix, in natural order; no helper tasks.

        :param fan_in: The fan-in.
        :param prefix: The prefix as rendered.
        """
        before = self.tasks[fan_in.task_id].upstream
        found = [i for i in before if i.startswith(prefix) and not self.tasks[i].is_helper]
        return sorted(found, key=natural_key)

    def stands_for_nothing(self, fan_in: FanInOutline, prefix: str) -> bool:
        """
        Whether a prefix would take the first branch of a group before its fan-in, which has none.

        :param fan_in: The fan-in.
        :param prefix: The prefix as rendered.
        """
        return any(
            first.startswith(prefix)
            for task_id in self.tasks[fan_in.task_id].upstream
            if (first := self.tasks[task_id].stands_for) is not None
        )

    def strays(self, fan_in: FanInOutline, prefix: str) -> list[str]:
        """
        Ids of the tasks that start with a prefix and are neither upstream nor downstream of its fan-in.

        :param fan_in: The fan-in.
        :param prefix: The prefix as rendered.
        """
        known = {fan_in.task_id, *self.upstream_of(fan_in.task_id), *self.downstream_of(fan_in.task_id)}
        return sorted(
            (
                task.task_id
                for task in self.tasks.values()
                if task.task_id.startswith(prefix)
                and task.task_id not in known
                and not (task.is_helper or task.is_teardown)
            ),
            key=natural_key,
        )

    def upstream_of(self, *task_ids: str) -> set[str]:
        """Ids of all tasks before some tasks, at any distance."""
        return self._reachable(task_ids, "upstream")

    def downstream_of(self, *task_ids: str) -> set[str]:
        """Ids of all tasks after some tasks, at any distance."""
        return self._reachable(task_ids, "downstream")

    def _reachable(self, task_ids: tuple[str, ...], way: str) -> set[str]:
        found: set[str] = set()
        to_do = list(task_ids)
        while to_do:
            following: frozenset[str] = getattr(self.tasks[to_do.pop()], way)
            to_do += following - found
            found |= following
        return found


def outline(dag: Any) -> DagOutline:
    """
    Find the fan-outs and fan-ins of a Dag.

    :param dag: The Dag as its file makes it, or as the database has it.
    """
    tasks = {task.task_id: _task(task) for task in dag.tasks}
    groups: dict[str, DeclaredGroup] = dict(_parsed_groups(dag))
    fan_ins: list[FanInOutline] = []
    for task in sorted(dag.tasks, key=lambda task: natural_key(task.task_id)):
        text = _declaration(task)
        if text is None:
            continue
        if "policy" not in json.loads(text):
            group: DeclaredGroup | None = read_group(text)
        else:
            declared = read_fan_in(text, task_ids=tasks, upstream_task_ids=tasks[task.task_id].upstream)
            group = declared.group
            fan_ins.append(FanInOutline(task_id=task.task_id, **vars(declared)))
        if group is not None:
            groups.setdefault(group.group_id, group)
    return DagOutline(
        dag_id=dag.dag_id,
        max_active_tasks=dag.max_active_tasks,
        groups=groups,
        fan_ins=tuple(fan_ins),
        tasks=tasks,
    )


def _parsed_groups(dag: Any) -> Iterator[tuple[str, DeclaredGroup]]:
    """Groups of a Dag that its file has just made; the database has them as plain task groups."""
    for group_id, group in dag.task_group.get_task_group_dict().items():
        declared = declared_group(group)
        if declared is not None:
            yield group_id, declared


def _declaration(task: Any) -> str | None:
    """What a fan-in or a batch says of its group; None of any other task."""
    found = task.partial_kwargs.get("declaration") if task.is_mapped else getattr(task, "declaration", None)
    return found if isinstance(found, str) and found.startswith('{"mode":') else None


def _task(task: Any) -> TaskOutline:
    nearest = next(task.task_group.iter_mapped_task_groups(), None) if task.task_group is not None else None
    return TaskOutline(
        task_id=task.task_id,
        operator=task.task_type,
        is_mapped=bool(task.is_mapped),
        mapped_group=None if nearest is None else nearest.group_id,
        upstream=frozenset(task.upstream_task_ids),
        downstream=frozenset(task.downstream_task_ids),
        pool=task.pool,
        pool_slots=task.pool_slots,
        max_active_tis_per_dag=task.max_active_tis_per_dag,
        max_active_tis_per_dagrun=task.max_active_tis_per_dagrun,
        executor=task.executor,
        queue=task.queue,
        retries=task.retries or 0,
        waits_on_past=waits_on_past(task),
        is_setup=bool(task.is_setup),
        is_teardown=bool(task.is_teardown),
    )
