"""How many branches of a group can run at once, and what sets that number; plain values, for CLI and UI."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_fanout.rules.capacity import UNLIMITED_POOL, Limit, effective_concurrency, pool_limit
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from airflow_fanout.serialization.declaration import DeclaredGroup
    from airflow_fanout.serialization.outline import DagOutline, TaskOutline


__all__ = ["CELERY", "Executor", "GroupCapacity", "Surroundings", "Worker", "group_capacity", "narrow_steps"]

CELERY = "CeleryExecutor"

Kind = tuple[tuple["TaskOutline", ...], float]
"""The steps of branches that are alike, and how many there are; infinitely many if nobody knows yet."""


@dataclass(frozen=True, kw_only=True)
class Executor:
    """
    An executor that Airflow is configured with.

    :param name: Name of its class.
    :param aliases: What else a task may call it: its alias, the path of its class.
    """

    name: str
    aliases: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Worker:
    """
    A Celery worker that answered.

    :param concurrency: Tasks that it runs at once.
    :param queues: Queues that it takes tasks from.
    """

    concurrency: int
    queues: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """
    What is outside of a Dag, and holds its tasks back.

    :param parallelism: ``[core] parallelism``: tasks of one scheduler, queued or running, on all its
        executors together.
    :param schedulers: Number of schedulers that are alive; 1 if none is.
    :param pools: Slots of every pool by its name; -1 for unlimited.
    :param executors: The configured executors, the default one first.
    :param workers: The Celery workers; None if none answered, or none was asked.
    :param worker_concurrency: ``[celery] worker_concurrency``: tasks that a worker runs at once unless told.
    :param max_map_length: ``[core] max_map_length``.
    """

    parallelism: int = 32
    schedulers: int = 1
    pools: Mapping[str, int] = field(default_factory=lambda: {"default_pool": 128})
    executors: tuple[Executor, ...] = (Executor(name="LocalExecutor"),)
    workers: tuple[Worker, ...] | None = None
    worker_concurrency: int = 16
    max_map_length: int = 1024

    def executor_of(self, task: TaskOutline) -> Executor | None:
        """Return the executor that a task runs on; None if it asks for one that isn't configured."""
        if task.executor is None:
            return self.executors[0]
        return next((e for e in self.executors if task.executor in {e.name, *e.aliases}), None)

    def is_on_celery(self, task: TaskOutline) -> bool:
        """Whether a task runs on a Celery worker."""
        executor = self.executor_of(task)
        return executor is not None and executor.name == CELERY

    def room_for(self, queues: Iterable[str]) -> int:
        """Return the number of tasks that the Celery workers of these queues run at once."""
        wanted = set(queues)
        return sum(worker.concurrency for worker in self.workers or () if worker.queues & wanted)


@dataclass(frozen=True, kw_only=True)
class GroupCapacity:
    """
    What a group declares, and what of it can run at once if nothing else does.

    :param declared: Number of its branches (batched: items); None if it is known only at run time.
    :param tasks: Number of tasks that want to run at once: the branches, or the batches; None likewise.
    :param effective: How many of these can; 0 of some means that they wait for ever.
    :param items: Batched: how many items can run at once in these tasks; else None.
    :param limit: What sets ``effective``; None if nothing holds them back: there are no more than that.
    :param limits: All that may hold them back, the nearest to the author first.
    """

    declared: int | None
    tasks: int | None
    effective: int
    items: int | None
    limit: Limit | None
    limits: tuple[Limit, ...]


