"""Times of branches, and what follows from them: work, wall, speed-up, overhead, the slowest."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from heapq import nlargest
from itertools import chain, pairwise
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from airflow_fanout.rules.names import natural_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    Span = tuple[datetime, datetime]
    """From a start to an end."""

    Seconds = Sequence[float | None]
    WorkColumns = tuple[Sequence[str], Sequence[str], Seconds, Seconds]
    """Names and states of some items, the seconds in the code of each, and its CPU seconds, if recorded."""


REMOVED = "removed"

STATE_ORDER = (
    *("failed", "upstream_failed", "missing", "running", "restarting", "deferred", "up_for_retry"),
    *("up_for_reschedule", "queued", "scheduled", "waiting", "skipped", "success", REMOVED),
)
"""States in the order in which people want to know about them."""

LONG = 0.2  # share of the busy time from which on an idle time is left out of a time line
MOST_CUTS = 10  # idle times that are left out, at most: the longest


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTry:
    """A try of a task instance; the first has ``number`` 1."""

    number: int
    state: str | None
    queued: datetime | None
    started: datetime | None
    ended: datetime | None

    @property
    def has_run(self) -> bool:
        """Whether there was such a try at all: not if it was cleared before it ran, or stamped by Airflow."""
        is_stamped = self.queued is None and self.started == self.ended
        return self.number > 0 and self.state != "upstream_failed" and not is_stamped


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchTiming:
    """
    When one branch (or item) was queued and ran in its last try, and what that recorded about itself.

    :param work_seconds: Wall-clock seconds measured inside ``execute``.
    :param tasks: All tries of each of its tasks, in order; itself is the only one if there are none.
    """

    name: str
    state: str
    queued: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    work_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
    tries: int | None = None
    tasks: tuple[tuple[TaskTry, ...], ...] = ()

    @property
    def elapsed_seconds(self) -> float | None:
        """Seconds from its start to its end, without :attr:`retried_seconds`."""
        seconds = seconds_between(self.started, self.ended)
        return None if seconds is None else max(0.0, seconds - self.retried_seconds)

    @property
    def retried_seconds(self) -> float:
        """Seconds of these that earlier tries of its later tasks took, with the time before the next try."""
        if self.queued is None:
            return 0.0
        return math.fsum(
            (after.queued - before.queued).total_seconds()
            for before, after in _pairs_of_tries([self])
            if before.queued is not None and after.queued is not None and before.queued > self.queued
        )


Times = TypeVar("Times", bound=TaskTry | BranchTiming)


@dataclass(frozen=True, kw_only=True)
class SlowBranch:
    """
    One of the slowest branches, or items, that were not skipped.

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
    end of all tries, without branches that never ran; None until all have ended, or if it isn't known when
    one that ran was queued. ``idle_seconds`` are those of them in which nothing was queued or ran, but some
    branch waited for its next try. Work, CPU, memory, elapsed time and overhead, the time from queued to end
    that was no work, are those of last tries. ``computed_share`` is CPU seconds divided by work, or, of
    batches, by the time in which their items ran, on as many cores as these can use (threads one); the rest
    was spent waiting. Items alone can't tell theirs: of threads that compute, all but one wait. Memory is
    that of one branch's process, at most; bytes read and written are those of all processes. A branch of
    several tasks counts towards ``peak_concurrency`` while one of its tasks runs. "Without the slowest" are
    the others as they ran: what might have started earlier is not moved up.
    """

    states: dict[str, int]
    total: int
    recorded: int = 0
    work_seconds: float | None = None
    median_work_seconds: float | None = None
    wall_seconds: float | None = None
    idle_seconds: float = 0.0
    speed_up: float | None = None
    overhead_share: float | None = None
    median_overhead_seconds: float | None = None
    elapsed_sum_seconds: float | None = None
    cpu_seconds: float | None = None
    computed_share: float | None = None
    peak_memory_bytes: int | None = None
    read_bytes: int | None = None
    written_bytes: int | None = None
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
    counted = [last_try(timing) for timing in timings if timing.state != REMOVED]
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
        idle_seconds=_idle_seconds(counted),
        speed_up=_ratio(sum_of_known(work), wall),
        overhead_share=overhead_share,
        median_overhead_seconds=median_overhead_seconds,
        elapsed_sum_seconds=sum_of_known(timing.elapsed_seconds for timing in counted),
        cpu_seconds=sum_of_known(timing.cpu_seconds for timing in counted),
        computed_share=_ratio(sum_of_known(c for c, _ in computed), sum_of_known(w for _, w in computed)),
        peak_memory_bytes=max(memory, default=None),
        read_bytes=_sum_of_bytes(timing.read_bytes for timing in counted),
        written_bytes=_sum_of_bytes(timing.written_bytes for timing in counted),
        peak_concurrency=_peak_concurrency(counted),
        slowest=tuple(named),
        median_without_slowest_seconds=median(durations[1:]) if rest else None,
        wall_without_slowest_seconds=wall_of_rest,
        saved_without_slowest_seconds=None if wall is None or wall_of_rest is None else wall - wall_of_rest,
    )


def summarize_work(
    columns: Iterable[WorkColumns], *, states: Mapping[str, int], slowest: int
) -> GroupSummary:
    """
    Work out the figures of items, none of them ``removed``, which have no times but seconds in their code.

    It says what :func:`summarize` does, without an object for each item.

    :param states: How many items there are by state.
    """
    columns = list(columns)
    work = [seconds for _, _, column, _ in columns for seconds in column if seconds is not None]
    durations = list(work)
    if states.get("skipped"):
        durations = [
            seconds
            for _, of_items, column, _ in columns
            for state, seconds in zip(of_items, column, strict=False)
            if seconds is not None and state != "skipped"
        ]
    longest = nlargest(slowest, durations)
    named = [
        SlowBranch(name=names[index], seconds=seconds, state=of_items[index], measure="work")
        for names, of_items, column, _ in columns
        for index, seconds in enumerate(column)
        if seconds is not None and longest and seconds >= longest[-1] and of_items[index] != "skipped"
    ]
    named.sort(key=slowness)
    durations.sort()
    return GroupSummary(
        states=count_states(states),
        total=sum(states.values()),
        recorded=len(work),
        work_seconds=sum_of_known(work),
        median_work_seconds=median(work) if work else None,
        cpu_seconds=sum_of_known(each for *_, cpu in columns for each in cpu),
        slowest=tuple(named[:slowest]),
        median_without_slowest_seconds=median(durations[:-1]) if len(durations) > 1 else None,
    )


def count_states(states: Iterable[str]) -> dict[str, int]:
    """Count states, or order their numbers: by :data:`STATE_ORDER`."""
    rank = {state: index for index, state in enumerate(STATE_ORDER)}
    return dict(sorted(Counter(states).items(), key=lambda item: (rank.get(item[0], len(rank)), item[0])))


def segments(timings: Iterable[BranchTiming]) -> tuple[Span, ...]:
    """Divide a time line where nothing was going on for long, as before a branch that was cleared."""
    busy = _merged(_spans(timings))
    shortest = LONG * _length(busy)
    gaps = [(after[0] - before[1]).total_seconds() for before, after in pairwise(busy)]
    longest = sorted(range(len(gaps)), key=lambda index: -gaps[index])[:MOST_CUTS]
    cuts = sorted(index + 1 for index in longest if gaps[index] > shortest)
    edges = [0, *cuts, len(busy)] if busy else []
    return tuple((busy[first][0], busy[last - 1][1]) for first, last in pairwise(edges))


def _spans(timings: Iterable[BranchTiming]) -> Iterator[Span]:
    """From the first to the last that is known of each try."""
    for timing in timings:
        for times in _tries(timing):
            known = [moment for moment in (times.queued, times.started, times.ended) if moment is not None]
            if known:
                yield min(known), max(known)


def _tries(timing: BranchTiming) -> Iterable[TaskTry | BranchTiming]:
    return chain(*timing.tasks) if timing.tasks else (timing,)


def _pairs_of_tries(timings: Iterable[BranchTiming]) -> Iterator[tuple[TaskTry, TaskTry]]:
    for timing in timings:
        for tries in timing.tasks:
            yield from pairwise(tries)


def _merged(spans: Iterable[Span]) -> list[Span]:
    busy: list[Span] = []
    for start, end in sorted(spans):
        if busy and start <= busy[-1][1]:
            busy[-1] = busy[-1][0], max(busy[-1][1], end)
        else:
            busy.append((start, end))
    return busy


def _length(spans: Iterable[Span]) -> float:
    return math.fsum((end - start).total_seconds() for start, end in spans)


def last_try(times: Times) -> Times:
    """Keep of a task instance's times those that belong to its last try."""
    queued, started, ended = times.queued, times.started, times.ended
    if queued is started is ended is None:
        return times
    if queued is None and started == ended:
        # Never ran: the scheduler stamps upstream_failed and skipped tasks with one moment as start and end.
        started = ended = None
    elif queued is not None and ended is not None and ended < queued:
        # Airflow keeps an earlier try's start until the next one starts, and its end until that ends.
        started = started if started is not None and started > ended else None
        ended = None
    elif started is not None and ended is not None and ended < started:
        # Two machines' clocks disagree: how long it ran can't be told.
        started = None
    if queued is not None and started is not None and started < queued:
        # Deferred, queued again to resume: Airflow keeps the start and overwrites when it was first queued.
        queued = started
    return replace(times, queued=queued, started=started, ended=ended)


