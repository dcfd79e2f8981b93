"""How many branches of a group can run at once, and which limit sets that number."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_fanout.rules.capacity import UNKNOWN, Capacity, Limit, effective_concurrency
from airflow_fanout.rules.policy import AT_RUN_TIME, known
from airflow_fanout.rules.wording import counted, listing
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from airflow_fanout.reports.runs import GroupRun, RunFacts
    from airflow_fanout.serialization.outline import DagOutline, TaskOutline


CELERY = "CeleryExecutor"
LOCAL = "LocalExecutor"
UNLIMITED_POOL = -1

Kind = tuple[tuple["TaskOutline", ...], int]
"""The tasks of a branch, and the number of branches that are made of them."""

Takers = list[tuple[int, int]]  # slots of a pool that a branch takes, and the number of such branches


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A Celery worker that answered: how many tasks it runs at once, and from which queues."""

    concurrency: int
    queues: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class SchedulingLimits:
    """
    Limits on tasks that are set outside of their Dag.

    :param parallelism: ``[core] parallelism``: tasks of one scheduler, queued or running.
    :param pools: Slots of every pool by its name; -1 for unlimited.
    :param executors: Aliases of every configured executor by its class, the default one first.
    :param workers: The Celery workers; None if none answered, or none was asked.
    :param storage_path: ``[fanout] storage_path``; None if it isn't set.
    """

    parallelism: int = 32
    schedulers: int = 1
    pools: Mapping[str, int] = field(default_factory=lambda: {"default_pool": 128})
    executors: Mapping[str, Collection[str]] = field(default_factory=lambda: {LOCAL: ()})
    workers: tuple[Worker, ...] | None = None
    worker_concurrency: int = 16
    max_map_length: int = 1024
    storage_path: str | None = None

    def executor_of(self, task: TaskOutline) -> str | None:
        """Class of the executor that a task runs on; None if it asks for one that isn't configured."""
        if task.executor is None:
            return next(iter(self.executors))
        names = (name for name, aliases in self.executors.items() if task.executor in {name, *aliases})
        return next(names, None)

    def worker_slots(self, *queues: str) -> list[int]:
        """Number of tasks that each Celery worker of some queues runs at once."""
        return [worker.concurrency for worker in self.workers or () if not worker.queues.isdisjoint(queues)]


@dataclass(frozen=True, kw_only=True)
class GroupCapacity:
    """
    How many branches of a group can run at once if nothing else runs.

    :param declared: Number of its branches, or items; None if it is known only at run time.
    :param tasks: How many tasks can run at once: branches, or batches.
    :param items: How many items of batches can; None without batches, or if only a run tells.
    :param limits: All limits that the tasks meet, the nearest to the author first.
    """

    group: DeclaredGroup
    declared: int | None
    tasks: Capacity
    items: int | None
    limits: tuple[Limit, ...]


def group_capacity(
    outline: DagOutline, group: DeclaredGroup, scheduling: SchedulingLimits, *, declared: int | None = None
) -> GroupCapacity:
    """
    Find how many branches of a group can run at once in a run that has Airflow to itself.

    A limit is on tasks that are queued or running, as the scheduler counts them. A branch of several tasks
    counts where it has the most room, so that the number is never too small; :func:`narrow_steps` has the
    tasks that let fewer through. The declared number is of a certain run, if the Dag alone doesn't tell.
    """
    declared = declared if group.known_count is None else group.known_count
    size = known(group.items_per_task)
    is_known = declared is not None and (size is not None or group.mode != "batched")
    count = math.ceil((declared or 0) / (size or 1)) if is_known else UNKNOWN
    limits = tuple(_limits(outline, group, scheduling, count))
    tasks = effective_concurrency(count, limits)
    items = None
    if size is not None and group.item_concurrency != AT_RUN_TIME:
        items = tasks.effective * min(group.item_concurrency or 1, size)
        items = items if declared is None else min(items, declared)
    return GroupCapacity(group=group, declared=declared, tasks=tasks, items=items, limits=limits)


