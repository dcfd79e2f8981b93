"""Makes a run's report of what became of its branches."""

from __future__ import annotations

import math
import shlex
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import accumulate, pairwise
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.advice import advise
from airflow_fanout.reports.branches import chosen_group_runs
from airflow_fanout.reports.figures import DONE, failures, figures, headline
from airflow_fanout.reports.group_capacity import capacities
from airflow_fanout.reports.group_report import (
    BranchReport,
    GroupReport,
    HostLoad,
    RunReport,
    StepTime,
)
from airflow_fanout.reports.problems import batch_of, failed_step, outcomes, task_to_look_at
from airflow_fanout.reports.rerun import causes_before
from airflow_fanout.reports.runs import ItemRuns
from airflow_fanout.reports.timing import (
    SlowBranch,
    count_states,
    segments,
    slowness,
    sum_of_known,
    summarize,
    summarize_work,
)
from airflow_fanout.rules.capacity import describe
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.names import EACH, SPLIT
from airflow_fanout.rules.outcomes import WAITING
from airflow_fanout.rules.policy import AT_RUN_TIME
from airflow_fanout.rules.records import MOST_STEPS, RETURN_VALUE
from airflow_fanout.rules.wording import shown_error, shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from airflow_fanout.reports.group_capacity import SchedulingLimits
    from airflow_fanout.reports.runs import BatchItems, BranchRun, GroupRun, RunFacts, TaskRun
    from airflow_fanout.reports.timing import GroupSummary, Span, Times
    from airflow_fanout.rules.capacity import Capacity
    from airflow_fanout.rules.records import BatchRecord, StoredResults
    from airflow_fanout.serialization.declaration import DeclaredGroup, ItemExecutor
    from airflow_fanout.serialization.outline import DagOutline

    CapacityOf = Callable[[GroupRun, int], Capacity | None]
    """Tells how many of a number of a group's branches, or batches, can run at once; None if unknown."""


ENDED = DONE | {"removed"}  # states of branches that nothing more will become of
SLOWEST_ITEMS = 10  # items that are named as the slowest: a batched group may have a million
FUNCTION_TASK = "_PythonDecoratedOperator"
"""Operator of branches that are plain functions; batches run no others."""


def run_report(
    facts: RunFacts, runs: Iterable[GroupRun], *, now: datetime, capacity_of: CapacityOf
) -> RunReport:
    """Put a run's report together, as it was read now."""
    runs = list(runs)
    is_finished = facts.state in {"success", "failed"}
    is_incomplete = any(run.is_incomplete for run in runs)
    rerun = shlex.join(["airflow", "fanout", "rerun", facts.dag_id, facts.run_id])
    return RunReport(
        dag_id=facts.dag_id,
        run_id=facts.run_id,
        state=facts.state,
        is_finished=is_finished,
        read_at=now,
        groups=tuple(group_report(facts, run, now=now, capacity_of=capacity_of) for run in runs),
        rerun=rerun if is_incomplete and is_finished else None,
    )


def report_of(facts: RunFacts, surroundings: SchedulingLimits, *, group_id: str | None = None) -> RunReport:
    """
    Make the report of a run, or of one group; errors are those of ``chosen_group_runs``.

    :param surroundings: What is outside of the Dag.
    """
    runs = chosen_group_runs(facts, None if group_id is None else [group_id])
    capacity_of = capacities(facts, surroundings)
    return run_report(facts, runs, now=datetime.now(UTC), capacity_of=capacity_of)


