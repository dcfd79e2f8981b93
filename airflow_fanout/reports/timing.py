"""Times of branches, and what follows from them: work, wall, speed-up, overhead, the slowest."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Literal

from airflow_fanout.rules.names import natural_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Span = tuple[datetime, datetime]
    """From a start to an end."""


REMOVED = "removed"

STATE_ORDER = (
    *("failed", "upstream_failed", "missing", "running", "restarting", "deferred", "up_for_retry"),
    *("up_for_reschedule", "queued", "scheduled", "waiting", "skipped", "success", REMOVED),
)
"""States in the order in which people want to know about them."""

LONG = 0.2  # share of the busy time from which on an idle time is left out of a time line
MOST_CUTS = 10  # idle times that are left out, at most: the longest


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchTiming:
    """
    When one branch (or item) was queued and ran in its last try, and what it recorded about itself.

    :param work_seconds: Wall-clock seconds measured inside ``execute``.
    :param tasks: The times of its tasks, or tries, if it has several: it may wait for a slot between two.
    """

    name: str
    state: str
    queued: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    work_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    tries: int | None = None
    tasks: tuple[BranchTiming, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what would spoil every figure that it is part of."""
        if self.work_seconds is not None and not 0 <= self.work_seconds < math.inf:
            msg = f"Branch {self.name!r}: expected work_seconds of 0 or more, not {self.work_seconds}"
            raise ValueError(msg)
        for timestamp in (self.queued, self.started, self.ended):
            if timestamp is not None and timestamp.tzinfo is None:
                msg = f"Branch {self.name!r}: expected datetimes with a time zone, not {timestamp}"
                raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class SlowBranch:
    """
    One of the slowest branches, or items.

    ``measure`` is ``work``, the seconds inside its code, or, where no branch of the group recorded its work,
    ``elapsed``, those from its start to its end.
    """

    name: str
    seconds: float
    state: str
    measure: Literal["work", "elapsed"]


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """
    Figures of a group; None is what can't be known, because something was not recorded.

    ``states`` is the number of branches by state, those that need attention first. The rest is about
    ``total`` branches: all but the ``removed``. Work is about the ``recorded`` ones, so that ``speed_up``,
    work divided by wall, is a lower bound where these are fewer. Wall is from the first queued to the last
    end, without branches that never ran; None until all have ended, or if it isn't known when one that ran
    was queued. Overhead is the time from queued to end that was no work. ``computed_share`` is CPU seconds
    divided by work. Memory is that of one branch's process, at most. A branch of several tasks counts
    towards ``peak_concurrency`` while one of its tasks runs. "Without the slowest" are the others as they
    ran: what might have started earlier is not moved up.
    """

    states: dict[str, int]
    total: int
    recorded: int = 0
    work_seconds: float | None = None
    median_work_seconds: float | None = None
    wall_seconds: float | None = None
    speed_up: float | None = None
    overhead_share: float | None = None
    median_overhead_seconds: float | None = None
    elapsed_sum_seconds: float | None = None
    cpu_seconds: float | None = None
    computed_share: float | None = None
    peak_memory_bytes: int | None = None
    peak_concurrency: int = 0
    slowest: tuple[SlowBranch, ...] = ()
    median_without_slowest_seconds: float | None = None
    wall_without_slowest_seconds: float | None = None
    saved_without_slowest_seconds: float | None = None


def summarize(timings: Iterable[BranchTiming], *, slowest: int = 3) -> GroupSummary:
    """
    Work out a group's figures; the order of the branches makes no difference.

    ``removed`` branches are only counted: their times are those of an earlier, longer list.

    :param slowest: How many of the slowest branches to name.
    """
    timings = list(timings)
    counted = [_last_try(timing) for timing in timings if timing.state != REMOVED]
    work = [timing.work_seconds for timing in counted if timing.work_seconds is not None]
    memory = [timing.peak_memory_bytes for timing in counted if timing.peak_memory_bytes is not None]
    computed = [
        (timing.cpu_seconds, timing.work_seconds)
        for timing in counted
        if timing.cpu_seconds is not None and timing.work_seconds is not None
    ]
    named, durations = _slowest(counted, slowest)
    rest = [timing for timing in counted if timing.name != named[0].name] if len(durations) > 1 else []
    wall, wall_of_rest = _wall_seconds(counted), _wall_seconds(rest)
    overhead_share, median_overhead_seconds = _overhead(counted)
    return GroupSummary(
        states=count_states(timing.state for timing in timings),
        total=len(counted),
        recorded=len(work),
        work_seconds=sum_of_known(work),
        median_work_seconds=median(work) if work else None,
        wall_seconds=wall,
        speed_up=_ratio(sum_of_known(work), wall),
        overhead_share=overhead_share,
        median_overhead_seconds=median_overhead_seconds,
        elapsed_sum_seconds=sum_of_known(seconds_between(timing.started, timing.ended) for timing in counted),
        cpu_seconds=sum_of_known(timing.cpu_seconds for timing in counted),
        computed_share=_ratio(sum_of_known(c for c, _ in computed), sum_of_known(w for _, w in computed)),
        peak_memory_bytes=max(memory, default=None),
        peak_concurrency=_peak_concurrency(counted),
        slowest=tuple(named),
        median_without_slowest_seconds=median(durations[1:]) if rest else None,
        wall_without_slowest_seconds=wall_of_rest,
        saved_without_slowest_seconds=None if wall is None or wall_of_rest is None else wall - wall_of_rest,
    )


