"""A run's task instances, and what they recorded -> what became of each branch; for CLI and UI."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.runs import BranchRun, GroupRun, RunFacts, TaskRun
from airflow_fanout.reports.timing import sum_of_known
from airflow_fanout.rules.names import PLACEHOLDER, SPLIT, instance_name, natural_key
from airflow_fanout.rules.outcomes import WAITING, BranchTasks, judge_branch, judge_items
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from airflow_fanout.reports.timing import BranchTiming
    from airflow_fanout.serialization.declaration import DeclaredGroup
    from airflow_fanout.serialization.outline import FanInOutline


class UnknownGroupError(LookupError):
    """Raised when a run has no group of an id; its text is for people."""


def group_runs(facts: RunFacts) -> list[GroupRun]:
    """Put each group's branches together, in the order in which the groups began."""
    outline = facts.outline
    collected = {task_id: group.group_id for group in outline.groups.values() for task_id in _lasts(group)}
    fan_ins: dict[str, list[str]] = {}
    runs: list[GroupRun] = []
    for fan_in in outline.fan_ins:
        prefix = facts.prefix_of(fan_in)
        if fan_in.group_id is not None:
            fan_ins.setdefault(fan_in.group_id, []).append(fan_in.task_id)
        elif prefix is not None:
            matches = outline.prefix_matches(fan_in, prefix)
            for group_id in dict.fromkeys(collected[i] for i in matches if i in collected):
                fan_ins.setdefault(group_id, []).append(fan_in.task_id)
            if others := [i for i in matches if i not in collected]:
                runs += _by_prefix(facts, fan_in, others)
    for group in outline.groups.values():
        fan_in_ids = tuple(fan_ins.get(group.group_id, ()))
        keys = {fan_in.key for fan_in in outline.fan_ins if fan_in.task_id in fan_in_ids}
        found = _of_group(facts, group, sorted(keys) or [RETURN_VALUE])
        runs += [replace(run, fan_in_ids=fan_in_ids) for run in found]
    return sorted(runs, key=_began)


def chosen_group_runs(facts: RunFacts, group_ids: Collection[str] | None) -> list[GroupRun]:
    """
    Put the branches of some groups together.

    :param group_ids: Ids or titles of groups; of branches that only a prefix brings together, their
        fan-in's. None for all.
    :raises UnknownGroupError: If the run has no such group.
    """
    runs = group_runs(facts)
    if group_ids is None:
        return runs
    names = [{run.title, run.fan_in_ids[0] if run.group is None else run.group.group_id} for run in runs]
    known = set().union(*names)
    if unknown := set(group_ids) - known:
        text = f"Dag {facts.dag_id!r} has no fan-out group {listing(unknown)} in this run"
        message = f"{text}; there are {listing(known)}"
        raise UnknownGroupError(message)
    return [run for run, ids in zip(runs, names, strict=True) if not ids.isdisjoint(group_ids)]


def _lasts(group: DeclaredGroup) -> list[str]:
    return [*group.each[-1:], *(branch.last_task_id for branch in group.branches)]


def _began(run: GroupRun) -> tuple[float, Any]:
    queued = [each.queued.timestamp() for b in run.ran for each in b.task_runs if each.queued is not None]
    return min(queued, default=math.inf), natural_key(run.title)


def _by_prefix(facts: RunFacts, fan_in: FanInOutline, task_ids: Sequence[str]) -> Iterator[GroupRun]:
    """Branches of anybody's tasks: one for each, or for each instance if they are mapped."""
    tasks = facts.outline.tasks
    fan_in_group = tasks[fan_in.task_id].mapped_group
    for fan_in_index in sorted(facts.by_task.get(fan_in.task_id, {-1: None})):
        branches: list[BranchRun] = []
        for task_id in task_ids:
            is_together = fan_in_group is not None and tasks[task_id].mapped_group == fan_in_group
            for index, task_run in facts.by_task.get(task_id, {}).items():
                if not is_together or index == fan_in_index:
                    branch = BranchTasks(task_ids=(task_id,), map_index=index, is_ours=False)
                    name = task_id if is_together else task_run.name
                    branches.append(_branch(facts, name, branch, [fan_in.key]))
        yield GroupRun(
            title=instance_name(fan_in.task_id, fan_in_index),
            group=None,
            map_index=fan_in_index,
            fan_in_ids=(fan_in.task_id,),
            branches=tuple(branches),
        )