def group_report(facts: RunFacts, run: GroupRun, *, now: datetime, capacity_of: CapacityOf) -> GroupReport:
    """Put one group's report together."""
    so_far = [_so_far(branch, now) for branch in run.ran]
    summary = _summary(run, so_far)
    declared = run.group
    capacity = capacity_of(run, summary.total) if summary.total else None
    narrowest = None if capacity is None else capacity.limit
    items = None
    if run.batches is not None:
        items = outcomes(run, _summary_of_items(run))
    extra_calls = [
        tries - 1 for record in _batch_records(run) for tries in record.tries.values() if tries > 1
    ]
    is_finished = _is_finished(run)
    walls = () if declared is None or is_finished else facts.earlier_walls.get(declared.group_id, ())
    # A batched group's own times are those of its batches; its outcomes are those of its items.
    group = GroupReport(
        **vars(summary if items is not None else outcomes(run, summary)),
        title=run.title,
        group_id=None if declared is None else declared.group_id,
        map_index=run.map_index,
        mode="prefix" if declared is None else declared.mode,
        fan_in_ids=run.fan_in_ids,
        degraded=_is_degraded(facts, run),
        is_finished=is_finished,
        unexpanded=None if run.unexpanded is None else run.unexpanded.state or WAITING,
        causes=causes_before(facts, run),
        declared_concurrency=summary.total,
        effective_concurrency=None if capacity is None else capacity.effective,
        limit=None if capacity is None or narrowest is None else _describe(capacity, run),
        limit_setting=None if narrowest is None else narrowest.name,
        items_per_task=None if declared is None else _items_per_task(facts, declared),
        item_concurrency=_item_concurrency(run),
        item_executor=_item_executor(run),
        retried_items=len(extra_calls),
        extra_calls=sum(extra_calls),
        results_path=_results_path(run),
        rate_wait_seconds=sum_of_known(record.rate_wait_seconds for record in _batch_records(run)),
        usual_wall_seconds=median(walls) if walls else None,
        expected_left_seconds=expected_left(walls, summary.wall_seconds),
        stored_items=None if declared is None else declared.stored_items,
        steps=_steps(run),
        hosts=host_loads(task_run for branch in run.ran for task_run in branch.task_runs),
        segments=segments(so_far),
        branches=_branch_reports(run, so_far),
        items=items,
    )
    advice = advise(group, takes_batches=_takes_batches(facts.outline, run)) if group.is_finished else ()
    return replace(
        group, headline=headline(group), figures=figures(group), failures=failures(group), advice=advice
    )


def expected_left(walls: Sequence[float], passed: float | None) -> float | None:
    """
    Tell how many more seconds a group is expected to take; None if nothing tells.

    :param walls: Those of earlier runs.
    :param passed: Seconds since its first branch was queued; None if none was.
    """
    return max(0.0, median(walls) - passed) if walls and passed is not None else None


def _is_degraded(facts: RunFacts, run: GroupRun) -> bool:
    has_succeeded = any(fan_in.state == "success" for fan_in in facts.find(run.fan_in_ids, run.map_index))
    return has_succeeded and run.is_incomplete


def item_page(items: Sequence[BranchRun], *, start: int, size: int) -> dict[str, Any]:
    """
    Take some of a batch's items, in declared order, as JSON.

    :param start: Index of the first item among the batch's.
    """
    page = [
        {
            "name": shown_name(item.name),
            "state": item.state,
            "error": shown_error(item.error),
            "is_stopped": item.is_stopped,
            "work_seconds": item.work_seconds,
            "tries": item.item_tries,
        }
        for item in items[start : start + size]
    ]
    return {"start": start, "total": len(items), "items": page}


def _is_finished(run: GroupRun) -> bool:
    """Whether nothing more becomes of its branches, and none will be added by expanding a task."""
    is_settled = run.unexpanded is None or run.unexpanded.state in FINISHED
    return is_settled and all(branch.state in ENDED for branch in run.ran)


def _describe(capacity: Capacity, run: GroupRun) -> str:
    one, many = ("branch", "branches") if run.batches is None else ("batch", "batches")
    return describe(capacity, one=one, many=many, of_each=None if run.group is None else run.group.steps)


def _items_per_task(facts: RunFacts, group: DeclaredGroup) -> int | None:
    """Number of items of a task; if only the run knew it, as far as what it cut tells."""
    bounds = facts.bounds.get(group.prefix + SPLIT, ())
    if group.items_per_task == AT_RUN_TIME:
        return max((stop - first for first, stop, _ in bounds), default=None)
    return group.items_per_task


def _item_executor(run: GroupRun) -> ItemExecutor | None:
    """Where items of batches ran; None on an event loop, where nobody can tell their CPU seconds."""
    if run.group is None or not any(record.knows_cpu_seconds for record in _batch_records(run)):
        return None
    return run.group.item_executor or "thread"


def _item_concurrency(run: GroupRun) -> int | None:
    numbers = [record.concurrency for record in _batch_records(run)]
    return max((number for number in numbers if number is not None), default=None)


def _batch_records(run: GroupRun) -> list[BatchRecord]:
    records = [task_run.batch_record for batch in run.batches or () for task_run in batch.task_runs]
    return [record for record in records if record is not None]


