"""A run's task instances, and what they recorded -> what became of each branch; for CLI and UI."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.runs import BatchItems, BranchRun, GroupRun, ItemRuns, RunFacts, TaskRun
from airflow_fanout.reports.timing import sum_of_known
from airflow_fanout.rules.identity import REMOVED, Execution, match_names
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.names import (
    SPLIT,
    IndexedNames,
    batch_name,
    indexed_name,
    indexed_names,
    instance_name,
    natural_key,
)
from airflow_fanout.rules.outcomes import WAITING, BranchTasks, judge_branch, judge_items
from airflow_fanout.rules.policy import known as known_number
from airflow_fanout.rules.records import RETURN_VALUE, is_skipped_by, name_in, part_key
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from airflow_fanout.reports.timing import BranchTiming
    from airflow_fanout.rules.outcomes import ValueState
    from airflow_fanout.rules.records import Bounds
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
            task = tasks[task_id]
            is_together = fan_in_group is not None and task.mapped_group == fan_in_group
            is_expanded = task.is_mapped or not (is_together or task.mapped_group is None)
            for index, task_run in facts.by_task.get(task_id, {}).items():
                # A mapped task that was skipped before it was expanded has no branches.
                is_none = is_expanded and index < 0 and task_run.state == "skipped"
                if not is_none and (not is_together or index == fan_in_index):
                    # The database has a group of this package that has no fan-in of its own as plain tasks.
                    is_ours = task_run.any_record is not None
                    branch = BranchTasks(task_ids=(task_id,), map_index=index, is_ours=is_ours)
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
    is_unexpanded = bool(indexes) and not instances
    has_branches = not is_unexpanded or _had_no_items(facts, group)
    batches: tuple[BranchRun, ...] | None = None
    branches: Sequence[BranchRun] = ()
    if group.mode == "batched":
        task_runs = [facts.by_task[group.each[-1]][index] for index in instances]
        batches = tuple(_batch(group, task_run) for task_run in task_runs)
        # Of a group that reuses values only the rest was cut into batches.
        cut = group._replace(count=None, names=None) if group.reuses else group
        branches = _items(facts, cut, task_runs) if has_branches else ()
    elif has_branches:
        branches = _mapped(facts, group, instances, keys)
    yield GroupRun(
        title=group.group_id,
        group=group,
        branches=branches,
        batches=batches,
        unexpanded=facts.find(group.each, -1)[-1] if is_unexpanded else None,
        reused=reuse.reused if (reuse := facts.reuse.get(group.prefix + SPLIT)) is not None else 0,
    )


def _had_no_items(facts: RunFacts, group: DeclaredGroup) -> bool:
    """Whether a group that never was expanded had no items, of which there may be some now."""
    if any(run.state != "skipped" for run in facts.find(group.each[-1:], -1)):
        return False
    tasks = [facts.outline.tasks[task_id] for task_id in group.each if task_id in facts.outline.tasks]
    upstream = set().union(*(task.upstream for task in tasks)) - set(group.each)
    # A branching task succeeds too when it skips what comes after it.
    return all(
        run.state == "success" for up in upstream for run in facts.by_task.get(up, {}).values()
    ) and not any(is_skipped_by(facts.skips.get(up), task.task_id) for task in tasks for up in task.upstream)


def _static(facts: RunFacts, group: DeclaredGroup, keys: Sequence[str]) -> Iterator[GroupRun]:
    """A group outside of mapped task groups, or as often as it was expanded with the one around it."""
    tasks = facts.outline.tasks
    last_ids = [branch.last_task_id for branch in group.branches]
    indexes = [-1]
    if any(tasks[task_id].mapped_group is not None for task_id in last_ids if task_id in tasks):
        found = {n for task_id in last_ids for n in facts.by_task.get(task_id, {}) if n >= 0}
        indexes = sorted(found) or [-1]
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
    removed: dict[str, list[str]] = {}
    for task_id in facts.undeclared:
        name = group.undeclared_branch(task_id)
        if name is not None and (map_index < 0 or map_index in facts.by_task[task_id]):
            removed.setdefault(name, []).append(task_id)
    for name in sorted(removed, key=natural_key):
        tasks = BranchTasks(task_ids=tuple(removed[name]), map_index=map_index)
        branch = _branch(facts, name, tasks, [RETURN_VALUE])
        yield replace(branch, state="removed", error=REMOVED.error, is_stopped=False)


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
        "read_bytes": _all_bytes([task.read_bytes for task in worked]),
        "written_bytes": _all_bytes([task.written_bytes for task in worked]),
        "tries": max((task.tries for task in tasks if task.tries is not None), default=None),
        "tasks": tuple(tries for task in tasks for tries in task.tasks),
    }


def _all_of(seconds: Sequence[float | None]) -> float | None:
    """Add up; None if one is not known."""
    return None if None in seconds else sum_of_known(seconds)


def _all_bytes(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known and len(known) == len(numbers) else None


def _mapped(
    facts: RunFacts, group: DeclaredGroup, instances: Sequence[int], keys: Sequence[str]
) -> list[BranchRun]:
    names: Sequence[str] | None = group.names
    count = group.count
    if count is None:
        last = group.each[-1:]
        kept = sum(run.state != "removed" for index in instances for run in facts.find(last, index))
        yielded = facts.yielded.get(group.group_id, kept)
        names, count = (None, yielded) if isinstance(yielded, int) else (yielded, len(yielded))
    expected = indexed_names(group.label, count) if names is None else names
    executions = [
        Execution(
            position=index,
            name=_name_that_ran(facts, group, index, is_named=names is not None),
            title=instance_name(group.each[-1], index),
            is_removed=any(run.state == "removed" for run in facts.find(group.each[-1:], index)),
        )
        for index in instances
    ]
    now = dict(enumerate(expected))
    branches = [
        _branch(
            facts,
            execution.name or now.get(execution.position) or execution.title,
            BranchTasks(task_ids=group.each, map_index=execution.position),
            keys,
        )
        for execution in executions
    ]
    return _arranged(branches, executions, expected, lambda position: facts.find(group.each, position))


def _name_that_ran(facts: RunFacts, group: DeclaredGroup, index: int, *, is_named: bool) -> str | None:
    """Name of its last task, what failed before it, or, if named, its first; of all others its number."""
    *earlier, last = group.each
    telling = [last]
    telling += [
        run.task_id for run in reversed(facts.find(earlier, index)) if run.state in {"failed", "skipped"}
    ]
    for task_run in facts.find([*telling, *(earlier[:1] if is_named else ())], index):
        if (name := name_in(task_run.told, group.group_id)) is not None:
            return name
    return None if is_named else indexed_name(group.label, index)


def _arranged(
    branches: Sequence[BranchRun],
    executions: Sequence[Execution],
    expected: Sequence[str],
    task_runs_at: Callable[[int], Sequence[TaskRun]],
) -> list[BranchRun]:
    """
    Put branches into the order that their names give them, as a fan-in does.

    :param task_runs_at: Finds what would run the branch at a position.
    """
    matches = match_names(expected, executions)
    if matches is None:
        return list(branches)
    has_ended = all(run.state in FINISHED for branch in branches for run in branch.task_runs[-1:])
    arranged = []
    for position, match in enumerate(matches):
        branch = BranchRun(name=match.name, state=WAITING)
        if match.execution is not None:
            branch = replace(branches[match.execution], name=match.name)
        if position < len(expected):
            branch = _placed(branch, task_runs_at(position))
        if match.ruling is not None and (has_ended or match.execution is not None):
            branch = replace(branch, state=match.ruling.state, error=match.ruling.error, is_stopped=False)
        arranged.append(branch)
    return arranged


def _placed(branch: BranchRun, task_runs: Sequence[TaskRun]) -> BranchRun:
    """Note what would run a branch, if others than the task instances that ran it would."""
    is_in_place = branch.task_runs and [run.key for run in task_runs] == [run.key for run in branch.task_runs]
    return branch if is_in_place else replace(branch, would_run=tuple(task_runs))


def _batch(group: DeclaredGroup, task_run: TaskRun) -> BranchRun:
    return BranchRun(
        name=batch_name(group.group_id, task_run.map_index),
        state=task_run.state or WAITING,
        task_runs=(task_run,),
        **_together([task_run.timing]),
    )


def _items(facts: RunFacts, group: DeclaredGroup, task_runs: Sequence[TaskRun]) -> Sequence[BranchRun]:
    """Items of all batches, those that never ran and those that are no longer declared included."""
    bounds = _bounds(facts, group, task_runs)
    starts = [first for first, *_ in bounds]
    known = IndexedNames(group.label, group.count or 0) if group.names is None else group.names
    yielded = yielded_names(facts, group)
    now = [
        _names_now(facts, group, number, cut) if group.count is None else known[cut[0] : cut[1]]
        for number, cut in enumerate(bounds)
    ]
    batches: list[tuple[TaskRun, int, Sequence[str]]] = []
    for run in task_runs:
        first, names = 0, now[run.map_index] if run.map_index < len(bounds) else ()
        if run.map_index < len(bounds):
            first = starts[run.map_index]
        if run.batch_record is not None:
            first, names = run.batch_record.start, run.batch_record.item_names(group.label, names)
        batches.append((run, first, names))
    is_whole = [run.map_index for run in task_runs] == list(range(len(bounds)))
    is_whole = is_whole and group.count in {None, sum(map(len, now))}
    is_any_removed = any(run.state == "removed" for run in task_runs)
    if (
        yielded is None
        and is_whole
        and not is_any_removed
        and all(map(_are_same, (names for *_, names in batches), now))
    ):
        return ItemRuns([_batch_items(run, names) for run, _, names in batches])
    expected = list(known) if group.count is not None else [name for names in now for name in names]
    if yielded is not None:
        expected = yielded
    branches = [item for run, _, names in batches for item in _batch_items(run, names)]

    def task_runs_at(position: int) -> Sequence[TaskRun]:
        return facts.find(group.each, max(bisect_right(starts, position) - 1, 0))

    if [name for *_, names in batches for name in names] == expected and not is_any_removed:
        # Cut into others, or its split is not known.
        return [_placed(item, task_runs_at(position)) for position, item in enumerate(branches)]
    executions = [
        Execution(
            position=first + index,
            name=None if run.batch_record is None else name,
            title=f"{run.name} item {index}",
            is_removed=run.state == "removed",
        )
        for run, first, names in batches
        for index, name in enumerate(names)
    ]
    return _arranged(branches, executions, expected, task_runs_at)


def yielded_names(facts: RunFacts, group: DeclaredGroup) -> list[str] | None:
    """Names of the items that there are since the task of a batched group has cut others; None if not."""
    yielded = facts.yielded.get(group.group_id) if group.mode == "batched" else None
    if yielded is None:
        return None
    return list(indexed_names(group.label, yielded) if isinstance(yielded, int) else yielded)


def items_of_batch(facts: RunFacts, group_id: str, number: int) -> Sequence[BranchRun]:
    """
    Items of one batch as it ran, or is to run them.

    :raises UnknownGroupError: If the run has no such batched group.
    """
    group = facts.outline.groups.get(group_id)
    if group is None or group.mode != "batched":
        message = f"Dag {facts.dag_id!r} has no batched group {group_id!r} in this run"
        raise UnknownGroupError(message)
    batches = []
    for run in facts.find(group.each, number):
        bounds = _bounds(facts, group, [run]) or [(0, 0, 0)]
        cut = bounds[number] if number < len(bounds) else bounds[-1]
        known = run.batch_record
        names = _names_now(facts, group, number, cut)
        names = names if known is None else known.item_names(group.label, names)
        batches.append(_batch_items(run, names))
    return ItemRuns(batches)


def _bounds(facts: RunFacts, group: DeclaredGroup, task_runs: Sequence[TaskRun]) -> Sequence[Bounds]:
    """Bounds of each batch; if nobody knows them, as far as the batches tell."""
    if (bounds := facts.bounds.get(group.prefix + SPLIT)) is not None:
        return bounds
    size = known_number(group.items_per_task)
    if group.count is not None and size is not None:
        return [(first, min(first + size, group.count), 0) for first in range(0, group.count, size)]
    known: list[Bounds] = []
    for run in task_runs:
        record = run.batch_record
        first, count = (
            (run.map_index * (size or 1), size or 1)
            if record is None
            else (record.start, len(record.statuses))
        )
        known.append((first, first + count, 0 if record is None else record.split))
    return known


def _names_now(facts: RunFacts, group: DeclaredGroup, number: int, cut: Bounds) -> Sequence[str]:
    """Names of the items that are now at the positions of a batch."""
    first, stop, _ = cut
    names: Sequence[str] = IndexedNames(group.label, stop - first, first=first)
    if group.names is not None:
        names = group.names[first:stop]
    names = facts.batch_names.get((group.prefix + SPLIT, number), names)
    for task_run in facts.find(group.each, number):
        record = task_run.batch_record
        if record is not None and record.cut == cut:
            return record.item_names(group.label, names)
    return names


def _are_same(some: Sequence[str], others: Sequence[str]) -> bool:
    if isinstance(some, IndexedNames) and isinstance(others, IndexedNames) and some.label == others.label:
        return some.indexes == others.indexes
    return list(some) == list(others)


def _batch_items(task_run: TaskRun, names: Sequence[str]) -> BatchItems:
    record = task_run.batch_record
    parts = None if record is None else record.parts
    keys = [RETURN_VALUE] if parts is None else map(part_key, range(parts))
    value: ValueState = "present"
    for key in keys if record is None or record.results is None else ():  # files are not looked for here
        if value == "present":
            value = task_run.values.get(key, "absent")
    return BatchItems(
        task_run=task_run,
        names=names,
        rulings=judge_items(task_run.state, task_run.told, len(names), value),
        seconds=() if record is None else record.seconds,
        cpu_seconds=() if record is None else record.cpu_seconds,
    )