def _of_group(facts: RunFacts, group: DeclaredGroup, keys: Sequence[str]) -> Iterator[GroupRun]:
    if group.mode == "static":
        yield from _static(facts, group, keys)
        return
    indexes = sorted({index for task_id in group.each for index in facts.by_task.get(task_id, {})})
    instances = [index for index in indexes if index >= 0]
    batches: tuple[BranchRun, ...] | None = None
    if group.mode == "mapped":
        of_index = ((index, BranchTasks(task_ids=group.each, map_index=index)) for index in instances)
        branches = [_branch(facts, _mapped_name(facts, group, index), ids, keys) for index, ids in of_index]
    else:
        task_runs = [facts.by_task[group.each[-1]][index] for index in instances]
        batches = tuple(_batch(group, task_run) for task_run in task_runs)
        branches = [item for task_run in task_runs for item in _items(facts, group, task_run)]
    yield GroupRun(
        title=group.group_id,
        group=group,
        branches=tuple(branches),
        batches=batches,
        unexpanded=None if instances or not indexes else facts.find(group.each, -1)[-1],
    )


def _static(facts: RunFacts, group: DeclaredGroup, keys: Sequence[str]) -> Iterator[GroupRun]:
    """A group outside of mapped task groups, or as often as it was expanded with the one around it."""
    tasks = facts.outline.tasks
    last_ids = [branch.last_task_id for branch in group.branches]
    indexes = [-1]
    if any(tasks[task_id].mapped_group is not None for task_id in last_ids if task_id in tasks):
        found = {n for task_id in last_ids for n in facts.by_task.get(task_id, {})}
        indexes = sorted(n for n in found if n >= 0) or sorted(found)
    for index in indexes:
        yield GroupRun(
            title=instance_name(group.group_id, index),
            group=group,
            map_index=index,
            branches=(
                *(
                    _branch(facts, branch.name, BranchTasks(task_ids=branch.task_ids, map_index=index), keys)
                    for branch in group.branches
                ),
                *_removed(facts, group, index),
            ),
        )


def _removed(facts: RunFacts, group: DeclaredGroup, map_index: int) -> Iterator[BranchRun]:
    """Branches of a static group that are no longer declared: the Dag file changed after they had begun."""
    names = {branch.name for branch in group.branches}
    removed: dict[str, list[str]] = {}
    for task_id, instances in facts.by_task.items():
        name = task_id.removeprefix(group.prefix)
        is_of_group = name not in {task_id, PLACEHOLDER} and map_index in instances
        if not is_of_group or task_id in facts.outline.tasks:
            continue
        if group.steps is not None and (first := name.partition(".")[0]) not in names:
            name = first  # a branch of several tasks is a task group
        removed.setdefault(name, []).append(task_id)
    for name in sorted(removed, key=natural_key):
        tasks = BranchTasks(task_ids=tuple(removed[name]), map_index=map_index)
        branch = _branch(facts, name, tasks, [RETURN_VALUE])
        yield replace(branch, state="removed", error="it is no longer declared", is_stopped=False)


def _branch(facts: RunFacts, name: str, tasks: BranchTasks, keys: Sequence[str]) -> BranchRun:
    """Put a branch together; without a value under one of the keys it is missing."""
    task_runs = tuple(
        facts.by_task[task_id][index]
        for task_id in tasks.task_ids
        for index in facts.instances(task_id, tasks.map_index)
    )
    rulings = [judge_branch(facts, tasks, key) for key in keys]
    ruling = next((ruling for ruling in rulings if ruling.state != "success"), rulings[0])
    return BranchRun(
        name=name,
        state=ruling.state,
        error=ruling.error,
        is_stopped=ruling.is_stopped,
        task_runs=task_runs,
        **_together([task_run.timing for task_run in task_runs]),
    )