def _results_path(run: GroupRun) -> str | None:
    """Folder of the files with values, as far as a batch has written one; else as it was declared."""
    for record in _batch_records(run):
        for part in record.results.parts if record.results is not None else ():
            return part.path.rpartition("/")[0]
    return None if run.group is None else run.group.results_path


def _takes_batches(outline: DagOutline, run: GroupRun) -> bool:
    """Whether ``items_per_task`` can be given to a group, or a larger one: each branch is one function."""
    group = run.group
    if group is None or run.map_index >= 0:
        return False
    if group.mode == "batched":
        return True
    function_ids = {group.prefix + name for name in (EACH, *(branch.name for branch in group.branches))}
    is_of_functions = all(
        task_id in function_ids and outline.tasks[task_id].operator == FUNCTION_TASK
        for task_id in group.all_task_ids
    )
    keys = {fan_in.key for fan_in in outline.fan_ins if fan_in.task_id in run.fan_in_ids}
    return bool(group.prefix) and is_of_functions and keys <= {RETURN_VALUE}


def _summary(run: GroupRun, so_far: Sequence[BranchRun]) -> GroupSummary:
    """
    Figures up to the present.

    Overhead of batches is beside the time that their items took; CPU time is by that in which one ran.
    """
    summary = summarize(so_far)
    if run.batches is None:
        return summary
    records = [batch.task_runs[0].batch_record for batch in run.batches]
    elapsed, busy = (
        summarize(
            replace(batch, work_seconds=None if record is None else seconds_of(record))
            for batch, record in zip(so_far, records, strict=True)
        )
        for seconds_of in (attrgetter("elapsed"), partial(_core_seconds, run))
    )
    return replace(
        summary,
        computed_share=busy.computed_share,
        overhead_share=elapsed.overhead_share,
        median_overhead_seconds=elapsed.median_overhead_seconds,
    )


def _core_seconds(run: GroupRun, record: BatchRecord) -> float | None:
    """Core seconds that items could use while some ran; threads wait for each other, and use one core."""
    is_of_processes = run.group is not None and run.group.item_executor == "process"
    cores = min(record.concurrency or 1, record.cores or 1) if is_of_processes else 1
    return None if record.busy_seconds is None else record.busy_seconds * cores


def _summary_of_items(run: GroupRun) -> GroupSummary:
    """Figures of the items, which have no times but the seconds in their code."""
    if not isinstance(run.branches, ItemRuns):
        summary = summarize(run.branches, slowest=SLOWEST_ITEMS)
        return replace(
            summary,
            states=count_states(run.states),
            total=summary.total + run.reused,
            computed_share=None,
        )
    columns = [
        (batch.names, list(map(attrgetter("state"), batch.rulings)), batch.seconds, batch.cpu_seconds)
        for batch in run.branches.batches
        if batch.stored is None
    ]
    summary = summarize_work(columns, states=run.states, slowest=SLOWEST_ITEMS)
    stored = [(batch, batch.stored) for batch in run.branches.batches if batch.stored is not None]
    return _with_sums(summary, stored, slowest=SLOWEST_ITEMS) if stored else summary


def _with_sums(
    summary: GroupSummary, stored: Sequence[tuple[BatchItems, StoredResults]], *, slowest: int
) -> GroupSummary:
    """Add what batches with values in files tell of their items together; there is no median then."""
    named = [
        SlowBranch(
            name=batch.names[slow.position],
            seconds=slow.seconds,
            state=batch.rulings[slow.position].state,
            measure="work",
        )
        for batch, results in stored
        for slow in results.slowest
        if slow.position < len(batch)
    ]
    return replace(
        summary,
        recorded=summary.recorded + sum(results.recorded for _, results in stored),
        work_seconds=sum_of_known([summary.work_seconds, *(results.seconds for _, results in stored)]),
        cpu_seconds=sum_of_known([summary.cpu_seconds, *(results.cpu_seconds for _, results in stored)]),
        slowest=tuple(sorted([*summary.slowest, *named], key=slowness)[:slowest]),
        median_work_seconds=None,
        median_without_slowest_seconds=None,
    )


def _so_far(branch: BranchRun, now: datetime) -> BranchRun:
    """Count what has not ended up to the present, and what waits for its next try as if that came now."""
    tasks = []
    for tries in branch.tasks:
        last_tries = [_until(now, last) for last in tries[-1:]]
        if any(last.state not in ENDED and last.ended is not None for last in tries[-1:]):
            last_tries.append(replace(tries[-1], queued=now, started=None, ended=now))
        tasks.append((*tries[:-1], *last_tries))
    return replace(_until(now, branch), tasks=tuple(tasks))


