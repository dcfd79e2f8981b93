"""What became of a run's branches -> its report, in shapes that JSON can hold."""

from __future__ import annotations

import heapq
import math
import shlex
from collections import Counter
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING, TypedDict

from airflow_fanout.reports.advice import Figures, advise, host_loads
from airflow_fanout.reports.rerun import causes_before
from airflow_fanout.reports.runs import PROBLEMS
from airflow_fanout.reports.timing import find_straggler, median_overhead_seconds, share_computed, summarize
from airflow_fanout.rules.capacity import describe
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.names import natural_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from airflow_fanout.reports.runs import BranchRun, GroupRun, RunFacts, TaskRun
    from airflow_fanout.reports.timing import BranchTiming
    from airflow_fanout.rules.capacity import Capacity
    from airflow_fanout.serialization.outline import DagOutline


__all__ = [
    "AdviceReport",
    "BranchReport",
    "Cause",
    "GroupReport",
    "ItemPage",
    "ItemReport",
    "ItemsReport",
    "Problem",
    "RunReport",
    "Slow",
    "TryReport",
    "item_page",
    "run_report",
]

ENDED = FINISHED | {"missing"}
"""States of branches that nothing more will become of."""

ENDED_RUN = frozenset({"success", "failed"})

SLOWEST = 3
"""Branches that are named as the slowest."""

SLOWEST_ITEMS = 10
"""Items that are: a batched group may have a million."""

PROBLEM_ITEMS = 20
"""Items without a value that are named; the rest are counted."""

PYTHON_TASKS = frozenset({"_PythonDecoratedOperator", "PythonOperator"})
"""Operators whose branches could run in batches too."""


def run_report(
    facts: RunFacts,
    runs: Iterable[GroupRun],
    *,
    now: datetime,
    capacity_of: Callable[[GroupRun, int], Capacity | None],
) -> RunReport:
    """
    Put a run's report together.

    :param facts: The run.
    :param runs: Its groups.
    :param now: When it was read.
    :param capacity_of: Tells how many of a group's branches, or batches, of which there are so many, can run
        at once; None if that isn't known.
    """
    runs = list(runs)
    is_finished = facts.state in ENDED_RUN
    failed = any(b.state in PROBLEMS or b.is_stopped for run in runs for b in run.branches)
    rerun = shlex.join(["airflow", "fanout", "rerun", facts.dag_id, facts.run_id])
    return RunReport(
        dag_id=facts.dag_id,
        run_id=facts.run_id,
        state=facts.state,
        is_finished=is_finished,
        read_at=now.isoformat(),
        groups=[group_report(facts, run, now=now, capacity_of=capacity_of) for run in runs],
        rerun=rerun if failed and is_finished else None,
    )


