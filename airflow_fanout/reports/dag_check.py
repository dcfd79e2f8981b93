"""What a Dag's fan-outs and fan-ins can and can't do, told before it runs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_fanout.reports.group_capacity import (
    CELERY,
    LOCAL,
    UNLIMITED_POOL,
    GroupCapacity,
    SchedulingLimits,
    group_capacity,
    narrow_steps,
)
from airflow_fanout.rules.capacity import UNKNOWN
from airflow_fanout.rules.names import SPLIT, natural_key
from airflow_fanout.rules.policy import as_written, known
from airflow_fanout.rules.wording import counted, listing, past_dependence_problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_fanout.rules.policy import Policy
    from airflow_fanout.serialization.outline import DagOutline, FanInOutline, TaskOutline


CPU_SECONDS_OF_A_BRANCH = 0.0002
"""That a static branch takes to be made, with this package or by hand (docs/scale.md)."""

MANY_STATIC_BRANCHES = 500
"""From which on making them takes half as long as all else in a task's process."""


@dataclass(frozen=True)
class Problem:
    """
    Something that keeps tasks from running, or fails them, and the way out.

    :param kind: ``missing_pool``, ``pool_too_small``, ``no_slots``, ``unknown_executor``, ``too_many_tasks``,
        ``no_storage_path``, ``prefix_matches_nothing``, ``prefix_matches_others``, ``prefix_ambiguous``,
        ``min_success_unreachable`` or ``tolerance_waits_on_past``.
    """

    kind: str
    message: str
    task_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FanInCheck:
    """A fan-in, the tasks whose values it collects, and the count of branches; None if only a run tells."""

    fan_in: FanInOutline
    matches: tuple[str, ...]
    count: int | None