def _until(now: datetime, times: Times) -> Times:
    is_open = times.state not in ENDED and times.queued is not None and times.ended is None
    return replace(times, ended=now) if is_open else times


def _branch_reports(run: GroupRun, so_far: Iterable[BranchRun]) -> tuple[BranchReport, ...]:
    states = defaultdict[int, Counter[str]](Counter)
    if isinstance(run.branches, ItemRuns):
        states.update((batch.task_run.map_index, batch.states) for batch in run.branches.batches)
    elif run.batches is not None:
        for item in run.branches:
            states[batch_of(item)][item.state] += 1
    return tuple(
        _branch_report(
            branch,
            elapsed_seconds=until_now.elapsed_seconds,
            items=None if run.batches is None else count_states(states[batch_of(branch)]),
        )
        for branch, until_now in zip(run.ran, so_far, strict=True)
    )


def _branch_report(
    branch: BranchRun, *, elapsed_seconds: float | None, items: dict[str, int] | None
) -> BranchReport:
    task_id, map_index = task_to_look_at(branch)
    hostnames = [task_run.hostname for task_run in branch.task_runs if task_run.hostname]
    return BranchReport(
        name=shown_name(branch.name),
        state=branch.state,
        task_id=task_id,
        map_index=map_index,
        step=failed_step(branch),
        error=shown_error(branch.error),
        is_stopped=branch.is_stopped,
        queued=branch.queued,
        started=branch.started,
        ended=branch.ended,
        elapsed_seconds=elapsed_seconds,
        tries=branch.tries,
        earlier_tries=tuple(each for run in branch.task_runs for each in run.earlier if each.has_run),
        work_seconds=branch.work_seconds,
        cpu_seconds=branch.cpu_seconds,
        peak_memory_bytes=branch.peak_memory_bytes,
        host=hostnames[-1] if hostnames else None,
        items=items,
        read_bytes=branch.read_bytes,
        written_bytes=branch.written_bytes,
        steps=tuple(
            StepTime(name=step.name, seconds=step.seconds) for run in branch.task_runs for step in run.steps
        ),
    )


def _steps(run: GroupRun) -> tuple[StepTime, ...]:
    """Add up what each function took in the branches of which it is a step."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for branch in run.ran:
        for task_run in branch.task_runs:
            for step in task_run.steps:
                seconds[step.name].append(step.seconds)
    steps = [StepTime(name=n, seconds=math.fsum(each), branches=len(each)) for n, each in seconds.items()]
    return tuple(sorted(steps, key=lambda step: -step.seconds)[:MOST_STEPS])


def host_loads(task_runs: Iterable[TaskRun]) -> tuple[HostLoad, ...]:
    """Work out the load of each machine, from the task instances that recorded all that it takes."""
    by_host: dict[str, list[tuple[Span, int, float]]] = defaultdict(list)
    for task_run in task_runs:
        span, cores, used = _at_work(task_run), task_run.cores, task_run.timing.cpu_seconds
        if task_run.hostname and span is not None and cores is not None and used is not None:
            by_host[task_run.hostname].append((span, cores, used))
    loads = []
    for hostname, tasks in sorted(by_host.items()):
        spans, cores = [span for span, *_ in tasks], min(number for _, number, _ in tasks)
        changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
        running = list(accumulate(change for _, change in changes))
        offered = sum(
            min(number, cores) * (after - before).total_seconds()
            for number, ((before, _), (after, _)) in zip(running, pairwise(changes), strict=False)
        )
        if offered > 0:
            share = math.fsum(used for *_, used in tasks) / offered
            loads.append(HostLoad(hostname=hostname, cores=cores, peak=max(running), busy_share=share))
    return tuple(loads)


def _at_work(task_run: TaskRun) -> Span | None:
    """Start and end of its work, which comes last in a task's process; None if that isn't known."""
    timing, record = task_run.timing, task_run.batch_record
    seconds, most = timing.work_seconds if record is None else record.elapsed, timing.elapsed_seconds
    if timing.ended is None or seconds is None or not most:
        return None
    return timing.ended - timedelta(seconds=min(seconds, most)), timing.ended
