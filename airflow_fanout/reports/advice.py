"""Figures of a group that has run -> advice that follows from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from airflow_fanout.rules.capacity import describe
from airflow_fanout.rules.wording import format_ratio, format_seconds, format_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from airflow_fanout.reports.runs import TaskRun
    from airflow_fanout.reports.timing import Straggler
    from airflow_fanout.rules.capacity import Capacity
    from airflow_fanout.serialization.declaration import Mode


__all__ = ["Advice", "Figures", "HostLoad", "advise", "host_loads"]

TOO_MUCH_OVERHEAD = 0.5
"""Share of overhead above which it is worth while to run several items in one task."""

GOOD_OVERHEAD = 0.2
"""Share of overhead that the number of items in one task is chosen for."""

MORE_ITEMS = 2
"""How many times as many items a task has to run for a change to be worth while."""

BIG_SAVING = 0.2
"""Share of the wall that the slowest branch alone has to cost."""

MUCH_SLOWER = 2.0
"""How many times as long as the median of the others the slowest branch has to take."""

COMPUTES = 0.7
"""Share of the cores' time from which on branches are taken to compute, and not to wait."""

ONLY_WAITS = 0.1
"""Share of their work up to which what branches compute makes no difference."""

WORTH_A_START = 1.0
"""Seconds of work in one task below which starting its process takes as long: more at once saves nothing."""

Kind = Literal["overhead", "straggler", "limit", "cores", "waiting"]


@dataclass(frozen=True, kw_only=True)
class Advice:
    """
    A piece of advice.

    :param kind: Which rule it comes from.
    :param text: What was seen, and what to do about it, in one or two sentences.
    :param setting: The setting to change, such as ``items_per_task``; None if there is none.
    :param value: What to set it to; None if the figures don't say.
    """

    kind: Kind
    text: str
    setting: str | None = None
    value: int | None = None


@dataclass(frozen=True, kw_only=True)
class Figures:
    """
    What advice is made from; None is what wasn't recorded, and no rule guesses it.

    :param mode: The group's mode; None if only a prefix brings the branches together.
    :param takes_batches: Whether ``items_per_task`` can be given to the group: its branches are functions.
    :param tasks: Number of branches, or of batches.
    :param parts: Number of branches, or of items.
    :param peak: Greatest number of branches, or batches, that ran at one moment.
    :param steps: What each branch has several of, ``tasks``; None if each is one task.
    :param overhead_share: As in :class:`~airflow_fanout.reports.timing.GroupSummary`.
    :param median_work: Median of the seconds that one branch, or item, took inside its code.
    :param median_overhead: Median of the seconds that a task took on top of its work.
    :param items_per_task: Items of one task; None if the group isn't batched.
    :param item_concurrency: Of these, how many could run at once.
    :param wall_seconds: From the first queued to the last end.
    :param straggler: The slowest branch, or batch, and the others without it.
    :param capacity: How many branches, or batches, can run at once.
    :param hosts: The machines that they ran on.
    :param share_computed: CPU seconds divided by work.
    """

    mode: Mode | None
    takes_batches: bool = False
    tasks: int
    parts: int
    peak: int
    steps: str | None = None
    overhead_share: float | None = None
    median_work: float | None = None
    median_overhead: float | None = None
    items_per_task: int | None = None
    item_concurrency: int | None = None
    wall_seconds: float | None = None
    straggler: Straggler | None = None
    capacity: Capacity | None = None
    hosts: tuple[HostLoad, ...] = ()
    share_computed: float | None = None

    @property
    def one(self) -> str:
        """What one of the tasks is called."""
        return "branch" if self.items_per_task is None else "batch"

    @property
    def many(self) -> str:
        """What several of them are called."""
        return "branches" if self.items_per_task is None else "batches"


def advise(figures: Figures) -> list[Advice]:
    """
    Say what the figures of a group suggest.

    :param figures: The group's figures.
    :return: What each rule has to say, if it applies.
    """
    rules = (overhead, straggler, limit, cores, waiting)
    return [advice for rule in rules if (advice := rule(figures)) is not None]


