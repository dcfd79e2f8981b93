"""Which item of a batch starts next, and when; nothing here waits, or looks at a clock."""

from __future__ import annotations

import hashlib
import math
from collections import deque
from datetime import timedelta
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


ROUNDING = 1e-9
"""Part of an item that doesn't count, for no sum of parts is exact."""


MOST_PER_SECOND = 1_000_000


class Wait(NamedTuple):
    """
    No item can start yet.

    :param seconds: Until one can; infinite if only an item that runs can bring one.
    :param is_for_rate: Whether nothing but the rate is in its way.
    :param is_idle: Whether no item runs meanwhile.
    """

    seconds: float
    is_for_rate: bool = False
    is_idle: bool = False


class Pace:
    """
    Keeps the items of one task to a rate; what was not used is saved up, to at most one second's worth.

    It begins with nothing, so that a task that begins anew adds nothing to what the one before it used. In
    any second it lets at most twice the rate start, or one item.
    """

    def __init__(self, per_second: float, now: float) -> None:
        self._per_second, self._most = per_second, max(1.0, per_second)
        self._saved, self._at = 0.0, now

    def wait(self, now: float) -> float:
        """Seconds until an item can start."""
        self._saved = min(self._most, self._saved + (now - self._at) * self._per_second)
        self._at = now
        lacking = 1 - self._saved
        return lacking / self._per_second if lacking > ROUNDING else 0.0

    def start(self) -> None:
        """Count an item that starts."""
        self._saved -= 1


def most_tasks(per_second: float) -> int:
    """
    How many tasks can share a rate, so that no second sees more than twice the rate start, or one item.

    A task whose share is below one a second may start one in any second, and all may do so in the same.
    """
    return max(1, math.floor(2 * per_second))


class ItemQueue:
    """
    What is left to start of a batch: items in order, but one that was put back as soon as its time has come.

    :param may_return: Whether an item that was taken may be put back, so that the end waits for it.
    :param pace: Rate at which items start; None for as fast as may be.
    """

    def __init__(self, indexes: Iterable[int], *, may_return: bool = False, pace: Pace | None = None) -> None:
        self._new = deque(indexes)
        self._returning: list[tuple[float, int]] = []  # a heap
        self._may_return, self._pace = may_return, pace
        self._running = 0

    @property
    def may_wait(self) -> bool:
        """Whether there may ever be an item that can't start yet."""
        return self._may_return or self._pace is not None

    def take(self, now: float) -> int | Wait | None:
        """Take the item to start next; None if no item will start any more."""
        is_due, is_idle = bool(self._returning) and self._returning[0][0] <= now, not self._running
        if not is_due and not self._new:
            if self._returning:
                return Wait(self._returning[0][0] - now, is_idle=is_idle)
            return Wait(math.inf) if self._running and self._may_return else None
        if self._pace is not None:
            if seconds := self._pace.wait(now):
                return Wait(seconds, is_for_rate=True, is_idle=is_idle)
            self._pace.start()
        self._running += 1
        return heappop(self._returning)[1] if is_due else self._new.popleft()

    def put_back(self, index: int, when: float) -> None:
        """Have an item that was taken start again, not before a time."""
        self.drop()
        self.add(index, when)

    def add(self, index: int, when: float) -> None:
        """Have one more item start, not before a time."""
        heappush(self._returning, (when, index))

    def drop(self) -> None:
        """Count an item that was taken as ended."""
        self._running -= 1


def seconds_in(duration: timedelta | float) -> float:
    """Seconds in what may be a timedelta, or seconds."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def retry_seconds(
    tries: int, delay: float, *, multiplier: float, most: float | None, ceiling: float, identity: str
) -> float:
    """
    Seconds between a try and the next one, as ``TaskInstance.next_retry_datetime`` has them for a task.

    :param tries: Number of the try that failed, from 1.
    :param multiplier: ``retry_exponential_backoff``; 0 for the same delay each time.
    :param most: ``max_retry_delay``, which, like the ceiling, is for a growing delay alone.
    :param ceiling: ``[core] max_task_retry_delay``.
    :param identity: What the random part of a growing delay, at most as much again, is made from.
    """
    if multiplier <= 0 or multiplier == 1:
        return delay
    try:
        least = max(1, math.ceil(float(delay) * multiplier ** (tries - 1)))
    except OverflowError:
        least = math.ceil(ceiling)
    digest = hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest()
    seconds = min(least + int(digest, 16) % least, ceiling)
    return min(seconds, most) if most else seconds
