"""Outlines of Dags, made without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_fanout.rules.policy import Policy
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup
from airflow_fanout.serialization.outline import DagOutline, FanInOutline, TaskOutline

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["dag_of", "fan_in_of", "instances", "static", "task_of"]


def task_of(task_id: str, **settings: Any) -> TaskOutline:
    """Make a task."""
    return TaskOutline(task_id=task_id, **settings)


def static(branches: Mapping[str, Sequence[str]] | int, group_id: str = "work") -> DeclaredGroup:
    """Make a static group; of branches of several tasks the steps are given by the branch's name."""
    if isinstance(branches, int):
        branches = {f"{group_id}_{index}": [""] for index in range(branches)}
    return DeclaredGroup(
        group_id=group_id,
        prefix=f"{group_id}.",
        branches=tuple(
            DeclaredBranch(name=name, task_ids=tuple(f"{group_id}.{name}{step}" for step in steps))
            for name, steps in branches.items()
        ),
    )


def instances(count: int | None, *steps: str, group_id: str = "work", **settings: Any) -> DeclaredGroup:
    """Make a mapped group; with ``items_per_task`` a batched one."""
    return DeclaredGroup(
        group_id=group_id,
        prefix=f"{group_id}.",
        mode="batched" if "items_per_task" in settings else "mapped",
        label=group_id,
        count=count,
        each=tuple(f"{group_id}.each{step}" for step in steps or ("",)),
        **settings,
    )


def fan_in_of(
    task_id: str,
    *,
    group_id: str | None = None,
    prefix: str | None = None,
    key: str = "return_value",
    policy: Policy | None = None,
) -> FanInOutline:
    """Make a fan-in."""
    return FanInOutline(
        task_id=task_id,
        group=None if group_id is None else DeclaredGroup(group_id=group_id, prefix=f"{group_id}."),
        task_id_prefix=prefix,
        key=key,
        policy=policy or Policy(),
    )


def dag_of(
    *groups: DeclaredGroup,
    tasks: Iterable[TaskOutline] = (),
    fan_ins: Iterable[FanInOutline] = (),
    max_active_tasks: int = 16,
    **settings: Any,
) -> DagOutline:
    """Make a Dag; the branches that aren't among its tasks have these settings."""
    known = {task.task_id: task for task in tasks}
    for group in groups:
        for task_id in group.all_task_ids:
            known.setdefault(task_id, task_of(task_id, is_mapped=task_id in group.each, **settings))
    return DagOutline(
        dag_id="pipeline",
        max_active_tasks=max_active_tasks,
        groups={group.group_id: group for group in groups},
        fan_ins=tuple(fan_ins),
        tasks=known,
    )