def overhead(figures: Figures) -> Advice | None:
    """
    Advise to run more items in one task, where more than half of the tasks' time was no work.

    As many that overhead falls to :data:`GOOD_OVERHEAD`, by the medians of work and of overhead; but no
    more than leave as many tasks as ran at once, or, where none of them then takes longer than the whole
    did, as their machines have cores: more of them at once only started more slowly.
    """
    work, extra = figures.median_work, figures.median_overhead
    if (
        not figures.takes_batches
        or figures.overhead_share is None
        or figures.overhead_share <= TOO_MUCH_OVERHEAD
        or work is None
        or extra is None
        or figures.peak < 1
    ):
        return None
    each = work / min(figures.item_concurrency or 1, figures.parts)  # of the task's time
    most = _most_items(figures.parts, figures.peak)
    core_count = sum(host.cores for host in figures.hosts)
    if 0 < core_count < figures.peak and figures.wall_seconds is not None:
        fewer = math.ceil(figures.parts / core_count)
        if each > 0:
            fewer = min(fewer, math.floor((figures.wall_seconds - extra) / each))
        most = max(most, fewer)
    wanted = most
    if each > 0:
        wanted = math.ceil(round(extra / each * (1 - GOOD_OVERHEAD) / GOOD_OVERHEAD, 6))
    items = min(wanted, most)
    if items < MORE_ITEMS * (figures.items_per_task or 1):
        return None
    left = math.ceil(figures.parts / items)
    expected = extra / (extra + items * each)
    what = "item" if figures.items_per_task is not None else "branch"
    text = (
        f"{format_share(figures.overhead_share)} of the time was overhead: a task took "
        f"{format_seconds(extra)} on top of its work, and {'an' if what == 'item' else 'a'} {what} "
        f"{format_seconds(work)}. items_per_task={items} makes {left} {'task' if left == 1 else 'tasks'} of "
        f"them, with about {format_share(expected)} of overhead."
    )
    return Advice(kind="overhead", text=text, setting="items_per_task", value=items)


def _most_items(parts: int, at_once: int) -> int:
    """Greatest number of items in one task that leaves at least as many tasks as run at once."""
    return parts if at_once == 1 else math.ceil(parts / (at_once - 1)) - 1


def straggler(figures: Figures) -> Advice | None:
    """
    Name a branch that everything waited for, unless it failed: what it took tells nothing of its size then.

    Without it the group would have ended by :data:`BIG_SAVING` sooner, and it took :data:`MUCH_SLOWER`
    times as long as the median of the others.
    """
    found, wall = figures.straggler, figures.wall_seconds
    if found is None or found.saved_seconds is None or wall is None or wall <= 0:
        return None
    slowest, usual = found.branch, found.median_of_others
    if slowest.state != "success":
        return None
    saved = min(found.saved_seconds, slowest.seconds)  # the rest it was queued, or waited to be cleared
    share = saved / wall
    if share < BIG_SAVING or slowest.seconds < MUCH_SLOWER * usual or slowest.seconds <= 0:
        return None
    times = f", {format_ratio(slowest.seconds / usual)} the median of the others" if usual > 0 else ""
    text = (
        f"{slowest.name} took {format_seconds(slowest.seconds)}{times}: without it all would have ended "
        f"{format_seconds(saved)} ({format_share(share)}) sooner. Splitting it, or what it "
        "waits for, shortens the run most."
    )
    return Advice(kind="straggler", text=text)


def limit(figures: Figures) -> Advice | None:
    """Name the limit that let fewer run at once than there were, if as many ran, or one fewer."""
    capacity = _held_back_by(figures)
    if capacity is None or capacity.limit is None:
        return None
    held_back = capacity.declared - capacity.effective
    if figures.overhead_share is not None and figures.overhead_share > TOO_MUCH_OVERHEAD:
        way_out = "more at once save little while starting tasks takes most of the time"
    else:
        way_out = "raise it if there is room for more"
    text = (
        f"{describe(capacity, one=figures.one, many=figures.many, of_each=figures.steps)}. {held_back} "
        f"{figures.one if held_back == 1 else figures.many} had to wait for a place ({figures.peak} ran at "
        f"once); {way_out}."
    )
    return Advice(kind="limit", text=text, setting=capacity.limit.name)


def _held_back_by(figures: Figures) -> Capacity | None:
    capacity = figures.capacity
    if capacity is None or capacity.limit is None or capacity.effective >= capacity.declared:
        return None
    # More at once than the limit: it was another one then, or is on something else.
    return capacity if max(1, capacity.effective - 1) <= figures.peak <= capacity.effective else None