def seconds_between(first: datetime | None, last: datetime | None) -> float | None:
    """Seconds from one to the other; None if one isn't known."""
    return None if first is None or last is None else (last - first).total_seconds()


def sum_of_known(seconds: Iterable[float | None]) -> float | None:
    """Add up what is known, to the same last digit in any order; None if nothing is."""
    known = [number for number in seconds if number is not None]
    return math.fsum(known) if known else None


def _sum_of_bytes(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _ratio(dividend: float | None, divisor: float | None) -> float | None:
    if dividend is None or divisor is None or divisor <= 0:
        return None
    ratio = dividend / divisor
    return ratio if math.isfinite(ratio) else None


def _overhead(timings: Sequence[BranchTiming]) -> tuple[float | None, float | None]:
    """Share, and median of the seconds, from queued to end in which there was no work."""
    pairs = [
        (timing.work_seconds, seconds - timing.retried_seconds)
        for timing in timings
        if timing.work_seconds is not None
        and (seconds := seconds_between(timing.queued, timing.ended)) is not None
    ]
    worked = _ratio(sum_of_known(work for work, _ in pairs), sum_of_known(seconds for _, seconds in pairs))
    share = None if worked is None else 1 - worked
    return share, median(max(0.0, seconds - work) for work, seconds in pairs) if pairs else None


def _wall_seconds(timings: Sequence[BranchTiming]) -> float | None:
    ran = [timing for timing in timings if timing.queued or timing.started or timing.ended]
    if not ran or any(timing.queued is None or timing.ended is None for timing in ran):
        return None
    spans = list(_spans(timings))
    return seconds_between(min(start for start, _ in spans), max(end for _, end in spans))


def _idle_seconds(timings: Sequence[BranchTiming]) -> float:
    """Seconds between tries in which no other branch was queued or ran."""
    busy = list(_spans(timings))
    waits = [
        (before.ended, after.queued)
        for before, after in _pairs_of_tries(timings)
        if before.ended is not None and after.queued is not None and before.ended < after.queued
    ]
    return _length(_merged([*busy, *waits])) - _length(_merged(busy))


def _slowest(timings: Sequence[BranchTiming], number: int) -> tuple[list[SlowBranch], list[float]]:
    """The slowest, and all durations, longest first: by work, or, where nobody recorded it, elapsed."""
    timings = [timing for timing in timings if timing.state != "skipped"]
    is_recorded = any(timing.work_seconds is not None for timing in timings)
    measure: Literal["work", "elapsed"] = "work" if is_recorded else "elapsed"
    known = [(s, t) for t in timings if (s := getattr(t, f"{measure}_seconds")) is not None]
    durations = sorted((seconds for seconds, _ in known), reverse=True)
    shortest = min(durations[:number], default=0.0)
    slow = [
        SlowBranch(name=timing.name, seconds=seconds, state=timing.state, measure=measure)
        for seconds, timing in known
        if seconds >= shortest
    ]
    slow.sort(key=slowness)
    return slow[:number], durations


def slowness(branch: SlowBranch) -> tuple[float, Any]:
    """Sort key that puts the slowest first."""
    return -branch.seconds, natural_key(branch.name)


def _peak_concurrency(timings: Sequence[BranchTiming]) -> int:
    changes: list[tuple[datetime, int, int]] = []
    for index, timing in enumerate(timings):
        for task in _tries(timing):
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
