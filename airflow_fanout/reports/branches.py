"""A run's task instances, and what they recorded -> what became of each branch; for CLI and UI."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.runs import (
    FINISHED,
    UP_FOR_RETRY,
    WAITING,
    BranchRun,
    GroupRun,
    RunFacts,
    TaskRun,
)
from airflow_fanout.reports.timing import BranchTiming
from airflow_fanout.rules.names import SPLIT, instance_name, natural_key
from airflow_fanout.rules.outcomes import GONE, MARKED_BY_HAND, state_of_batch, state_of_item
from airflow_fanout.rules.records import (
    ITEM_SKIPPED,
    ITEM_STOPPED,
    ITEM_SUCCEEDED,
    NO_EXCEPTION_RECORDED,
    STOPPED,
    error_of,
    is_of_batch,
    seconds_of,
)
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup
    from airflow_fanout.serialization.outline import FanInOutline


__all__ = ["UnknownGroupError", "chosen_group_runs", "group_runs"]


class UnknownGroupError(LookupError):
    """Raised when a run has no group of an id; its text is for people."""


def group_runs(facts: RunFacts) -> list[GroupRun]:
    """
    Put each group's branches together, in the order in which the groups began.

    :param facts: The run.
    """
    outline = facts.outline
    collected = {task_id: g.group_id for g in outline.groups.values() for task_id in _lasts(g)}
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
            others = [i for i in matches if i not in collected]
            if others:
                runs += _by_prefix(facts, fan_in, others)
    for group in outline.groups.values():
        its = tuple(fan_ins.get(group.group_id, ()))
        runs += [replace(run, fan_in_ids=its) for run in _of_group(facts, group)]
    return sorted(runs, key=_began)


def chosen_group_runs(facts: RunFacts, group_ids: Collection[str] | None) -> list[GroupRun]:
    """
    Put the branches of some groups together.

    :param facts: The run.
    :param group_ids: The groups, by their ids or titles; of branches that only a prefix brings together by
        their fan-in's id. None for all.
    :raises UnknownGroupError: If the run has no such group.
    """
    runs = group_runs(facts)
    if group_ids is None:
        return runs
    names = [{run.title, run.fan_in_ids[0] if run.group is None else run.group.group_id} for run in runs]
    known = set().union(*names)
    unknown = sorted(set(group_ids) - known)
    if unknown:
        message = (
            f"Dag {facts.dag_id!r} has no fan-out group {listing(unknown)} in this run; "
            f"there are {listing(known)}"
        )
        raise UnknownGroupError(message)
    return [run for run, its in zip(runs, names, strict=True) if not its.isdisjoint(group_ids)]


def _lasts(group: DeclaredGroup) -> list[str]:
    return [*group.each[-1:], *(branch.last_task_id for branch in group.branches)]


def _began(run: GroupRun) -> tuple[float, Any]:
    queued = [each.queued.timestamp() for b in run.ran for each in b.task_runs if each.queued is not None]
    return min(queued, default=math.inf), natural_key(run.title)


def _by_prefix(facts: RunFacts, fan_in: FanInOutline, task_ids: Sequence[str]) -> Iterator[GroupRun]:
    """Branches of anybody's tasks: one for each, or for each instance if they are mapped."""
    tasks = facts.outline.tasks
    within = tasks[fan_in.task_id].mapped_group
    for index in sorted(facts.by_task.get(fan_in.task_id, {-1: None})):
        branches: list[BranchRun] = []
        for task_id in task_ids:
            together = within is not None and tasks[task_id].mapped_group == within
            for at, each in facts.by_task.get(task_id, {}).items():
                if not together or at == index:
                    branches.append(_branch(task_id if together else each.name, [each], recorded=False))
        yield GroupRun(
            title=_title(fan_in.task_id, index),
            group=None,
            map_index=index,
            fan_in_ids=(fan_in.task_id,),
            branches=tuple(branches),
        )


