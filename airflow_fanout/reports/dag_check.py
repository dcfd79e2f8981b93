"""Tells before a Dag runs what its fan-outs and fan-ins can and can't do; plain values, for ``check``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_fanout.reports.group_capacity import (
    CELERY,
    GroupCapacity,
    Surroundings,
    group_capacity,
    narrow_steps,
)
from airflow_fanout.rules.capacity import UNLIMITED_POOL
from airflow_fanout.rules.names import natural_key
from airflow_fanout.rules.policy import as_written
from airflow_fanout.rules.wording import listing, waiting_on_past

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airflow_fanout.rules.policy import Policy
    from airflow_fanout.serialization.declaration import DeclaredGroup
    from airflow_fanout.serialization.outline import DagOutline, FanInOutline, TaskOutline


__all__ = ["DagCheck", "FanInCheck", "GroupCheck", "Problem", "check_dag", "threshold"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """
    Something that keeps tasks from running, or fails them.

    :param kind: What sort of problem: ``missing_pool``, ``pool_too_small``, ``no_slots``,
        ``unknown_executor``, ``too_many_tasks``, ``prefix_matches_nothing``, ``prefix_matches_others``,
        ``prefix_ambiguous``, ``min_success_unreachable``, ``tolerance_waits_on_past``.
    :param message: What is wrong and how to mend it.
    :param task_ids: Ids of the tasks that it keeps or fails, in natural order.
    """

    kind: str
    message: str
    task_ids: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroupCheck:
    """
    A group, and how much of it can run at once.

    :param group_id: Full id of the group.
    :param mode: ``static``, ``mapped`` or ``batched``.
    :param capacity: How much of it can run at once.
    :param steps: What each branch has several of, ``tasks``; None if each is one task.
    """

    group_id: str
    mode: str
    capacity: GroupCapacity
    steps: str | None = None


@dataclass(frozen=True, kw_only=True)
class FanInCheck:
    """
    A fan-in, and what it collects.

    :param task_id: Its id.
    :param group_id: Id of the group that it collects; None if it collects by prefix.
    :param prefix: What it collects by; None if it collects a group.
    :param matches: Ids of the tasks whose values it collects, in natural order.
    :param count: Number of branches that it collects; None if it is known only at run time.
    :param key: XCom key that it reads.
    :param threshold: When it succeeds, in words.
    """

    task_id: str
    group_id: str | None
    prefix: str | None
    matches: tuple[str, ...]
    count: int | None
    key: str
    threshold: str


@dataclass(frozen=True, kw_only=True)
class DagCheck:
    """
    What was found out about a Dag.

    :param dag_id: Its id.
    :param groups: Its groups, in natural order of their ids.
    :param fan_ins: Its fan-ins, in natural order of their ids.
    :param problems: What keeps tasks from running, or fails them.
    :param notes: What is good to know and no problem, a sentence each.
    """

    dag_id: str
    groups: tuple[GroupCheck, ...]
    fan_ins: tuple[FanInCheck, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]


def check_dag(outline: DagOutline, surroundings: Surroundings) -> DagCheck:
    """
    Check a Dag.

    :param outline: Its fan-outs and fan-ins.
    :param surroundings: What is outside of it.
    """
    groups = [outline.groups[group_id] for group_id in sorted(outline.groups, key=natural_key)]
    checked = tuple(
        GroupCheck(
            group_id=group.group_id,
            mode=group.mode,
            capacity=group_capacity(outline, group, surroundings),
            steps=group.steps,
        )
        for group in groups
    )
    fan_ins = tuple(_fan_in(outline, fan_in) for fan_in in outline.fan_ins)
    return DagCheck(
        dag_id=outline.dag_id,
        groups=checked,
        fan_ins=fan_ins,
        problems=(
            *_task_problems(outline, surroundings),
            *_batch_problems(outline, groups, surroundings),
            *_fan_in_problems(outline, fan_ins),
        ),
        notes=(
            *_group_notes(outline, zip(groups, checked, strict=True), surroundings),
            *_worker_notes(outline, groups, surroundings),
            *(
                f"Fan-in {fan_in.task_id!r}: its prefix {fan_in.task_id_prefix!r} is known only at run time"
                for fan_in in outline.fan_ins
                if fan_in.is_templated
            ),
        ),
    )


def threshold(policy: Policy, count: int | None) -> str:
    """
    Say when a fan-in succeeds.

    :param policy: Its tolerance.
    :param count: Number of branches that it collects; None if it is known only at run time.
    """
    if not policy.tolerant:
        return "every branch has to succeed"
    asked = []
    if policy.min_success is not None:
        asked.append(f"at least {policy.min_success}")
    if policy.min_success_ratio is not None:
        ratio = float(as_written(policy.min_success_ratio))
        asked.append(f"at least {ratio:g} of all")
    known = count is not None and policy.needed(count) <= count
    of = f" ({policy.needed(count or 0)} of {count})" if known else ""
    skipped = {
        "exclude": "don't count",
        "success": "count as successes",
        "failure": "count as failures",
    }[policy.count_skipped]
    return f"{' and '.join(asked)} branches have to succeed{of}; skipped ones {skipped}"


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
        known = [number for number in counts if number is not None]
        count = sum(known) if len(known) == len(counts) else None
    return FanInCheck(
        task_id=fan_in.task_id,
        group_id=fan_in.group_id,
        prefix=fan_in.task_id_prefix,
        matches=tuple(matches),
        count=count,
        key=fan_in.key,
        threshold=threshold(fan_in.policy, count),
    )


def _instances(outline: DagOutline, task_id: str, fan_in: FanInOutline) -> int | None:
    """Return the number of branches that a task stands for; None if it is known only at run time."""
    for group in outline.groups.values():
        if task_id in group.each:
            return group.known_count
    task = outline.tasks[task_id]
    beside = task.mapped_group in {None, outline.tasks[fan_in.task_id].mapped_group}
    return 1 if beside and not task.is_mapped else None


def _task_problems(outline: DagOutline, surroundings: Surroundings) -> Iterator[Problem]:
    """What keeps tasks of the Dag from ever starting; a branch waits for those before it too."""
    tasks = outline.tasks.values()
    pools = surroundings.pools
    for pool, its in _by(tasks, lambda task: task.pool):
        if pool not in pools:
            message = (
                f"Pool {pool!r} doesn't exist, so {_wait(its)}. Make it (airflow pools set {pool} SLOTS "
                f"DESCRIPTION), or name one of {listing(pools)}"
            )
            yield Problem(kind="missing_pool", message=message, task_ids=its)
            continue
        slots = pools[pool]
        too_large = _ids(
            t for t in map(outline.tasks.__getitem__, its) if UNLIMITED_POOL < slots < t.pool_slots
        )
        if slots == 0:
            message = (
                f"Pool {pool!r} has 0 slots, so {_wait(its)}. Give it some: airflow pools set {pool} SLOTS …"
            )
            yield Problem(kind="pool_too_small", message=message, task_ids=its)
        elif too_large:
            most = max(outline.tasks[task_id].pool_slots for task_id in too_large)
            message = (
                f"Pool {pool!r} has {slots} {'slot' if slots == 1 else 'slots'} and pool_slots asks for "
                f"{'more' if len(too_large) > 1 else most}, so {_wait(too_large)}. "
                f"Enlarge it to {most} or more, or lower pool_slots"
            )
            yield Problem(kind="pool_too_small", message=message, task_ids=too_large)
    for executor, its in _by(tasks, lambda task: task.executor or ""):
        if surroundings.executor_of(outline.tasks[its[0]]) is None:
            configured = listing(each.name for each in surroundings.executors)
            message = (
                f"Executor {executor!r} isn't configured, so {_wait(its)}. Add it to [core] executor, "
                f"or name one of {configured}"
            )
            yield Problem(kind="unknown_executor", message=message, task_ids=its)
    for name in ("max_active_tis_per_dagrun", "max_active_tis_per_dag"):
        its = _ids(t for t in tasks if (limit := getattr(t, name)) is not None and limit < 1)
        if its:
            message = f"{name} is below 1, so {_wait(its)}. Raise it, or leave it out for no limit"
            yield Problem(kind="no_slots", message=message, task_ids=its)
    if outline.max_active_tasks < 1:
        message = (
            f"max_active_tasks of the Dag is {outline.max_active_tasks}, so no task ever starts. Raise it"
        )
        yield Problem(kind="no_slots", message=message)
    if surroundings.parallelism < 1:
        message = f"[core] parallelism is {surroundings.parallelism}; no scheduler starts with less than 1"
        yield Problem(kind="no_slots", message=message)


def _batch_problems(
    outline: DagOutline, groups: Iterable[DeclaredGroup], surroundings: Surroundings
) -> Iterator[Problem]:
    most = surroundings.max_map_length
    for group in groups:
        tasks = group_capacity(outline, group, surroundings).tasks
        # Literal items of a mapped group are not checked; places of batches are the output of a task.
        if group.mode == "batched" and group.count is not None and tasks is not None and tasks > most:
            message = (
                f"Group {group.group_id!r}: its {group.count} items make {tasks} tasks, which will fail: "
                f"[core] max_map_length allows {most}. Give items_per_task={-(-group.count // most)} or more"
            )
            yield Problem(kind="too_many_tasks", message=message, task_ids=group.each)


def _fan_in_problems(outline: DagOutline, checks: Iterable[FanInCheck]) -> Iterator[Problem]:
    for fan_in, check in zip(outline.fan_ins, checks, strict=True):
        its = (fan_in.task_id,)
        if fan_in.task_id_prefix is not None and not fan_in.is_templated:
            for kind, said in _prefix_problems(outline, fan_in, fan_in.task_id_prefix, check.matches):
                yield Problem(kind=kind, message=f"Fan-in {fan_in.task_id!r}: {said}", task_ids=its)
        least = fan_in.policy.min_success
        if least is not None and check.count and least > check.count:
            message = (
                f"Fan-in {fan_in.task_id!r}: min_success={least} can't be met by the {check.count} "
                f"{'branch' if check.count == 1 else 'branches'} that it collects"
            )
            yield Problem(kind="min_success_unreachable", message=message, task_ids=its)
        waiting = _waiting_on_past(outline, check.matches) if fan_in.policy.tolerant else ()
        if waiting:
            message = f"Fan-in {fan_in.task_id!r}: {waiting_on_past(waiting)}"
            yield Problem(kind="tolerance_waits_on_past", message=message, task_ids=waiting)


def _waiting_on_past(outline: DagOutline, matches: Iterable[str]) -> tuple[str, ...]:
    """Ids of the tasks that wait for the run before, of branches whose last tasks are these."""
    branches = {task_ids[-1]: task_ids for group in outline.groups.values() for task_ids in _branches(group)}
    within = (task_id for last in matches for task_id in branches.get(last, (last,)))
    return _ids(task for task in map(outline.tasks.__getitem__, within) if task.waits_on_past)


def _branches(group: DeclaredGroup) -> Iterator[tuple[str, ...]]:
    """Ids of the tasks of each of a group's branches, as far as they differ."""
    yield from (branch.task_ids for branch in group.branches)
    if group.each:
        yield group.each