def group_report(
    facts: RunFacts,
    run: GroupRun,
    *,
    now: datetime,
    capacity_of: Callable[[GroupRun, int], Capacity | None],
) -> GroupReport:
    """
    Put one group's report together.

    :param facts: The run.
    :param run: The group.
    :param now: When it was read.
    :param capacity_of: As in :func:`run_report`.
    """
    is_finished = all(branch.state in ENDED for branch in run.ran) and _is_settled(run)
    timings = [_so_far(branch.timing, now) for branch in run.ran]
    if run.batches is not None:
        timings = [_of_all_tries(timing, batch) for timing, batch in zip(timings, run.batches, strict=True)]
    summary = summarize(timings, slowest=SLOWEST)
    straggler = find_straggler(timings)
    spans = _spans(run, timings)
    overhead_share = summarize(spans).overhead_share
    if run.batches is not None and overhead_share is not None and overhead_share < 0:
        overhead_share = None  # of work that an earlier try had done
    item_concurrency = _item_concurrency(run)
    capacity = capacity_of(run, summary.total) if summary.total else None
    items = None if run.batches is None else _items(run)
    works = [b.timing.work_seconds for b in run.branches if b.timing.work_seconds is not None]
    figures = Figures(
        mode=None if run.group is None else run.group.mode,
        takes_batches=_takes_batches(facts.outline, run),
        tasks=summary.total,
        parts=sum(branch.state != "removed" for branch in run.branches),
        peak=summary.peak_concurrency,
        overhead_share=overhead_share,
        steps=None if run.group is None else run.group.steps,
        median_work=median(works) if works else None,
        median_overhead=None if overhead_share is None else median_overhead_seconds(spans),
        items_per_task=None if run.group is None else run.group.items_per_task,
        item_concurrency=item_concurrency,
        wall_seconds=summary.wall_seconds,
        straggler=straggler,
        capacity=capacity,
        hosts=host_loads(each for branch in run.ran for each in branch.task_runs),
        share_computed=share_computed(branch.timing for branch in run.branches),
    )
    cpu = [t.cpu_seconds for t in timings if t.cpu_seconds is not None and t.state != "removed"]
    memory = [t.peak_memory_bytes for t in timings if t.peak_memory_bytes is not None]
    return GroupReport(
        title=run.title,
        group_id=None if run.group is None else run.group.group_id,
        map_index=run.map_index,
        mode="prefix" if run.group is None else run.group.mode,
        fan_in_ids=list(run.fan_in_ids),
        degraded=_is_degraded(facts, run),
        is_finished=is_finished,
        unexpanded=None if run.unexpanded is None else run.unexpanded.timing.state,
        causes=[
            Cause(task_id=each.task_id, map_index=each.map_index, state=each.state)
            for each in causes_before(facts, run)
        ],
        states=summary.branches,
        total=summary.total,
        recorded=summary.recorded,
        work_seconds=summary.work_seconds,
        wall_seconds=summary.wall_seconds,
        speed_up=summary.speed_up,
        overhead_share=overhead_share,
        elapsed_sum_seconds=summary.elapsed_sum_seconds,
        cpu_seconds=math.fsum(cpu) if cpu else None,
        peak_memory_bytes=max(memory, default=None),
        declared_concurrency=summary.total,
        effective_concurrency=None if capacity is None else capacity.effective,
        limit=None if capacity is None or capacity.limit is None else _said(capacity, run),
        peak_concurrency=summary.peak_concurrency,
        item_concurrency=item_concurrency,
        slowest=[
            Slow(name=slow.name, seconds=slow.seconds, measure=slow.measure) for slow in summary.slowest
        ],
        wall_without_slowest_seconds=None if straggler is None else straggler.wall_of_others,
        saved_without_slowest_seconds=None if straggler is None else straggler.saved_seconds,
        branches=_branches(run),
        items=items,
        advice=_advice(figures) if is_finished else [],
    )


def _is_degraded(facts: RunFacts, run: GroupRun) -> bool:
    fan_ins = (facts.by_task.get(task_id, {}).get(run.map_index) for task_id in run.fan_in_ids)
    if not any(fan_in is not None and fan_in.state == "success" for fan_in in fan_ins):
        return False
    return any(branch.state in PROBLEMS or branch.is_stopped for branch in run.branches)


def _advice(figures: Figures) -> list[AdviceReport]:
    return [
        AdviceReport(kind=each.kind, text=each.text, setting=each.setting, value=each.value)
        for each in advise(figures)
    ]


def _is_settled(run: GroupRun) -> bool:
    """Whether a mapped task that is not expanded never will be."""
    return run.unexpanded is None or run.unexpanded.state in FINISHED


def _said(capacity: Capacity, run: GroupRun) -> str:
    one, many = ("branch", "branches") if run.batches is None else ("batch", "batches")
    return describe(capacity, one=one, many=many, of_each=None if run.group is None else run.group.steps)