def _title(node_id: str, map_index: int) -> str:
    return node_id if map_index < 0 else instance_name(node_id, map_index)


def _of_group(facts: RunFacts, group: DeclaredGroup) -> Iterator[GroupRun]:
    if group.mode == "static":
        yield from _static(facts, group)
        return
    instances: dict[int, list[TaskRun]] = {}
    for task_id in group.each:
        for at, each in facts.by_task.get(task_id, {}).items():
            instances.setdefault(at, []).append(each)
    unexpanded = instances.pop(-1, None)
    first = None if unexpanded is None or instances else unexpanded[-1]
    ran = tuple(
        _branch(_instance_name(group, index, its), its, recorded=group.mode == "mapped")
        for index, its in sorted(instances.items())
    )
    if group.mode == "mapped":
        yield GroupRun(title=group.group_id, group=group, branches=ran, unexpanded=first)
        return
    items = tuple(item for batch in ran for item in _items(facts, group, batch))
    yield GroupRun(title=group.group_id, group=group, branches=items, batches=ran, unexpanded=first)


def _static(facts: RunFacts, group: DeclaredGroup) -> Iterator[GroupRun]:
    """A group outside of mapped task groups, or as often as it was expanded with the one around it."""
    tasks = facts.outline.tasks
    within = {tasks[b.last_task_id].mapped_group for b in group.branches if b.last_task_id in tasks} - {None}
    indexes = [-1]
    if within:
        found = {at for b in group.branches for at in facts.by_task.get(b.last_task_id, {}) if at >= 0}
        indexes = sorted(found)
    for index in indexes:
        yield GroupRun(
            title=_title(group.group_id, index),
            group=group,
            map_index=index,
            branches=tuple(_static_branch(facts, branch, index) for branch in group.branches),
        )


def _static_branch(facts: RunFacts, branch: DeclaredBranch, index: int) -> BranchRun:
    # Outside of a mapped task group a task that is mapped within the branch is there with all its instances.
    its = [
        each
        for task_id in branch.task_ids
        for at, each in facts.by_task.get(task_id, {}).items()
        if index < 0 or at == index
    ]
    return _branch(branch.name, its, recorded=True)


def _branch(name: str, its: Sequence[TaskRun], *, recorded: bool) -> BranchRun:
    """
    Put a branch's task instances together.

    :param name: Its name.
    :param its: Its task instances, in the order in which its tasks run.
    :param recorded: Whether it is one of this package's, which leaves a record beside its value.
    """
    if not its:
        nothing = BranchTiming(name=name, state=WAITING, queued=None, started=None, ended=None)
        return BranchRun(name=name, state=WAITING, timing=nothing)
    last = its[-1]
    state, error = last.state or WAITING, None
    stopped = next((each.told for each in its if each.told.get("state") == STOPPED), None)
    failed = next((each for each in its if each.state == "failed"), None)
    if state == "upstream_failed" and failed is not None:
        state = "failed"
    if state == "failed":
        told = (last if last.state == "failed" or failed is None else failed).told
        error = error_of(told.get("error")) if told.get("state") == "failed" else None
        error = error or (NO_EXCEPTION_RECORDED if recorded else None)
    elif state == "skipped" and stopped is not None:
        error = error_of(stopped.get("error"))
    elif state == "success" and recorded and not last.has_value and last.told.get("has_value") is not False:
        state, error = "missing", GONE if last.told else MARKED_BY_HAND
    elif state not in FINISHED and any(each.state == "running" for each in its):
        state = "running"
    return BranchRun(
        name=name,
        state=state,
        timing=_together(name, state, [each.timing for each in its]),
        error=error,
        is_stopped=state == "skipped" and stopped is not None,
        task_runs=tuple(its),
    )