def group_capacity(
    outline: DagOutline, group: DeclaredGroup, surroundings: Surroundings, *, declared: int | None = None
) -> GroupCapacity:
    """
    Tell how many branches of a group run at once in a run that has Airflow to itself.

    A limit is on tasks that are queued or running, as the scheduler counts them. A branch of several tasks
    is taken to be in whichever of its tasks has the most room, so that the number is never too small;
    :func:`narrow_steps` has the tasks that let fewer through.

    :param outline: Its Dag.
    :param group: The group.
    :param surroundings: What is outside of the Dag.
    :param declared: Number of its branches or items in a certain run, where the Dag alone doesn't tell.
    """
    declared = group.known_count if group.known_count is not None else declared
    tasks = declared
    if declared is not None and group.items_per_task is not None:
        tasks = math.ceil(declared / group.items_per_task)
    limits = tuple(_limits(outline, group, surroundings, tasks))
    if tasks is None:
        limit: Limit | None = min(limits, key=lambda limit: limit.slots)
        effective = min(limit.slots for limit in limits)
    else:
        found = effective_concurrency(tasks, limits)
        limit, effective = found.limit, found.effective
    items = None
    if group.items_per_task is not None:
        items = effective * min(group.item_concurrency or 1, group.items_per_task)
        items = items if declared is None else min(items, declared)
    return GroupCapacity(
        declared=declared, tasks=tasks, effective=effective, items=items, limit=limit, limits=limits
    )


def narrow_steps(
    outline: DagOutline, group: DeclaredGroup, surroundings: Surroundings, capacity: GroupCapacity
) -> list[Limit]:
    """
    Limits of single steps of branches of several tasks that let fewer through than run at once.

    :param outline: Its Dag.
    :param group: The group.
    :param surroundings: What is outside of the Dag.
    :param capacity: What :func:`group_capacity` found.
    """
    kinds = _kinds(outline, group, capacity.tasks)
    if all(len(steps) == 1 for steps, _ in kinds):
        return []
    found: list[Limit | None] = []
    for pool, wanted in _wanted(kinds, max).items():
        room = _fitting(surroundings.pools.get(pool, 0), wanted)
        if room < min(capacity.effective, sum(number for _, number in wanted)):
            found.append(_one_pool(pool, surroundings.pools, wanted, room))
    for task_id in group.each:
        found += _instance_limits(group, [outline.tasks[task_id]])
    return [limit for limit in found if limit is not None and limit.slots < capacity.effective]


def _limits(
    outline: DagOutline, group: DeclaredGroup, surroundings: Surroundings, tasks: int | None
) -> Iterator[Limit]:
    """Yield all limits, of equal ones first what the author is nearest to."""
    kinds = _kinds(outline, group, tasks)
    if group.each:
        yield from _instance_limits(group, [outline.tasks[task_id] for task_id in group.each])
    if kinds and (pools := _pools_limit(kinds, surroundings.pools)) is not None:
        yield pools
    yield Limit(name="max_active_tasks", slots=max(0, outline.max_active_tasks), where="the Dag")
    schedulers = surroundings.schedulers
    each = f"core.parallelism is {surroundings.parallelism} for each of {schedulers} schedulers"
    yield Limit(
        name="core.parallelism",
        slots=max(0, surroundings.parallelism) * schedulers,
        reason=each if schedulers > 1 else "",
    )
    if kinds and (workers := _workers_limit(kinds, surroundings)) is not None:
        yield workers


def _kinds(outline: DagOutline, group: DeclaredGroup, tasks: int | None) -> list[Kind]:
    if group.each:
        steps = tuple(outline.tasks[task_id] for task_id in group.each)
        return [(steps, math.inf if tasks is None else tasks)]
    return [(tuple(outline.tasks[task_id] for task_id in branch.task_ids), 1) for branch in group.branches]


def _instance_limits(group: DeclaredGroup, steps: Sequence[TaskOutline]) -> Iterator[Limit]:
    """Limits on the instances of mapped tasks; the branches of a static group are one instance each."""
    for name in ("max_active_tis_per_dagrun", "max_active_tis_per_dag"):
        slots = [limit for step in steps if (limit := getattr(step, name)) is not None]
        if len(slots) < len(steps):
            continue  # a step without one has room for all
        limit = sum(max(0, each) for each in slots)
        where = ", ".join(step.task_id for step in steps)
        if name == "max_active_tis_per_dagrun" and limit == group.max_concurrency:
            yield Limit(name="max_concurrency", slots=limit, where=group.group_id)
        elif name == "max_active_tis_per_dag":
            reason = f"{name} of {where} is {limit}, all runs together"
            yield Limit(name=name, slots=limit, where=where, reason=reason)
        else:
            yield Limit(name=name, slots=limit, where=where)