def _this_try(timing: BranchTiming) -> BranchTiming:
    """Drop of a branch that has not ended what Airflow still has of its try before."""
    if timing.state in ENDED or timing.queued is None or timing.ended is None:
        return timing
    if timing.ended >= timing.queued:
        return timing
    return replace(timing, started=timing.started if timing.state == "running" else None, ended=None)


def _so_far(timing: BranchTiming, now: datetime) -> BranchTiming:
    """Count what has not ended up to the present."""
    timing = replace(_this_try(timing), tasks=tuple(_so_far(task, now) for task in timing.tasks))
    if timing.state in ENDED or timing.queued is None or timing.ended is not None:
        return timing
    return replace(timing, ended=now)


def _of_all_tries(timing: BranchTiming, batch: BranchRun) -> BranchTiming:
    """Have a batch begin with the first of the tries whose items its last one goes on with."""
    began, tries = timing, [timing]
    for task_run in batch.task_runs:
        for each in reversed(task_run.earlier):
            if each.state == "success" or each.queued is None or each.started is None:
                break  # cleared after a success, it ran all of its items again
            began = replace(began, queued=each.queued, started=each.started)
            if each.ended is not None:
                tries.append(replace(began, ended=each.ended))
    return replace(began, tasks=tuple(tries))


def _spans(run: GroupRun, timings: list[BranchTiming]) -> list[BranchTiming]:
    """Have as work, of batches whose items ran at once, the time that those of the last try took together."""
    if run.batches is None or _item_concurrency(run) == 1:
        return timings
    return [
        replace(batch.timing, work_seconds=each.elapsed_seconds)
        for batch in run.batches
        for each in batch.task_runs
    ]


def _item_concurrency(run: GroupRun) -> int | None:
    known = [each.item_concurrency for batch in run.batches or () for each in batch.task_runs]
    return max((number for number in known if number is not None), default=None)


def _takes_batches(outline: DagOutline, run: GroupRun) -> bool:
    """Whether ``items_per_task`` can be given to a group, or a larger one."""
    if run.group is None or run.map_index >= 0:
        return False
    if run.group.mode == "batched":
        return True
    steps = [run.group.each] if run.group.each else [branch.task_ids for branch in run.group.branches]
    return all(len(ids) == 1 and outline.tasks[ids[0]].operator in PYTHON_TASKS for ids in steps)


def _branches(run: GroupRun) -> list[BranchReport]:
    items: dict[int, Counter[str]] = {}
    if run.batches is not None:
        for item in run.branches:
            items.setdefault(item.task_runs[0].map_index, Counter())[item.state] += 1
    found: list[BranchReport] = []
    for branch in run.ran:
        timing = _this_try(branch.timing)
        told_by = _told_by(branch)
        counts = items.get(branch.task_runs[0].map_index, Counter()) if run.batches is not None else None
        found.append(
            BranchReport(
                name=branch.name,
                state=branch.state,
                task_id=None if told_by is None else told_by.task_id,
                map_index=-1 if told_by is None else told_by.map_index,
                step=_step(branch, told_by),
                error=branch.error,
                is_stopped=branch.is_stopped,
                queued=_iso(timing.queued),
                started=_iso(timing.started),
                ended=_iso(timing.ended),
                tries=timing.tries,
                earlier_tries=[
                    TryReport(
                        number=each.number,
                        state=each.state,
                        queued=_iso(each.queued),
                        started=_iso(each.started),
                        ended=_iso(each.ended),
                    )
                    for task_run in branch.task_runs
                    for each in task_run.earlier
                    if each.has_run
                ],
                work_seconds=timing.work_seconds,
                cpu_seconds=timing.cpu_seconds,
                peak_memory_bytes=timing.peak_memory_bytes,
                host=next((each.hostname for each in reversed(branch.task_runs) if each.hostname), None),
                items=None if counts is None else dict(sorted(counts.items())),
            )
        )
    return found


