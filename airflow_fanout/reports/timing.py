"""Turns branches' times into speed-up, overhead and stragglers; used when the branches have run."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Literal

from airflow_fanout.rules.names import natural_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


__all__ = [
    "BranchTiming",
    "GroupSummary",
    "SlowBranch",
    "Straggler",
    "find_straggler",
    "median_overhead_seconds",
    "share_computed",
    "summarize",
]

REMOVED = "removed"


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchTiming:
    """
    When one branch (or item) was queued and ran, and what it recorded about itself.

    The datetimes are the last try's, all aware or, in one call of :func:`summarize`, all naive.

    :param name: The branch's name.
    :param state: Its state, as Airflow or the outcome has it: ``success``, ``failed``, ``running``, …
    :param queued: When the scheduler queued it; None if that wasn't recorded or it never was. After a
        deferral Airflow knows only when it was queued to resume; its start is then taken instead.
    :param started: When it started; None if it hasn't.
    :param ended: When it ended; None if it hasn't.
    :param work_seconds: Wall-clock seconds measured inside ``execute``; None if it recorded nothing.
    :param cpu_seconds: CPU seconds used inside ``execute``; None if it recorded nothing.
    :param peak_memory_bytes: Peak memory in bytes; None if it recorded nothing.
    :param tries: Number of tries so far; None if that isn't known.
    :param tasks: The times of its tasks, or tries, if it has several: between two of them it may wait for a
        place.
    :raises ValueError: If ``work_seconds`` is negative, infinite or not a number.
    """

    name: str
    state: str
    queued: datetime | None
    started: datetime | None
    ended: datetime | None
    work_seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    tries: int | None = None
    tasks: tuple[BranchTiming, ...] = ()

    def __post_init__(self) -> None:
        """Refuse work that would spoil every sum it is in."""
        if self.work_seconds is not None and not 0 <= self.work_seconds < math.inf:
            msg = f"Branch {self.name!r}: expected work_seconds of 0 or more, not {self.work_seconds}"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class SlowBranch:
    """
    One of the slowest branches.

    :param name: The branch's name.
    :param seconds: How long it took, in seconds.
    :param state: How it ended.
    :param measure: ``work`` if it recorded its seconds inside ``execute``, ``elapsed`` if all that is known
        is the time from its start to its end.
    """

    name: str
    seconds: float
    state: str
    measure: Literal["work", "elapsed"]


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """
    The figures of one group; each is None where what it needs wasn't recorded.

    :param branches: Number of branches by state, states sorted: ``{"failed": 1, "success": 7}``.
    :param total: Number of branches that the figures are about: all but the ``removed``.
    :param recorded: How many of them recorded their work.
    :param work_seconds: Sum of the recorded work; what ``total - recorded`` branches did comes on top.
    :param wall_seconds: From the first queued to the last end, without the branches that were skipped or
        failed unqueued. None until all have ended, or if it isn't known when one that ran was queued.
    :param speed_up: Sum of work divided by wall: a lower bound if ``recorded`` is less than ``total``.
    :param overhead_share: 1 less sum of work divided by sum of (end - queued), over the branches with
        recorded work. Below 0 only where clocks disagree.
    :param slowest: The slowest branches, slowest first, equals in natural order of their names.
    :param peak_concurrency: Greatest number of branches that ran at one moment; of those of several tasks
        each counts while one of its tasks runs.
    :param elapsed_sum_seconds: Sum of (end - start) over the branches that have both.
    """

    branches: dict[str, int]
    total: int
    recorded: int
    work_seconds: float | None
    wall_seconds: float | None
    speed_up: float | None
    overhead_share: float | None
    slowest: tuple[SlowBranch, ...]
    peak_concurrency: int
    elapsed_sum_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Straggler:
    """
    The slowest branch, and what the others were without it.

    :param branch: The branch.
    :param median_of_others: Median of what each of the others took, in seconds.
    :param wall_of_others: From the first queued to the last end of the others, as they ran; what might have
        started earlier without it is not moved up. None if that isn't known.
    :param saved_seconds: By how much that is less than the wall of all; None if one isn't known.
    """

    branch: SlowBranch
    median_of_others: float
    wall_of_others: float | None
    saved_seconds: float | None


def summarize(timings: Iterable[BranchTiming], *, slowest: int = 3) -> GroupSummary:
    """
    Work out a group's figures; the order of the branches makes no difference.

    ``removed`` branches are counted by state and left out of every figure: their times are those of an
    earlier, longer list. To see a running group's figures so far, hand in the present as ``ended``.

    :param timings: The group's branches.
    :param slowest: How many of the slowest branches to name.
    :return: The figures.
    :raises ValueError: If naive and aware datetimes are mixed, or ``slowest`` is negative.
    """
    if slowest < 0:
        msg = f"slowest: expected 0 or more, not {slowest}"
        raise ValueError(msg)
    timings = list(timings)
    _refuse_mixed_datetimes(timings)
    counted = [_last_try(timing) for timing in timings if timing.state != REMOVED]
    recorded = [timing.work_seconds for timing in counted if timing.work_seconds is not None]
    elapsed = [seconds for timing in counted if (seconds := _elapsed_seconds(timing)) is not None]
    work_seconds = math.fsum(recorded) if recorded else None
    wall_seconds = _wall_seconds(counted)
    return GroupSummary(
        branches=dict(sorted(Counter(timing.state for timing in timings).items())),
        total=len(counted),
        recorded=len(recorded),
        work_seconds=work_seconds,
        wall_seconds=wall_seconds,
        speed_up=_ratio(work_seconds, wall_seconds),
        overhead_share=_overhead_share(counted),
        slowest=_slowest(counted)[:slowest],
        peak_concurrency=_peak_concurrency(counted),
        elapsed_sum_seconds=math.fsum(elapsed) if elapsed else None,
    )


def find_straggler(timings: Iterable[BranchTiming]) -> Straggler | None:
    """
    Find the slowest branch, and what would be left without it.

    :param timings: The group's branches; all have ended.
    :return: The slowest and the others' figures; None if not at least two took some time.
    """
    counted = [_last_try(timing) for timing in timings if timing.state != REMOVED]
    slowest, *others = _slowest(counted) or (None,)
    if slowest is None or not others:
        return None
    wall = _wall_seconds(counted)
    rest = _wall_seconds([timing for timing in counted if timing.name != slowest.name])
    return Straggler(
        branch=slowest,
        median_of_others=median(other.seconds for other in others),
        wall_of_others=rest,
        saved_seconds=None if wall is None or rest is None else wall - rest,
    )


def median_overhead_seconds(timings: Iterable[BranchTiming]) -> float | None:
    """
    Tell what a task takes on top of its work: the median of (end - queued) - work.

    :param timings: The group's branches.
    :return: Seconds; None if no branch has recorded its work and has both moments.
    """
    known = [
        max(0.0, seconds - timing.work_seconds)
        for timing in map(_last_try, timings)
        if timing.state != REMOVED
        and timing.work_seconds is not None
        and (seconds := _seconds_between(timing.queued, timing.ended)) is not None
    ]
    return median(known) if known else None


def share_computed(timings: Iterable[BranchTiming]) -> float | None:
    """
    Tell how much of their work branches spent computing: CPU seconds divided by work.

    :param timings: The group's branches.
    :return: The share, above 1 if they use several cores each; None if none recorded both.
    """
    known = [
        (timing.cpu_seconds, timing.work_seconds)
        for timing in timings
        if timing.state != REMOVED and timing.cpu_seconds is not None and timing.work_seconds is not None
    ]
    return _ratio(math.fsum(cpu for cpu, _ in known), math.fsum(work for _, work in known))


def _refuse_mixed_datetimes(timings: Sequence[BranchTiming]) -> None:
    names: dict[bool, str] = {}
    for timing in timings:
        for moment in (timing.queued, timing.started, timing.ended):
            if moment is not None:
                names.setdefault(moment.utcoffset() is not None, timing.name)
    if len(names) > 1:
        msg = (
            "Expected datetimes that are all aware or all naive, not both: "
            f"branch {names[True]!r} has an aware one, branch {names[False]!r} a naive one"
        )
        raise ValueError(msg)


def _last_try(timing: BranchTiming) -> BranchTiming:
    """Keep the times that belong to the last try, in UTC."""
    queued, started, ended = (_utc(moment) for moment in (timing.queued, timing.started, timing.ended))
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


def _utc(moment: datetime | None) -> datetime | None:
    # Python subtracts datetimes of one zone as clocks on the wall show them: an hour off when they change.
    return moment if moment is None or moment.utcoffset() is None else moment.astimezone(UTC)


def _elapsed_seconds(timing: BranchTiming) -> float | None:
    return _seconds_between(timing.started, timing.ended)


def _seconds_between(first: datetime | None, last: datetime | None) -> float | None:
    return None if first is None or last is None else (last - first).total_seconds()


def _wall_seconds(timings: Sequence[BranchTiming]) -> float | None:
    ran = [
        timing
        for timing in timings
        if not (timing.queued is None and timing.started is None and timing.ended is None)
    ]
    queued = [timing.queued for timing in ran if timing.queued is not None]
    ended = [timing.ended for timing in ran if timing.ended is not None]
    if not ran or len(queued) < len(ran) or len(ended) < len(ran):
        return None
    return _seconds_between(min(queued), max(ended))


def _overhead_share(timings: Sequence[BranchTiming]) -> float | None:
    pairs = [
        (timing.work_seconds, seconds)
        for timing in timings
        if timing.work_seconds is not None
        and (seconds := _seconds_between(timing.queued, timing.ended)) is not None
    ]
    ratio = _ratio(math.fsum(work for work, _ in pairs), math.fsum(seconds for _, seconds in pairs))
    return None if ratio is None else 1 - ratio


def _ratio(dividend: float | None, divisor: float | None) -> float | None:
    return None if dividend is None or divisor is None or divisor <= 0 else dividend / divisor


def _slowest(timings: Sequence[BranchTiming]) -> tuple[SlowBranch, ...]:
    slow: list[SlowBranch] = []
    for timing in timings:
        if timing.work_seconds is not None:
            slow.append(
                SlowBranch(name=timing.name, seconds=timing.work_seconds, state=timing.state, measure="work")
            )
        elif (seconds := _elapsed_seconds(timing)) is not None:
            slow.append(SlowBranch(name=timing.name, seconds=seconds, state=timing.state, measure="elapsed"))
    return tuple(sorted(slow, key=lambda branch: (-branch.seconds, natural_key(branch.name))))


def _peak_concurrency(timings: Sequence[BranchTiming]) -> int:
    changes: list[tuple[datetime, int, int]] = []
    for place, timing in enumerate(timings):
        for task in timing.tasks or (timing,):
            if task.started is not None:
                changes.append((task.started, 1, place))
                if task.ended is not None:
                    changes.append((task.ended, -1, place))
    at_work = [0] * len(timings)
    peak = running = 0
    # At the same moment an end (-1) sorts before a start: the one hands its slot to the other.
    for _, change, place in sorted(changes):
        before = at_work[place]
        at_work[place] += change
        running += (at_work[place] > 0) - (before > 0)
        peak = max(peak, running)
    return peak