def _wanted(kinds: Iterable[Kind], choose: Callable[[int, int], int]) -> dict[str, list[tuple[int, float]]]:
    """For each pool: slots that a branch takes of it in one of its steps, and the number of such branches."""
    wanted: dict[str, list[tuple[int, float]]] = {}
    for steps, number in kinds:
        chosen: dict[str, int] = {}
        for step in steps:
            chosen[step.pool] = choose(step.pool_slots, chosen.get(step.pool, step.pool_slots))
        for pool, slots in chosen.items():
            wanted.setdefault(pool, []).append((slots, number))
    return wanted


def _fitting(slots: int, wanted: Iterable[tuple[int, float]]) -> float:
    """Return the number of branches that fit into a pool, those that take the fewest slots first."""
    room = 0.0
    for each, number in sorted(wanted):
        fits = number if slots == UNLIMITED_POOL else min(number, slots // each)
        room += fits
        if slots != UNLIMITED_POOL:
            slots -= int(fits) * each
    return room


def _pools_limit(kinds: Sequence[Kind], pools: Mapping[str, int]) -> Limit | None:
    wanted = _wanted(kinds, min)
    if len(wanted) == 1:
        ((pool, its),) = wanted.items()
        room = _fitting(pools.get(pool, 0), its)
        if len({slots for slots, _ in its}) == 1 or room < sum(number for _, number in its):
            return _one_pool(pool, pools, its, room)
        return None
    rooms = {pool: _fitting(pools.get(pool, 0), its) for pool, its in wanted.items()}
    room = sum(rooms.values())
    if room >= sum(number for _, number in kinds):
        return None
    said = ", ".join(f"{int(rooms[pool])} in {pool!r}" for pool in sorted(rooms))
    return Limit(
        name="pool", slots=int(room), where=", ".join(sorted(rooms)), reason=f"pools have room for {said}"
    )


def _one_pool(
    pool: str, pools: Mapping[str, int], wanted: Iterable[tuple[int, float]], room: float
) -> Limit | None:
    if pool not in pools:
        return Limit(name="pool", slots=0, where=pool, reason=f"pool {pool!r} doesn't exist")
    slots = sorted({each for each, _ in wanted})
    if len(slots) == 1:
        return pool_limit(pool, pools[pool], slots[0])
    reason = f"pool {pool!r} has {pools[pool]} slots, a branch takes {slots[0]} to {slots[-1]}"
    return Limit(name="pool", slots=int(room), where=pool, reason=reason)


def _workers_limit(kinds: Sequence[Kind], surroundings: Surroundings) -> Limit | None:
    if surroundings.workers is None:
        return None
    elsewhere, wanted = 0.0, dict[str, float]()
    for steps, number in kinds:
        if not all(surroundings.is_on_celery(step) for step in steps):
            elsewhere += number
            continue
        for queue in {step.queue for step in steps}:
            wanted[queue] = wanted.get(queue, 0) + number
    room = surroundings.room_for(wanted)
    if elsewhere == math.inf or not all(surroundings.room_for([queue]) for queue in wanted) or not wanted:
        return None  # of a queue that nobody takes there is a note; its workers may be started on demand
    by_queue = sum(min(number, surroundings.room_for([queue])) for queue, number in wanted.items())
    listening = sum(bool(worker.queues & wanted.keys()) for worker in surroundings.workers)
    queues = "queue" if len(wanted) == 1 else "queues"
    reason = (
        f"{listening} Celery {'worker' if listening == 1 else 'workers'} on {queues} {listing(wanted)} "
        f"{'runs' if listening == 1 else 'run'} {room} tasks at once"
    )
    slots = room if len(wanted) == 1 else min(room, by_queue)
    return Limit(name="executor", slots=int(elsewhere + slots), where=CELERY, reason=reason)