def _told_by(branch: BranchRun) -> TaskRun | None:
    """Return the task instance whose log tells why a branch is in its state."""
    for state in (branch.state, "failed", "running"):
        found = [each for each in branch.task_runs if each.state == state]
        if found and state != "success":
            return found[0]
    return branch.task_runs[-1] if branch.task_runs else None


def _step(branch: BranchRun, told_by: TaskRun | None) -> str | None:
    """Name the task that failed a branch of several tasks."""
    if branch.state != "failed" or told_by is None or len({each.task_id for each in branch.task_runs}) == 1:
        return None
    return told_by.task_id.rpartition(".")[2]


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _items(run: GroupRun) -> ItemsReport:
    items = run.branches
    timed = [(seconds, item.name) for item in items if (seconds := item.timing.work_seconds) is not None]
    slowest = heapq.nsmallest(SLOWEST_ITEMS, timed, key=lambda each: (-each[0], natural_key(each[1])))
    problems = list(_problems(run))
    return ItemsReport(
        states=dict(sorted(Counter(item.state for item in items).items())),
        total=sum(item.state != "removed" for item in items),
        recorded=len(timed),
        median_work_seconds=median(seconds for seconds, _ in timed) if timed else None,
        slowest=[Slow(name=name, seconds=seconds, measure="work") for seconds, name in slowest],
        problems=problems[:PROBLEM_ITEMS],
        problem_count=sum(problem["items"] for problem in problems),
    )


def _problems(run: GroupRun) -> Iterator[Problem]:
    """Yield first the batches that left no record, then single items."""
    names = {
        each.map_index: batch.name
        for batch in run.batches or ()
        for each in batch.task_runs
        if each.batch_record is None
    }
    silent: dict[int, list[BranchRun]] = {}
    others: list[BranchRun] = []
    for item in run.branches:
        if item.state in PROBLEMS:
            number = item.task_runs[0].map_index
            (silent.setdefault(number, []) if number in names else others).append(item)
    for number, its in silent.items():
        yield _problem(its[0], names[number] if len(its) > 1 else its[0].name, len(its))
    yield from (_problem(item, item.name, 1) for item in others)


def _problem(item: BranchRun, name: str, items: int) -> Problem:
    (its,) = item.task_runs
    return Problem(
        name=name,
        items=items,
        state=item.state,
        error=item.error,
        task_id=its.task_id,
        map_index=its.map_index,
    )


class Slow(TypedDict):
    """A slow branch or item; ``measure`` is ``work`` or, where that isn't known, ``elapsed``."""

    name: str
    seconds: float
    measure: str


class Problem(TypedDict):
    """
    An item that left no value, though it should have, and its batch's task instance.

    ``items`` is 1, or how many items it stands for: all of a batch that left no record have one reason, and
    the batch's name.
    """

    name: str
    items: int
    state: str
    error: str | None
    task_id: str
    map_index: int


class Cause(TypedDict):
    """A task instance before the branches that failed, and kept some of them from starting."""

    task_id: str
    map_index: int
    state: str | None


class AdviceReport(TypedDict):
    """A piece of advice, as :class:`~airflow_fanout.reports.advice.Advice` explains it."""

    kind: str
    text: str
    setting: str | None
    value: int | None


class TryReport(TypedDict):
    """A try that another one has followed; moments are ISO 8601."""

    number: int
    state: str | None
    queued: str | None
    started: str | None
    ended: str | None


class BranchReport(TypedDict):
    """
    A branch, or a batch; moments are ISO 8601, of the last try.

    ``task_id`` and ``map_index`` are of the task instance to look at: the one that failed, the one that runs,
    else the last; None and -1 where there is none yet. One that never started has no moments. ``tries`` are
    those of the task that was tried most often, ``earlier_tries`` are all its tasks'. ``items`` is the number
    of a batch's items by state, None of a branch; ``host`` is where its last task ran. ``step`` is the last
    part of ``task_id``, if the branch failed and has several tasks.
    """

    name: str
    state: str
    task_id: str | None
    map_index: int
    step: str | None
    error: str | None
    is_stopped: bool
    queued: str | None
    started: str | None
    ended: str | None
    tries: int | None
    earlier_tries: list[TryReport]
    work_seconds: float | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    host: str | None
    items: dict[str, int] | None


