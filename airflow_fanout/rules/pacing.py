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


class Wait(NamedTuple):
    """
    No item can start yet.

    :param seconds: Until one can; infinite if only an item that runs can bring one.
    """

    seconds: float


class ItemQueue:
    """
    What is left to start of a batch: items in order, but one that was put back as soon as its time has come.

    :param may_return: Whether an item that was taken may be put back, so that the end waits for it.
    """

    def __init__(self, indexes: Iterable[int], *, may_return: bool = False) -> None:
        self._new = deque(indexes)
        self._returning: list[tuple[float, int]] = []  # a heap
        self._may_return = may_return
        self._running = 0

    def take(self, now: float) -> int | Wait | None:
        """Take the item to start next; None if no item will start any more."""
        is_due = bool(self._returning) and self._returning[0][0] <= now
        if not is_due and not self._new:
            if self._returning:
                return Wait(self._returning[0][0] - now)
            return Wait(math.inf) if self._running and self._may_return else None
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