def _prefix_problems(
    outline: DagOutline, fan_in: FanInOutline, prefix: str, matches: Sequence[str]
) -> Iterator[tuple[str, str]]:
    before = outline.tasks[fan_in.task_id].upstream
    if not matches and not outline.placeholder_matches(fan_in, prefix):
        candidates = listing(task_id for task_id in before if not outline.tasks[task_id].is_helper)
        yield "prefix_matches_nothing", f"no upstream task id starts with {prefix!r}; upstream: {candidates}"
    if strays := outline.unwired_matches(fan_in, prefix):
        one = len(strays) == 1
        said = (
            f"it will fail, because its prefix {prefix!r} also takes {listing(strays)}, which "
            f"{'is' if one else 'are'} not wired to it. Wire {'it' if one else 'them'} "
            f"({strays[0]} >> {fan_in.task_id}), or choose a prefix that takes less"
        )
        yield "prefix_matches_others", said
    longer = [task_id for task_id in matches if task_id[len(prefix) :][:1].isdecimal()]
    others = [task_id for task_id in matches if task_id not in longer]
    if prefix[-1:].isdecimal() and longer and others:
        said = (
            f"{prefix!r} takes {listing(others)}, and also {listing(longer)}, whose number goes on. If both "
            "are meant, end the prefix before the number; if not, give them names that don't begin alike"
        )
        yield "prefix_ambiguous", said