class ItemsReport(TypedDict):
    """
    The items of a batched group: how many by state, how many recorded their work, and a few by name.

    ``problems`` are the first that left no value, ``problem_count`` is how many did.
    """

    states: dict[str, int]
    total: int
    recorded: int
    median_work_seconds: float | None
    slowest: list[Slow]
    problems: list[Problem]
    problem_count: int


class GroupReport(TypedDict):
    """
    A group; what its figures mean is in :class:`~airflow_fanout.reports.timing.GroupSummary`.

    ``mode`` is ``static``, ``mapped``, ``batched`` or, of branches that only a prefix brings together,
    ``prefix``. ``states``, ``total``, ``recorded`` and all that runs at once are about the branches, or the
    batches of a batched group. While ``is_finished`` is false, figures are those up to the report's
    ``read_at``, and there is no advice. ``effective_concurrency`` and ``limit`` are as things are now.
    ``unexpanded`` is the state of a mapped group's task that was not expanded; ``causes`` are what failed
    before the branches, and left some of them ``upstream_failed``. ``degraded`` is whether a fan-in succeeded
    in spite of failed, missing or stopped branches (items). Of a batch that went on where an earlier try had
    ended, the work is that of all these tries, and so is the time. ``item_concurrency`` is how many items of
    a batch could run at once, None of branches; where that is more than one, the overhead is that of the last
    tries, beside the time in which items ran.
    """

    title: str
    group_id: str | None
    map_index: int
    mode: str
    fan_in_ids: list[str]
    degraded: bool
    is_finished: bool
    unexpanded: str | None
    causes: list[Cause]
    states: dict[str, int]
    total: int
    recorded: int
    work_seconds: float | None
    wall_seconds: float | None
    speed_up: float | None
    overhead_share: float | None
    elapsed_sum_seconds: float | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    declared_concurrency: int
    effective_concurrency: int | None
    limit: str | None
    peak_concurrency: int
    item_concurrency: int | None
    slowest: list[Slow]
    wall_without_slowest_seconds: float | None
    saved_without_slowest_seconds: float | None
    branches: list[BranchReport]
    items: ItemsReport | None
    advice: list[AdviceReport]


class RunReport(TypedDict):
    """
    A run.

    ``read_at`` is when it was read; ``rerun`` is the command that runs again what failed, if anything did.
    """

    dag_id: str
    run_id: str
    state: str
    is_finished: bool
    read_at: str
    groups: list[GroupReport]
    rerun: str | None


class ItemReport(TypedDict):
    """An item; ``work_seconds`` are those inside its code, None if they were not recorded."""

    name: str
    state: str
    error: str | None
    is_stopped: bool
    work_seconds: float | None


class ItemPage(TypedDict):
    """Some items of a batch; ``start`` is the place of the first among the batch's ``total``."""

    start: int
    total: int
    items: list[ItemReport]


def item_page(run: GroupRun, map_index: int, *, start: int, size: int) -> ItemPage:
    """
    Take some items of one batch, in declared order.

    :param run: The group.
    :param map_index: Number of the batch.
    :param start: Place of the first one.
    :param size: How many, at most.
    """
    its = [item for item in run.branches if item.task_runs and item.task_runs[0].map_index == map_index]
    if run.batches is None:
        its = []
    return ItemPage(
        start=start,
        total=len(its),
        items=[
            ItemReport(
                name=item.name,
                state=item.state,
                error=item.error,
                is_stopped=item.is_stopped,
                work_seconds=item.timing.work_seconds,
            )
            for item in its[start : start + size]
        ],
    )