@dataclass(frozen=True, kw_only=True)
class DagCheck:
    """
    What was found out about a Dag.

    :param source: ``file`` or ``database``: where the Dag was taken from.
    :param groups: Its groups by the id that they have in ``report`` and ``rerun``, in natural order: that of
        their fan-in if only a prefix collects them. Several groups of one prefix have the same.
    """

    dag_id: str
    source: str
    groups: tuple[tuple[str, GroupCapacity], ...]
    fan_ins: tuple[FanInCheck, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def check_dag(outline: DagOutline, scheduling: SchedulingLimits, *, source: str = "file") -> DagCheck:
    """Find out how many branches of a Dag can run at once, and what is wrong with it."""
    fan_ins = tuple(_fan_in(outline, fan_in) for fan_in in outline.fan_ins)
    ids_in_runs = _ids_in_runs(outline, fan_ins)
    groups = [
        (ids_in_runs.get(group_id, group_id), group_capacity(outline, group, scheduling))
        for group_id, group in outline.groups.items()
    ]
    capacities = [capacity for _, capacity in groups]
    return DagCheck(
        dag_id=outline.dag_id,
        source=source,
        groups=tuple(sorted(groups, key=lambda pair: natural_key(pair[0]))),
        fan_ins=fan_ins,
        problems=(
            *_waiting_tasks(outline, scheduling),
            *(p for capacity in capacities for p in _batch_problems(capacity, scheduling)),
            *(problem for check in fan_ins for problem in _fan_in_problems(outline, check)),
        ),
        notes=(
            *(note for capacity in capacities for note in _group_notes(outline, capacity, scheduling)),
            *(
                f"Group {group_id!r}: report and rerun don't show it, as no fan-in is known to collect it"
                for group_id in sorted(outline.groups.keys() - ids_in_runs.keys(), key=natural_key)
            ),
            *_worker_notes(outline, scheduling),
        ),
    )


def threshold(policy: Policy, count: int | None) -> str:
    """Say when a fan-in succeeds that collects a number of branches, if that is known before the run."""
    if not policy.tolerant:
        return "every branch has to succeed"
    if not (policy.min_success or policy.min_success_ratio):
        return "it succeeds whatever its branches do"
    minimums = []
    if policy.min_success is not None:
        least = known(policy.min_success)
        branches = (
            "as many branches as the run says" if least is None else counted(least, "branch", "branches")
        )
        minimums.append(f"at least {branches}")
    if policy.min_success_ratio is not None:
        ratio = known(policy.min_success_ratio)
        share = "the share that the run says" if ratio is None else f"{float(as_written(ratio)):g}"
        minimums.append(f"at least {share} of all{'' if minimums else ' branches'}")
    have = "has" if minimums == ["at least 1 branch"] else "have"
    numbers = ""
    if policy.is_known:
        is_reachable = count is not None and policy.needed(count) <= count
        numbers = f" ({policy.needed(count or 0)} of {count})" if is_reachable else ""
    ways = {"exclude": "don't count", "success": "count as successes", "failure": "count as failures"}
    return f"{' and '.join(minimums)} {have} to succeed{numbers}; skipped ones {ways[policy.count_skipped]}"


def _fan_in(outline: DagOutline, fan_in: FanInOutline) -> FanInCheck:
    matches: Sequence[str] = ()
    count: int | None = None
    if fan_in.group_id is not None:
        group = outline.groups[fan_in.group_id]
        matches = group.each[-1:] or [branch.last_task_id for branch in group.branches]
        count = group.known_count
    elif fan_in.task_id_prefix is not None and not fan_in.is_templated:
        matches = outline.prefix_matches(fan_in, fan_in.task_id_prefix)
        counts = [_instances(outline, task_id, fan_in) for task_id in matches]
        count = None if None in counts else sum(filter(None, counts))
    return FanInCheck(fan_in=fan_in, matches=tuple(matches), count=count)


def _instances(outline: DagOutline, task_id: str, fan_in: FanInOutline) -> int | None:
    """Number of branches that a task stands for; None if it is known only at run time."""
    for group in outline.groups.values():
        if task_id in group.each:
            return group.known_count
    task = outline.tasks[task_id]
    is_beside = task.mapped_group in {None, outline.tasks[fan_in.task_id].mapped_group}
    return 1 if is_beside and not task.is_mapped else None


def _branches(outline: DagOutline) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Group id and task ids of branches by their last task; instances of the same tasks stand once."""
    branches: dict[str, tuple[str, tuple[str, ...]]] = {}
    for group in outline.groups.values():
        for task_ids in (group.each, *(branch.task_ids for branch in group.branches)):
            branches |= dict.fromkeys(task_ids[-1:], (group.group_id, task_ids))
    return branches


def _ids_in_runs(outline: DagOutline, fan_ins: Sequence[FanInCheck]) -> dict[str, str]:
    """Ids that ``report`` and ``rerun`` have for groups, by their own: the fan-in's for those of a prefix."""
    branches = _branches(outline)
    ids: dict[str, str] = {}
    for check in reversed(fan_ins):
        ids |= {branches[i][0]: check.fan_in.task_id for i in check.matches if i in branches}
    own = {group.group_id for group in outline.groups.values() if group.mode == "batched"}
    own |= {check.fan_in.group_id for check in fan_ins if check.fan_in.group_id is not None}
    return ids | {group_id: group_id for group_id in own}


def _waiting_tasks(outline: DagOutline, scheduling: SchedulingLimits) -> Iterator[Problem]:
    """Problems of tasks that never start; a branch waits for those before it too."""
    for kind, cause, tasks, way_out in _obstacles(outline, scheduling):
        ids = tuple(sorted((task.task_id for task in tasks), key=natural_key))
        wait = f"{listing(ids, limit=5)} {'waits' if len(ids) == 1 else 'wait'} for ever"
        yield Problem(kind, f"{cause}, so {wait if ids else 'no task ever starts'}. {way_out}", ids)


def _obstacles(
    outline: DagOutline, scheduling: SchedulingLimits
) -> Iterator[tuple[str, str, Sequence[TaskOutline], str]]:
    """Kind, cause and way out of what keeps tasks from starting, and the tasks; none for all of the Dag."""
    tasks = outline.tasks.values()
    for pool in sorted({task.pool for task in tasks}):
        takers = [task for task in tasks if task.pool == pool]
        slots = scheduling.pools.get(pool, UNLIMITED_POOL)
        create = f"airflow pools set {pool} SLOTS DESCRIPTION"
        large = [task for task in takers if UNLIMITED_POOL < slots < task.pool_slots]
        if pool not in scheduling.pools:
            way_out = f"Create it ({create}), or name one of {listing(scheduling.pools)}"
            yield "missing_pool", f"Pool {pool!r} doesn't exist", takers, way_out
        elif slots == 0:
            yield "pool_too_small", f"Pool {pool!r} has 0 slots", takers, f"Give it some: {create}"
        elif large:
            most = max(task.pool_slots for task in large)
            asked = "more" if len(large) > 1 else most
            cause = f"Pool {pool!r} has {counted(slots, 'slot', 'slots')} and pool_slots asks for {asked}"
            yield "pool_too_small", cause, large, f"Enlarge it to {most} or more, or lower pool_slots"
    unplaced = [task for task in tasks if scheduling.executor_of(task) is None]
    for executor in sorted({task.executor or "" for task in unplaced}):
        way_out = f"Add it to [core] executor, or name one of {listing(scheduling.executors)}"
        takers = [task for task in unplaced if task.executor == executor]
        yield "unknown_executor", f"Executor {executor!r} isn't configured", takers, way_out
    for name in ("max_active_tis_per_dagrun", "max_active_tis_per_dag"):
        if below := [task for task in tasks if (limit := getattr(task, name)) is not None and limit < 1]:
            yield "no_slots", f"{name} is below 1", below, "Raise it, or leave it out for no limit"
    if outline.max_active_tasks < 1:
        yield "no_slots", f"max_active_tasks of the Dag is {outline.max_active_tasks}", (), "Raise it"
    if scheduling.parallelism < 1:
        yield "no_slots", f"[core] parallelism is {scheduling.parallelism}", (), "Raise it"


def _batch_problems(capacity: GroupCapacity, scheduling: SchedulingLimits) -> Iterator[Problem]:
    group, tasks, longest = capacity.group, capacity.tasks.declared, scheduling.max_map_length
    if group.needs_pieces and scheduling.storage_path is None:
        fault = f"{group.stored_items} can't be cut where it lies, and [fanout] storage_path isn't set"
        way_out = "Name a folder there that all workers reach"
        message = f"Group {group.group_id!r}: {fault}, so its split will fail. {way_out}"
        yield Problem("no_storage_path", message, (group.prefix + SPLIT,))
    # Literal items of a mapped group are not checked; batches are mapped over the output of a task.
    if group.mode == "batched" and group.count is not None and longest < tasks < UNKNOWN:
        way_out = f"Give items_per_task={math.ceil(group.count / longest)} or more"
        message = (
            f"Group {group.group_id!r}: its {group.count} items make {tasks} tasks, which will fail: "
            f"[core] max_map_length allows {longest}. {way_out}"
        )
        yield Problem("too_many_tasks", message, group.each)


def _fan_in_problems(outline: DagOutline, check: FanInCheck) -> Iterator[Problem]:
    fan_in, policy = check.fan_in, check.fan_in.policy
    title, task_ids = f"Fan-in {fan_in.task_id!r}", (fan_in.task_id,)
    if fan_in.task_id_prefix is not None and not fan_in.is_templated:
        for kind, message in _prefix_problems(outline, fan_in, fan_in.task_id_prefix, check.matches):
            yield Problem(kind, f"{title}: {message}", task_ids)
    least = known(policy.min_success)
    if least is not None and check.count and least > check.count:
        branches = counted(check.count, "branch", "branches")
        message = f"{title}: min_success={least} can't be met by the {branches} that it collects"
        yield Problem("min_success_unreachable", message, task_ids)
    branches_by_last = _branches(outline)
    steps = [i for last in check.matches for i in branches_by_last.get(last, ("", (last,)))[1]]
    waiting = tuple(sorted({i for i in steps if outline.tasks[i].waits_on_past}, key=natural_key))
    if policy.tolerant and waiting:
        yield Problem("tolerance_waits_on_past", f"{title}: {past_dependence_problem(waiting)}", waiting)


def _prefix_problems(
    outline: DagOutline, fan_in: FanInOutline, prefix: str, matches: Sequence[str]
) -> Iterator[tuple[str, str]]:
    if not matches and not outline.placeholder_matches(fan_in, prefix):
        upstream = outline.tasks[fan_in.task_id].upstream
        candidates = listing(task_id for task_id in upstream if not outline.tasks[task_id].is_helper)
        yield "prefix_matches_nothing", f"no upstream task id starts with {prefix!r}; upstream: {candidates}"
    if strays := outline.unwired_matches(fan_in, prefix):
        are, them = ("is", "it") if len(strays) == 1 else ("are", "them")
        cause = f"its prefix {prefix!r} also takes {listing(strays)}, which {are} not wired to it"
        way_out = f"Wire {them} ({strays[0]} >> {fan_in.task_id}), or choose a prefix that takes less"
        yield "prefix_matches_others", f"it will fail, because {cause}. {way_out}"
    longer = [task_id for task_id in matches if task_id[len(prefix) :][:1].isdecimal()]
    others = [task_id for task_id in matches if task_id not in longer]
    if prefix[-1:].isdecimal() and longer and others:
        cause = f"its prefix {prefix!r} takes {listing(others)}, and also {listing(longer)}"
        way_out = "end the prefix before the number; if not, give them names that don't begin alike"
        yield "prefix_ambiguous", f"{cause}. If all are meant, {way_out}"


def _group_notes(outline: DagOutline, capacity: GroupCapacity, scheduling: SchedulingLimits) -> Iterator[str]:
    group = capacity.group
    for limit in narrow_steps(outline, capacity, scheduling):
        yield f"Group {group.group_id!r}: a step lets only {limit.slots} through at once: {limit.explanation}"
    rate, sharing = group.items_per_second, min(group.max_concurrency or 1, capacity.tasks.declared)
    if rate is not None and (tasks := capacity.tasks.effective) < sharing:
        fault = f"{sharing} tasks share items_per_second={rate:g}, but {tasks} can run at once"
        yield f"Group {group.group_id!r}: {fault}, so at most {rate * tasks / sharing:g} items a second start"
    if group.needs_pieces and _is_local(scheduling.storage_path):
        elsewhere = sorted({*scheduling.executors} - {LOCAL})
        fault = f"split writes its items below {scheduling.storage_path}, a folder of one machine"
        if elsewhere:
            text = f"{fault}, and {listing(elsewhere)} may run its batches on others; name one that all reach"
            yield f"Group {group.group_id!r}: {text}, in [fanout] storage_path"
    if group.mode == "static" and (count := len(group.branches)) >= MANY_STATIC_BRANCHES:
        seconds = f"some {count * CPU_SECONDS_OF_A_BRANCH:.1f} s of CPU"
        text = f"the process of each task makes all {count} branches again, {seconds}"
        yield f"Group {group.group_id!r}: {text}; if all run the same, mapped=True makes one task of them"
    around = next((outline.tasks[task_id].mapped_group for task_id in group.all_task_ids), None)
    if around is not None and group.mode == "static":
        text = "the numbers are for one instance of that, and all instances share the limits"
        yield f"Group {group.group_id!r} is in the mapped task group {around!r}: {text}"


def _is_local(path: str | None) -> bool:
    """Whether a path is of the machine's own files."""
    return path is not None and ("://" not in path or path.startswith("file://"))


def _worker_notes(outline: DagOutline, scheduling: SchedulingLimits) -> Iterator[str]:
    tasks = [outline.tasks[task_id] for group in outline.groups.values() for task_id in group.all_task_ids]
    executors = {executor for task in tasks if (executor := scheduling.executor_of(task)) is not None}
    for name in sorted(executors - {LOCAL}):
        if name != CELERY:
            yield f"How many tasks {name} has room for is not known here"
        elif scheduling.workers is None:
            each = f"{scheduling.worker_concurrency} tasks at once ([celery] worker_concurrency)"
            yield f"No Celery worker answered, so what they have room for is not known; each runs {each}"
        else:
            queues = {task.queue for task in tasks if scheduling.executor_of(task) == CELERY}
            if silent := [queue for queue in queues if not scheduling.worker_slots(queue)]:
                yield f"No Celery worker that answered takes tasks from: {listing(silent)}"
