"""A run's task instances, and what they recorded -> what became of each branch; for CLI and UI."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_fanout.batch import STOPPED as ITEM_STOPPED
from airflow_fanout.batched_ledger import state_of_batch, state_of_item
from airflow_fanout.hooks import NO_EXCEPTION_RECORDED, STOPPED
from airflow_fanout.ledger import GONE, MARKED_BY_HAND
from airflow_fanout.names import instance_name, listing, natural_key
from airflow_fanout.record_shapes import BATCH, error_of, is_of_batch, seconds_of
from airflow_fanout.report import BranchTiming
from airflow_fanout.splitting import SPLIT

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from datetime import datetime

    from airflow_fanout.declaration import DeclaredBranch, DeclaredGroup
    from airflow_fanout.outline import DagOutline, FanInOutline

__all__ = [
    "FINISHED",
    "WAITING",
    "BranchRun",
    "GroupRun",
    "RunFacts",
    "TaskRun",
    "TaskTry",
    "UnknownGroupError",
    "chosen_group_runs",
    "group_runs",
]

FINISHED = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})
"""States in which Airflow does no more with a task instance."""

WAITING = "waiting"
"""State of what Airflow has none for: nothing has been decided yet."""


class UnknownGroupError(LookupError):
    """Raised when a run has no group of an id; its text is for people."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTry:
    """
    A try of a task instance that another one has followed.

    :param number: Which one it was; the first is 1.
    :param state: How it ended, in Airflow's words; None if that isn't known.
    :param queued: When it was queued.
    :param started: When it started.
    :param ended: When it ended.
    """

    number: int
    state: str | None
    queued: datetime | None
    started: datetime | None
    ended: datetime | None


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """
    One task instance of a run.

    :param task_id: Id of its task.
    :param map_index: Its index; -1 if it is not mapped.
    :param state: Its state, in Airflow's words; None if it has none yet.
    :param queued: When its last try was queued.
    :param started: When that started.
    :param ended: When that ended.
    :param tries: Number of tries so far.
    :param earlier: The tries before the last, in order, as far as Airflow keeps them.
    :param rendered_name: What it calls itself in the UI; None if that is its index.
    :param hostname: Where it ran.
    :param record: What it pushed beside its value; None if it pushed nothing.
    :param has_value: Whether there is an XCom ``return_value`` of it.
    """

    task_id: str
    map_index: int = -1
    state: str | None = None
    queued: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    tries: int = 0
    earlier: tuple[TaskTry, ...] = ()
    rendered_name: str | None = None
    hostname: str = ""
    record: Mapping[str, Any] | None = None
    has_value: bool = False

    @property
    def name(self) -> str:
        """How Airflow calls it."""
        return self.task_id if self.map_index < 0 else instance_name(self.task_id, self.map_index)

    @cached_property
    def told(self) -> Mapping[str, Any]:
        """Its record, if it is of the try that its state tells of; else an empty one."""
        record = self.record if isinstance(self.record, Mapping) else {}
        state = record.get("state")
        fits = {"success": {"success", BATCH}, "failed": {"failed", BATCH}, "skipped": {STOPPED}}
        return record if isinstance(state, str) and state in fits.get(self.state or "", ()) else {}

    @property
    def cores(self) -> int | None:
        """Cores that it could run on; None if it recorded none."""
        return _positive(self.told.get("cores"))

    @property
    def item_concurrency(self) -> int | None:
        """How many items of a batch could run at once; None if it recorded none."""
        return _positive(self.told.get("concurrency"))

    @property
    def timing(self) -> BranchTiming:
        """Its times, with the seconds inside its code: those of its items together, if it ran a batch."""
        return BranchTiming(
            name=self.name,
            state=self.state or WAITING,
            queued=self.queued,
            started=self.started,
            ended=self.ended,
            work_seconds=_sum(self.told.get("seconds")),
            cpu_seconds=_sum(self.told.get("cpu_seconds"), like=self.told.get("seconds")),
            peak_memory_bytes=_positive(self.told.get("peak_memory_bytes")),
            tries=self.tries,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchRun:
    """
    What became of one branch, one item or one batch.

    :param name: Its name.
    :param state: As a fan-in would say, ``success``, ``failed``, ``upstream_failed``, ``skipped``,
        ``missing`` or ``removed``; before it has ended in Airflow's words, or ``waiting``.
    :param timing: Its times; of an item only the seconds in its code.
    :param error: ``"ValueError: message"``, or why there is no value; None if there is no more to say.
    :param is_stopped: Whether ``stop_after_failures`` kept it from starting.
    :param task_runs: Its task instances, in the order in which its tasks run; an item's is that of its batch.
    """

    name: str
    state: str
    timing: BranchTiming
    error: str | None = None
    is_stopped: bool = False
    task_runs: tuple[TaskRun, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroupRun:
    """
    What became of one group.

    :param title: The group's id, with the index of the mapped task group that it stands in, if any; of
        branches that only a prefix brings together, their fan-in's id.
    :param group: The group; None if only a prefix brings the branches together.
    :param map_index: Index of the mapped task group that it stands in; -1 outside of one.
    :param fan_in_ids: Ids of the fan-ins that collect it.
    :param branches: Its branches; the items, of a batched group.
    :param batches: The tasks of a batched group, as one branch each; None of any other.
    :param unexpanded: The mapped task, while it is not expanded, or for good.
    """

    title: str
    group: DeclaredGroup | None
    map_index: int = -1
    fan_in_ids: tuple[str, ...] = ()
    branches: tuple[BranchRun, ...] = ()
    batches: tuple[BranchRun, ...] | None = None
    unexpanded: TaskRun | None = None

    @property
    def ran(self) -> tuple[BranchRun, ...]:
        """What Airflow ran at the same time: the branches, or the batches."""
        return self.branches if self.batches is None else self.batches


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """
    All that is known of one run.

    :param dag_id: Id of the Dag.
    :param run_id: Id of the run.
    :param state: State of the run.
    :param outline: The Dag, as it was for the run.
    :param task_runs: All its task instances.
    :param prefixes: Prefixes as rendered, by fan-in, of those that have a template.
    :param places: First place and the one after the last of each batch, by the task that cut them.
    :param batch_names: Names of the items of batches that left no record, by that task and number.
    """

    dag_id: str
    run_id: str
    state: str
    outline: DagOutline
    task_runs: tuple[TaskRun, ...]
    prefixes: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    batch_names: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)

    @cached_property
    def by_task(self) -> Mapping[str, Mapping[int, TaskRun]]:
        """Task instances by task id and map index, in order."""
        found: dict[str, dict[int, TaskRun]] = {}
        for each in sorted(self.task_runs, key=lambda each: each.map_index):
            found.setdefault(each.task_id, {})[each.map_index] = each
        return found

    def prefix_of(self, fan_in: FanInOutline) -> str | None:
        """Return a fan-in's prefix as rendered; None if it has none, or has not been rendered yet."""
        if fan_in.is_templated:
            return self.prefixes.get(fan_in.task_id)
        return fan_in.prefix


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
            matches = outline.matches(fan_in, prefix)
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
    return BranchTiming(
        name=name,
        state=state,
        queued=min((task.queued for task in tasks if task.queued is not None), default=None),
        started=min((task.started for task in tasks if task.started is not None), default=None),
        ended=max((task.ended for task in tasks if task.ended is not None), default=None),
        work_seconds=_all_of([task.work_seconds for task in tasks]),
        cpu_seconds=_all_of([task.cpu_seconds for task in tasks]),
        peak_memory_bytes=max(
            (task.peak_memory_bytes for task in tasks if task.peak_memory_bytes is not None), default=None
        ),
        tries=tasks[-1].tries,
    )


def _all_of(seconds: Sequence[float | None]) -> float | None:
    """Add up; what one of them is not known, the sum is not known."""
    known = [each for each in seconds if each is not None]
    return math.fsum(known) if len(known) == len(seconds) else None


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
    error: str | None = None
    if record:
        state: str = state_of_item(letter, its.state or "")
        error = error_of(record["errors"].get(str(place))) if state == "failed" else None
        if state == "missing":
            error = MARKED_BY_HAND
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


def _sum(value: object, *, like: object = None) -> float | None:
    """
    Add up what is known of a batch's items; a task's own seconds stay as they are.

    :param value: The seconds.
    :param like: Others; if one of these is known whose counterpart isn't, neither is the sum.
    """
    if not isinstance(value, list):
        return seconds_of(value)
    if isinstance(like, list) and len(like) == len(value):
        pairs = zip(value, like, strict=True)
        if any(seconds_of(its) is None and seconds_of(other) is not None for its, other in pairs):
            return None
    known = [seconds for each in value if (seconds := seconds_of(each)) is not None]
    return math.fsum(known) if known else None


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