def _group_notes(
    outline: DagOutline, groups: Iterable[tuple[DeclaredGroup, GroupCheck]], surroundings: Surroundings
) -> Iterator[str]:
    for group, check in groups:
        for limit in narrow_steps(outline, group, surroundings, check.capacity):
            yield (
                f"Group {group.group_id!r}: not every step lets as many through, {limit.slots} at once: "
                f"{limit.because}"
            )
        outside = next((outline.tasks[task_id].mapped_group for task_id in group.all_task_ids), None)
        if outside is not None and group.mode == "static":
            yield (
                f"Group {group.group_id!r} is in the mapped task group {outside!r}: the numbers are those of "
                "one of its instances, and all instances share the limits"
            )


def _worker_notes(
    outline: DagOutline, groups: Iterable[DeclaredGroup], surroundings: Surroundings
) -> Iterator[str]:
    branches = [outline.tasks[task_id] for group in groups for task_id in group.all_task_ids]
    executors = {executor.name for task in branches if (executor := surroundings.executor_of(task))}
    for name in sorted(executors - {"LocalExecutor"}):
        if name != CELERY:
            yield f"How many tasks there is room for behind {name} is not known here"
        elif surroundings.workers is None:
            yield (
                f"No Celery worker answered, so that what they have room for is unknown; each runs "
                f"{surroundings.worker_concurrency} tasks at once ([celery] worker_concurrency)"
            )
        else:
            queues = {task.queue for task in branches if surroundings.is_on_celery(task)}
            if silent := [queue for queue in queues if not surroundings.room_for([queue])]:
                yield f"No Celery worker that answered takes tasks from: {listing(silent)}"


def _by(
    tasks: Iterable[TaskOutline], what: Callable[[TaskOutline], str]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    found: dict[str, list[TaskOutline]] = {}
    for task in tasks:
        found.setdefault(what(task), []).append(task)
    for name in sorted(found):
        yield name, _ids(found[name])


def _ids(tasks: Iterable[TaskOutline]) -> tuple[str, ...]:
    return tuple(sorted((task.task_id for task in tasks), key=natural_key))


def _wait(task_ids: Sequence[str]) -> str:
    return f"{listing(task_ids, limit=5)} {'waits' if len(task_ids) == 1 else 'wait'} for ever"