def _together(name: str, state: str, tasks: Sequence[BranchTiming]) -> BranchTiming:
    """Put the times of a branch's tasks together."""
    if len(tasks) == 1:
        return replace(tasks[0], name=name, state=state)
    worked = [task for task in tasks if task.state != "upstream_failed"]
    return BranchTiming(
        name=name,
        state=state,
        tasks=tuple(tasks),
        queued=min((task.queued for task in tasks if task.queued is not None), default=None),
        started=min((task.started for task in tasks if task.started is not None), default=None),
        ended=max((task.ended for task in tasks if task.ended is not None), default=None),
        work_seconds=_all_of([task.work_seconds for task in worked]),
        cpu_seconds=_all_of([task.cpu_seconds for task in worked]),
        peak_memory_bytes=max(
            (task.peak_memory_bytes for task in tasks if task.peak_memory_bytes is not None), default=None
        ),
        tries=max((task.tries for task in tasks if task.tries is not None), default=None),
    )


def _all_of(seconds: Sequence[float | None]) -> float | None:
    """Add up; if there are none, or one of them is not known, neither is the sum."""
    known = [each for each in seconds if each is not None]
    return math.fsum(known) if known and len(known) == len(seconds) else None


def _instance_name(group: DeclaredGroup, index: int, its: Sequence[TaskRun]) -> str:
    """Name a branch of a mapped group, or a batch; of several tasks the first alone may know the name."""
    if group.mode == "batched":
        return f"{group.group_id} batch {index}"
    told = (each.rendered_name or (each.record or {}).get("name") for each in its)
    named = next((str(name) for name in told if name is not None), None)
    if named is None and group.names is not None and index < len(group.names):
        named = group.names[index]
    return named or f"{group.label}_{index}"


def _items(facts: RunFacts, group: DeclaredGroup, batch: BranchRun) -> Iterator[BranchRun]:
    """Account for the items of one batch: by its record, or, if it left none, by its own state."""
    (its,) = batch.task_runs
    record = its.told if is_of_batch(its.told) else {}
    if record:
        start = record["start"]
        count = len(record["states"])
    else:
        start, count = _place(facts, group, its.map_index)
    names = (
        record.get("names")
        or (group.names or ())[start : start + count]
        or facts.batch_names.get((group.prefix + SPLIT, its.map_index))
        or [f"{group.label}_{place}" for place in range(start, start + count)]
    )
    for place, name in enumerate(names):
        yield _item(str(name), its, record, place)


def _item(name: str, its: TaskRun, record: Mapping[str, Any], place: int) -> BranchRun:
    letter = record["states"][place] if record else ""
    if its.state == UP_FOR_RETRY and letter not in {ITEM_SUCCEEDED, ITEM_SKIPPED}:
        letter = ""  # it runs again
    error: str | None = None
    if letter:
        state: str = state_of_item(letter, its.state or "")
        error = error_of(record["errors"].get(str(place))) if state == "failed" else None
        if state == "missing":
            error = MARKED_BY_HAND
        elif state == "success" and not its.has_value and its.state in {"success", "failed"}:
            state, error = "missing", GONE
    elif its.state in FINISHED:
        state, error = state_of_batch(its.state or "", its.told)
    else:
        state = its.state or WAITING
    if letter == ITEM_STOPPED:
        error = error_of(record["stopped"]) or "not started"
    timing = BranchTiming(
        name=name,
        state=state,
        queued=None,
        started=None,
        ended=None,
        work_seconds=seconds_of(record["seconds"][place]) if record else None,
        cpu_seconds=seconds_of(record["cpu_seconds"][place]) if record else None,
        tries=its.tries,
    )
    return BranchRun(
        name=name,
        state=state,
        timing=timing,
        error=error,
        is_stopped=letter == ITEM_STOPPED,
        task_runs=(its,),
    )


def _place(facts: RunFacts, group: DeclaredGroup, number: int) -> tuple[int, int]:
    """First place and number of the items of a batch that left no record."""
    places = facts.places.get(group.prefix + SPLIT)
    if places is not None and number < len(places):
        start, stop = places[number]
        return start, stop - start
    size = group.items_per_task or 1
    start = number * size
    return start, size if group.count is None else max(0, min(size, group.count - start))