def count_states(states: Iterable[str]) -> dict[str, int]:
    """Count by state, in the order of :data:`STATE_ORDER`."""
    rank = {state: index for index, state in enumerate(STATE_ORDER)}
    return dict(sorted(Counter(states).items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def segments(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Divide a time line where nothing was going on for long, as before a branch that was cleared."""
    busy: list[Span] = []
    for start, end in sorted(spans):
        if busy and start <= busy[-1][1]:
            busy[-1] = busy[-1][0], max(busy[-1][1], end)
        else:
            busy.append((start, end))
    shortest = LONG * sum((end - start).total_seconds() for start, end in busy)
    gaps = [(after[0] - before[1]).total_seconds() for before, after in pairwise(busy)]
    longest = sorted(range(len(gaps)), key=lambda index: -gaps[index])[:MOST_CUTS]
    cuts = sorted(index + 1 for index in longest if gaps[index] > shortest)
    edges = [0, *cuts, len(busy)] if busy else []
    return tuple((busy[first][0], busy[last - 1][1]) for first, last in pairwise(edges))


def _last_try(timing: BranchTiming) -> BranchTiming:
    """Keep the times that belong to the last try, in UTC."""
    if timing.queued is timing.started is timing.ended is None:
        return timing
    # Python subtracts datetimes of one zone as clocks on the wall show them: an hour off when they change.
    queued, started, ended = (
        None if timestamp is None else timestamp.astimezone(UTC)
        for timestamp in (timing.queued, timing.started, timing.ended)
    )
    if queued is not None and ended is not None and ended < queued:
        # Waiting for its next try: Airflow keeps the earlier one's start and end until that starts.
        started = ended = None
    elif queued is None and started == ended and timing.work_seconds is None:
        # Never ran: the scheduler stamps upstream_failed and skipped tasks with one moment as start and end.
        started = ended = None
    elif started is not None and ended is not None and ended < started:
        # Two machines' clocks disagree: how long it ran can't be told.
        started = None
    if queued is not None and started is not None and started < queued:
        # Deferred, queued again to resume: Airflow keeps the start and overwrites when it was first queued.
        queued = started
    tasks = tuple(_last_try(task) for task in timing.tasks)
    return replace(timing, queued=queued, started=started, ended=ended, tasks=tasks)


def seconds_between(first: datetime | None, last: datetime | None) -> float | None:
    """Seconds from one to the other; None if one isn't known."""
    return None if first is None or last is None else (last - first).total_seconds()


def sum_of_known(seconds: Iterable[float | None]) -> float | None:
    """Add up what is known, to the same last digit in any order; None if nothing is."""
    known = [number for number in seconds if number is not None]
    return math.fsum(known) if known else None


def _ratio(dividend: float | None, divisor: float | None) -> float | None:
    return None if dividend is None or divisor is None or divisor <= 0 else dividend / divisor


def _overhead(timings: Sequence[BranchTiming]) -> tuple[float | None, float | None]:
    """Share, and median of the seconds, from queued to end in which there was no work."""
    pairs = [
        (timing.work_seconds, seconds)
        for timing in timings
        if timing.work_seconds is not None
        and (seconds := seconds_between(timing.queued, timing.ended)) is not None
    ]
    worked = _ratio(sum_of_known(work for work, _ in pairs), sum_of_known(seconds for _, seconds in pairs))
    share = None if worked is None else 1 - worked
    return share, median(max(0.0, seconds - work) for work, seconds in pairs) if pairs else None


def _wall_seconds(timings: Sequence[BranchTiming]) -> float | None:
    ran = [timing for timing in timings if timing.queued or timing.started or timing.ended]
    queued = [timing.queued for timing in ran if timing.queued is not None]
    ended = [timing.ended for timing in ran if timing.ended is not None]
    if not ran or len(queued) < len(ran) or len(ended) < len(ran):
        return None
    return seconds_between(min(queued), max(ended))


def _slowest(timings: Sequence[BranchTiming], number: int) -> tuple[list[SlowBranch], list[float]]:
    """The slowest, and all durations, longest first: by work, or, where nobody recorded it, elapsed."""
    measure: Literal["work", "elapsed"] = "elapsed"
    seconds = [seconds_between(timing.started, timing.ended) for timing in timings]
    if any(timing.work_seconds is not None for timing in timings):
        measure, seconds = "work", [timing.work_seconds for timing in timings]
    durations = sorted((each for each in seconds if each is not None), reverse=True)
    shortest = min(durations[:number], default=0.0)
    slow = [
        SlowBranch(name=timing.name, seconds=each, state=timing.state, measure=measure)
        for timing, each in zip(timings, seconds, strict=True)
        if each is not None and each >= shortest
    ]
    slow.sort(key=lambda branch: (-branch.seconds, natural_key(branch.name)))
    return slow[:number], durations


def _peak_concurrency(timings: Sequence[BranchTiming]) -> int:
    changes: list[tuple[datetime, int, int]] = []
    for index, timing in enumerate(timings):
        for task in timing.tasks or (timing,):
            if task.started is not None:
                changes.append((task.started, 1, index))
                if task.ended is not None:
                    changes.append((task.ended, -1, index))
    tasks = [0] * len(timings)
    peak = running = 0
    # At one moment an end (-1) sorts before a start: the one hands its slot to the other.
    for _, change, index in sorted(changes):
        was_running = tasks[index] > 0
        tasks[index] += change
        running += (tasks[index] > 0) - was_running
        peak = max(peak, running)
    return peak