def _together(tasks: Sequence[BranchTiming]) -> dict[str, Any]:
    """Times of a branch from those of its tasks; of what never ran, or skipped itself, no work is lacking."""
    ran = (task for task in tasks if task.started is not None and task.state != "skipped")
    worked = [*ran, *(task for task in tasks if task.state == "skipped" and task.work_seconds is not None)]
    memory = [task.peak_memory_bytes for task in tasks if task.peak_memory_bytes is not None]
    return {
        "queued": min((task.queued for task in tasks if task.queued is not None), default=None),
        "started": min((task.started for task in tasks if task.started is not None), default=None),
        "ended": max((task.ended for task in tasks if task.ended is not None), default=None),
        "work_seconds": _all_of([task.work_seconds for task in worked]),
        "cpu_seconds": _all_of([task.cpu_seconds for task in worked]),
        "peak_memory_bytes": max(memory, default=None),
        "tries": max((task.tries for task in tasks if task.tries is not None), default=None),
        "tasks": tuple(tries for task in tasks for tries in task.tasks),
    }


def _all_of(seconds: Sequence[float | None]) -> float | None:
    """Add up; None if one is not known."""
    return None if None in seconds else sum_of_known(seconds)


def _mapped_name(facts: RunFacts, group: DeclaredGroup, index: int) -> str:
    """Name a branch of a mapped group; of several tasks the first alone may know the name."""
    for task_run in facts.find(group.each, index):
        if task_run.told_name is not None:
            return task_run.told_name
    names = group.names or facts.branch_names.get(group.group_id, ())
    if index < len(names):
        return names[index]
    return f"{group.label}_{index}"


def _batch(group: DeclaredGroup, task_run: TaskRun) -> BranchRun:
    return BranchRun(
        name=f"{group.group_id} batch {task_run.map_index}",
        state=task_run.state or WAITING,
        task_runs=(task_run,),
        **_together([task_run.timing]),
    )


def _items(facts: RunFacts, group: DeclaredGroup, task_run: TaskRun) -> Iterator[BranchRun]:
    record = task_run.batch_record
    bounds = facts.bounds.get(group.prefix + SPLIT)
    first, count = _bounds(bounds, group, task_run.map_index)
    if record is not None and bounds is None:
        first, count = record.start, len(record.statuses)
    elif record is not None and len(record.statuses) != count:
        record = None  # it was cut otherwise
    names = (
        (None if record is None else record.names)
        or (group.names or ())[first : first + count]
        or facts.batch_names.get((group.prefix + SPLIT, task_run.map_index))
        or [f"{group.label}_{index}" for index in range(first, first + count)]
    )
    value = task_run.values.get(RETURN_VALUE, "absent")
    rulings = judge_items(task_run.state, task_run.told, len(names), value)
    unknown: Sequence[float | None] = [None] * len(names)
    seconds, cpu_seconds = (unknown, unknown) if record is None else (record.seconds, record.cpu_seconds)
    for name, ruling, work, cpu in zip(names, rulings, seconds, cpu_seconds, strict=True):
        yield BranchRun(
            name=name,
            state=ruling.state,
            work_seconds=work,
            cpu_seconds=cpu,
            tries=task_run.tries,
            error=ruling.error,
            is_stopped=ruling.is_stopped,
            task_runs=(task_run,),
        )


def _bounds(bounds: Sequence[tuple[int, int]] | None, group: DeclaredGroup, number: int) -> tuple[int, int]:
    """Index of the first item of a batch, and number of its items."""
    if bounds is not None and number < len(bounds):
        first, stop = bounds[number]
        return first, stop - first
    size = group.items_per_task or 1
    first = number * size
    return first, size if group.count is None else max(0, min(size, group.count - first))