def narrow_steps(
    outline: DagOutline, capacity: GroupCapacity, scheduling: SchedulingLimits
) -> Iterator[Limit]:
    """Limits of single tasks of branches of several that let fewer through than run at once."""
    group, effective = capacity.group, capacity.tasks.effective
    if group.steps is None:
        return
    for pool, takers in _takers(_kinds(outline, group, capacity.tasks.declared), max).items():
        limit = _pool_limit(pool, scheduling.pools, takers)
        if limit is not None and limit.slots < min(effective, sum(number for _, number in takers)):
            yield limit
    for task_id in group.each:
        limits = _instance_limits(group, [outline.tasks[task_id]])
        yield from (limit for limit in limits if limit.slots < effective)


def _limits(
    outline: DagOutline, group: DeclaredGroup, scheduling: SchedulingLimits, count: int
) -> Iterator[Limit]:
    """All limits, of equal ones first what the author is nearest to."""
    kinds = _kinds(outline, group, count)
    if group.each:
        yield from _instance_limits(group, [outline.tasks[task_id] for task_id in group.each])
    yield from _pool_limits(kinds, scheduling.pools)
    yield Limit(name="max_active_tasks", slots=outline.max_active_tasks, where="the Dag")
    parallelism, schedulers, reason = scheduling.parallelism, scheduling.schedulers, ""
    if schedulers > 1:
        reason = f"core.parallelism is {parallelism} for each of {schedulers} schedulers"
    yield Limit(name="core.parallelism", slots=parallelism * schedulers, reason=reason)
    if scheduling.workers is not None:
        yield from _worker_limits(kinds, scheduling)


def _kinds(outline: DagOutline, group: DeclaredGroup, count: int) -> list[Kind]:
    """The branches of a group by what they are made of."""
    branches = [(group.each, count)] if group.each else [(branch.task_ids, 1) for branch in group.branches]
    return [(tuple(outline.tasks[task_id] for task_id in task_ids), number) for task_ids, number in branches]


def _instance_limits(group: DeclaredGroup, steps: Sequence[TaskOutline]) -> Iterator[Limit]:
    """Limits on the instances of mapped tasks; the branches of a static group are one instance each."""
    where = ", ".join(step.task_id for step in steps)
    for name in ("max_active_tis_per_dagrun", "max_active_tis_per_dag"):
        slots = [getattr(step, name) for step in steps]
        if None in slots:
            continue  # a step without a limit has room for all
        limit = sum(max(0, number) for number in slots)
        if limit == group.max_concurrency and name == "max_active_tis_per_dagrun":
            yield Limit(name="max_concurrency", slots=limit, where=group.group_id)
            continue
        together = ", all runs together" if name == "max_active_tis_per_dag" else ""
        yield Limit(name=name, slots=limit, where=where, reason=f"{name} of {where} is {limit}{together}")


def _takers(kinds: Iterable[Kind], choose: Callable[[Iterable[int]], int]) -> dict[str, Takers]:
    """What branches take of each pool; of several steps in it the one that is chosen counts."""
    takers: dict[str, Takers] = {}
    for steps, number in kinds:
        for pool in {step.pool for step in steps}:
            slots = choose(step.pool_slots for step in steps if step.pool == pool)
            takers.setdefault(pool, []).append((slots, number))
    return dict(sorted(takers.items()))


