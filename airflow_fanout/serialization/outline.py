"""The fan-outs and fan-ins of a Dag as plain values, from its file or from the database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_fanout.rules.names import PLACEHOLDER, natural_key
from airflow_fanout.serialization.declaration import DeclaredFanIn, DeclaredGroup, declared_group
from airflow_fanout.serialization.tasks import nearest_mapped_group, placeholder_matches, waits_on_past

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, kw_only=True)
class TaskOutline:
    """
    What limits a task, and where it stands: ids of the tasks, and of the mapped group, directly around it.

    :param operator: Name of its operator's class.
    :param is_mapped: Whether it is expanded by itself.
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
    def is_placeholder(self) -> bool:
        """Whether it stands in a group of zero branches."""
        return self.operator == "EmptyOperator" and self.task_id.endswith(PLACEHOLDER)

    @property
    def is_helper(self) -> bool:
        """Whether it is a task that this package adds, and no branch."""
        return self.is_placeholder or self.is_split

    @property
    def is_split(self) -> bool:
        """Whether it counts branches, or cuts items into batches."""
        return self.operator in {"SplitOperator", "ReusingSplitOperator"}


@dataclass(frozen=True, kw_only=True)
class FanInOutline(DeclaredFanIn):
    """A fan-in as declared, with its task id."""

    task_id: str

    @property
    def group_id(self) -> str | None:
        """Id of the group that it collects; None if it collects by prefix."""
        return None if self.group is None else self.group.group_id

    @property
    def is_templated(self) -> bool:
        """Whether its prefix is known only at run time."""
        return any(opening in (self.task_id_prefix or "") for opening in ("{{", "{%"))


@dataclass(frozen=True, kw_only=True)
class DagOutline:
    """
    The fan-outs and fan-ins of a Dag; groups and tasks by id.

    :param max_active_tasks: Tasks of a run that may run at once.
    :param groups: In a parsed Dag all, in one from the database the batched, and those with a fan-in of their
        own.
    :param fan_ins: In the order of their ids.
    """

    dag_id: str
    max_active_tasks: int
    groups: Mapping[str, DeclaredGroup] = field(default_factory=dict)
    fan_ins: tuple[FanInOutline, ...] = ()
    tasks: Mapping[str, TaskOutline] = field(default_factory=dict)

    def prefix_matches(self, fan_in: FanInOutline, prefix: str) -> list[str]:
        """Ids of the tasks directly before a fan-in that a prefix takes, in natural order."""
        return self._matches(self.tasks[fan_in.task_id].upstream, prefix)

    def placeholder_matches(self, fan_in: FanInOutline, prefix: str) -> bool:
        """Whether a prefix would take branches of an empty group directly before a fan-in."""
        return any(
            self.tasks[task_id].is_placeholder and placeholder_matches(task_id, prefix)
            for task_id in self.tasks[fan_in.task_id].upstream
        )

    def unwired_matches(self, fan_in: FanInOutline, prefix: str) -> list[str]:
        """Ids of the tasks that a prefix takes and that are neither upstream nor downstream of its fan-in."""
        task_id = fan_in.task_id
        wired = {task_id, *self.upstream_of(task_id), *self.downstream_of(task_id)}
        matches = self._matches(self.tasks.keys() - wired, prefix)
        # A teardown of a branch comes after it, beside the fan-in.
        return [task_id for task_id in matches if not self.tasks[task_id].is_teardown]

    def upstream_of(self, *task_ids: str) -> set[str]:
        """Ids of all tasks before some tasks, at any distance."""
        return self._reachable(task_ids, "upstream")

    def downstream_of(self, *task_ids: str) -> set[str]:
        """Ids of all tasks after some tasks, at any distance."""
        return self._reachable(task_ids, "downstream")

    def _matches(self, task_ids: Iterable[str], prefix: str) -> list[str]:
        matches = [i for i in task_ids if i.startswith(prefix) and not self.tasks[i].is_helper]
        return sorted(matches, key=natural_key)

    def _reachable(self, task_ids: Iterable[str], direction: str) -> set[str]:
        reached: set[str] = set()
        remaining = list(task_ids)
        while remaining:
            neighbours: frozenset[str] = getattr(self.tasks[remaining.pop()], direction)
            remaining += neighbours - reached
            reached |= neighbours
        return reached


def outline(dag: Any) -> DagOutline:
    """Find the fan-outs and fan-ins of a Dag, as its file makes it or as the database has it."""
    fan_ins = [
        FanInOutline(task_id=task.task_id, **vars(DeclaredFanIn.from_json(stored)))
        for task in sorted(dag.tasks, key=lambda task: natural_key(task.task_id))
        if (stored := getattr(task, "declared_fan_in", None)) is not None
    ]
    # The database has fan-out groups as plain task groups; what it tells of them is in the tasks.
    groups = [
        *map(declared_group, dag.task_group.get_task_group_dict().values()),
        *(fan_in.group for fan_in in fan_ins),
        *(
            DeclaredGroup.from_json(task.partial_kwargs["declared_group"])
            for task in dag.tasks
            if task.is_mapped and "declared_group" in task.partial_kwargs
        ),
    ]
    return DagOutline(
        dag_id=dag.dag_id,
        max_active_tasks=dag.max_active_tasks,
        groups={group.group_id: group for group in groups if group is not None},
        fan_ins=tuple(fan_ins),
        tasks={task.task_id: _task_outline(task) for task in dag.tasks},
    )


def _task_outline(task: Any) -> TaskOutline:
    return TaskOutline(
        task_id=task.task_id,
        operator=task.task_type,
        is_mapped=bool(task.is_mapped),
        mapped_group=nearest_mapped_group(task.task_group),
        upstream=frozenset(task.upstream_task_ids),
        downstream=frozenset(task.downstream_task_ids),
        retries=task.retries or 0,
        waits_on_past=waits_on_past(task),
        is_setup=bool(task.is_setup),
        is_teardown=bool(task.is_teardown),
        **{name: getattr(task, name) for name in _LIMITS},
    )


_LIMITS = ("pool", "pool_slots", "max_active_tis_per_dag", "max_active_tis_per_dagrun", "executor", "queue")