def cores(figures: Figures) -> Advice | None:
    """Advise against more tasks at once than a machine has cores, where they compute :data:`COMPUTES`."""
    crowded = [host for host in figures.hosts if host.peak > host.cores and host.busy_share >= COMPUTES]
    if not crowded:
        return None
    worst = max(crowded, key=lambda host: host.peak / host.cores)
    setting = "max_concurrency" if figures.mode in {"mapped", "batched"} else "pool"
    way_out = (
        f"max_concurrency={worst.cores}" if setting == "max_concurrency" else f"a pool of {worst.cores} slots"
    )
    text = (
        f"{worst.peak} {figures.many} computed at once on {worst.hostname}, which has {worst.cores} "
        f"{'core' if worst.cores == 1 else 'cores'}, and used {format_share(min(1.0, worst.busy_share))} of "
        f"what these can give: each only took longer. Let fewer run at once ({way_out} for each such "
        "machine), or give them more cores."
    )
    return Advice(kind="cores", text=text, setting=setting, value=worst.cores)


def waiting(figures: Figures) -> Advice | None:
    """Advise to run more at once, where branches only wait and a setting holds them back."""
    share, work = figures.share_computed, figures.median_work
    of_a_task = min(figures.items_per_task or 0, figures.parts)
    if share is None or share > ONLY_WAITS or work is None or work * max(1, of_a_task) < WORTH_A_START:
        return None
    held_by: list[str] = []
    setting: str | None = None
    if figures.item_concurrency is not None and figures.item_concurrency < of_a_task:
        setting = "item_concurrency"
        held_by.append(f"item_concurrency is {figures.item_concurrency} of the {of_a_task} items of a task")
    capacity = _held_back_by(figures)
    if capacity is not None and capacity.limit is not None:
        setting = setting or capacity.limit.name
        held_by.append(
            f"{capacity.limit.name} lets {capacity.effective} of {capacity.declared} {figures.many} run"
        )
    if not held_by:
        return None
    what = "items" if figures.items_per_task is not None else "branches"
    text = (
        f"The {what} only waited: {format_share(share)} of their work was computing. More at once costs next "
        f"to nothing: {', and '.join(held_by)}."
    )
    return Advice(kind="waiting", text=text, setting=setting)


@dataclass(frozen=True, kw_only=True)
class HostLoad:
    """
    What a group's branches asked of one machine.

    :param hostname: The machine.
    :param cores: Cores that they could run on.
    :param peak: Greatest number of them that were at work at one moment.
    :param busy_share: CPU seconds that they used, of those that they could have used while they were at
        work: one core for each, and all cores where there were more of them. (CPU seconds divided by
        work would fall where they wait for each other's cores, which is what this is to show.)
    """

    hostname: str
    cores: int
    peak: int
    busy_share: float


def host_loads(task_runs: Iterable[TaskRun]) -> tuple[HostLoad, ...]:
    """
    Work out the load of each machine, in the order of their names.

    Only instances that have recorded all of it are looked at; a machine without one is not there.

    :param task_runs: The task instances of a group's branches.
    """
    by_host: dict[str, list[TaskRun]] = {}
    for each in task_runs:
        if each.hostname and each.cores is not None and _at_work(each) is not None:
            by_host.setdefault(each.hostname, []).append(each)
    loads = (_load(hostname, its) for hostname, its in sorted(by_host.items()))
    return tuple(load for load in loads if load is not None)


def _load(hostname: str, its: Sequence[TaskRun]) -> HostLoad | None:
    cores = min(each.cores for each in its if each.cores is not None)
    changes: list[tuple[datetime, int]] = []
    for each in its:
        began, ended = _at_work(each) or (None, None)
        if began is not None and ended is not None:
            changes += [(began, 1), (ended, -1)]
    running = peak = 0
    could_use = 0.0
    before: datetime | None = None
    for moment, change in sorted(changes):
        if before is not None:
            could_use += min(running, cores) * (moment - before).total_seconds()
        running += change
        peak, before = max(peak, running), moment
    used = math.fsum(each.timing.cpu_seconds or 0.0 for each in its)
    if could_use <= 0:
        return None
    return HostLoad(hostname=hostname, cores=cores, peak=peak, busy_share=used / could_use)


def _at_work(each: TaskRun) -> tuple[datetime, datetime] | None:
    """Begin and end of its work, which comes last in a task's process; None if that isn't known."""
    timing = each.timing
    if timing.started is None or timing.ended is None or timing.ended <= timing.started:
        return None
    if timing.work_seconds is None or timing.cpu_seconds is None:
        return None
    # Items of one batch that ran at the same time have more work in sum than their task was there.
    elapsed = (timing.ended - timing.started).total_seconds()
    return timing.ended - timedelta(seconds=min(timing.work_seconds, elapsed)), timing.ended