def _pool_limit(pool: str, pools: Mapping[str, int], takers: Takers) -> Limit | None:
    """Limit that one pool sets; None if it has room for all that take slots of it."""
    if pool not in pools:
        return Limit(name="pool", slots=0, where=pool, reason=f"pool {pool!r} doesn't exist")
    slots = pools[pool]
    if slots == UNLIMITED_POOL:
        return None
    reason = f"pool {pool!r} has {counted(slots, 'slot', 'slots')}"
    least, most = min(takers)[0], max(takers)[0]
    if least == most:
        reason += f", each branch takes {least}" if least > 1 else ""
        return Limit(name="pool", slots=slots // least, where=pool, reason=reason)
    room = 0
    for size, number in sorted(takers):
        fitting = min(number, slots // size)
        room += fitting
        slots -= fitting * size
    if room >= sum(number for _, number in takers):
        return None
    reason += f", a branch takes {least} to {most}"
    return Limit(name="pool", slots=room, where=pool, reason=reason)


def _pool_limits(kinds: Sequence[Kind], pools: Mapping[str, int]) -> Iterator[Limit]:
    """Limit that the pools of branches set together."""
    takers = _takers(kinds, min)
    limits = {pool: _pool_limit(pool, pools, takers[pool]) for pool in takers}
    if len(limits) == 1:
        yield from filter(None, limits.values())
        return
    rooms = {pool: sum(number for _, number in takers[pool]) for pool in takers}
    rooms |= {pool: min(rooms[pool], limit.slots) for pool, limit in limits.items() if limit is not None}
    if sum(rooms.values()) < sum(number for _, number in kinds):
        reason = "pools have room for " + ", ".join(f"{room} in {pool!r}" for pool, room in rooms.items())
        yield Limit(name="pool", slots=sum(rooms.values()), where=", ".join(rooms), reason=reason)


def _worker_limits(kinds: Iterable[Kind], scheduling: SchedulingLimits) -> Iterator[Limit]:
    """Limit that the Celery workers set; none where no worker takes from a queue: it may start on demand."""
    elsewhere, queues = 0, Counter[str]()
    for steps, number in kinds:
        if any(scheduling.executor_of(step) != CELERY for step in steps):
            elsewhere += number
        else:
            queues.update(dict.fromkeys((step.queue for step in steps), number))
    rooms = {queue: sum(scheduling.worker_slots(queue)) for queue in queues}
    if not queues or elsewhere >= UNKNOWN or 0 in rooms.values():
        return
    workers = scheduling.worker_slots(*queues)
    room = slots = sum(workers)
    if len(queues) > 1:
        slots = min(room, sum(min(number, rooms[queue]) for queue, number in queues.items()))
    running = counted(len(workers), "Celery worker runs", "Celery workers run")
    queue = "queue" if len(queues) == 1 else "queues"
    reason = f"{running} {room} tasks at once from {queue} {listing(queues)}"
    yield Limit(name="executor", slots=elsewhere + slots, where=CELERY, reason=reason)


def capacities(facts: RunFacts, surroundings: SchedulingLimits) -> Callable[[GroupRun, int], Capacity | None]:
    """Make what tells how many branches, or batches, can run at once, as things are now."""

    def capacity_of(run: GroupRun, count: int) -> Capacity | None:
        group = _by_prefix(facts, run) if run.group is None else run.group
        if group is None:
            return None
        declared = len(run.branches) - run.states["removed"]
        capacity = group_capacity(facts.outline, group, surroundings, declared=declared).tasks
        limit = capacity.limit if capacity.effective < count else None
        return Capacity(declared=count, effective=min(capacity.effective, count), limit=limit)

    return capacity_of


def _by_prefix(facts: RunFacts, run: GroupRun) -> DeclaredGroup | None:
    """Take what a prefix brings together for a group; None if some of several tasks have their own limits."""
    declared = [branch for branch in run.branches if branch.state != "removed"]
    task_ids = list(dict.fromkeys(task.task_id for branch in declared for task in branch.task_runs))
    if len(task_ids) == 1:  # perhaps mapped
        return DeclaredGroup(group_id=run.title, prefix="", mode="mapped", each=tuple(task_ids))
    tasks = [facts.outline.tasks[task_id] for task_id in task_ids]
    if any({task.max_active_tis_per_dag, task.max_active_tis_per_dagrun} != {None} for task in tasks):
        return None
    branches = (
        DeclaredBranch(name=branch.name, task_ids=(branch.task_runs[0].task_id,)) for branch in declared
    )
    return DeclaredGroup(group_id=run.title, prefix="", branches=tuple(branches))
