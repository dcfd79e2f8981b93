"""Many items in one task: runs them, so many at a time, and notes what became of each; on the worker."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FAILED", "PENDING", "SKIPPED", "STOPPED", "SUCCEEDED", "Batch", "Progress"]

PENDING, SUCCEEDED, FAILED, SKIPPED, STOPPED = ".", "S", "F", "K", "X"
"""What became of an item, a letter for each."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """
    How far a batch is.

    :param total: Number of its items.
    :param done: Number of those that have ended, however.
    :param failed: Number of those that failed.
    :param seconds: Seconds since it began.
    :param reused: Number of those that an earlier try had done.
    """

    total: int
    done: int
    failed: int
    seconds: float
    reused: int

    def __str__(self) -> str:
        """Say it in a line for the log."""
        rate = (self.done - self.reused) / self.seconds if self.seconds else 0.0
        left = (
            f", about {(self.total - self.done) / rate:.0f} s left" if rate and self.done < self.total else ""
        )
        return f"{self.done} of {self.total} items done, {self.failed} failed, {rate:.1f}/s{left}"


class Batch:
    """
    Items of one task, and what became of each.

    An item's exception never reaches its neighbours. ``AirflowSkipException`` skips the item,
    ``AirflowFailException`` fails it for good, whatever else it raises fails it.

    :param size: Number of items.
    :param call: Runs the item of a place, from 0; may return an awaitable.
    :param describe: Makes a text of an exception.
    :param concurrency: How many run at once: in threads, or, if one is ``async def``, on an event loop.
    :param is_async: Whether any of them is ``async def``.
    :param most_failures: Number of failures after which no further item starts; None for no limit.
    :param counts: Whether a failure counts for that: of an exception, by whether it is final.
    """

    def __init__(
        self,
        size: int,
        call: Callable[[int], Any],
        *,
        describe: Callable[[BaseException], str],
        concurrency: int = 1,
        is_async: bool = False,
        most_failures: int | None = None,
        counts: Callable[[bool], bool] = lambda is_final: True,  # noqa: ARG005
    ) -> None:
        self.states = [PENDING] * size
        self.values: dict[int, Any] = {}
        self.errors: dict[int, str] = {}
        self.final: set[int] = set()
        self.seconds: list[float | None] = [None] * size
        self.cpu_seconds: list[float | None] = [None] * size
        self.ended: list[int] = []  # places in the order in which items ended
        self.reused = 0
        self._call, self._describe = call, describe
        self._concurrency, self._is_async = concurrency, is_async
        self._left, self._counts = most_failures, counts
        self._failed = 0
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._begin = time.monotonic()

    @property
    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            total=len(self.states),
            done=len(self.ended) + self.reused,
            failed=self._failed,
            seconds=time.monotonic() - self._begin,
            reused=self.reused,
        )

    @property
    def pending(self) -> list[int]:
        """Places of the items that have not ended."""
        return [place for place, state in enumerate(self.states) if state == PENDING]

    def reuse(self, place: int, state: str, value: Any, error: str | None, seconds: float | None) -> None:
        """Take what an earlier try has done."""
        self.states[place], self.seconds[place] = state, seconds
        if state == SUCCEEDED:
            self.values[place] = value
        if error is not None:
            self.errors[place] = error
        if state == FAILED:
            self.final.add(place)
        self.reused += 1

    def run(self) -> None:
        """Run the items that have not ended; whatever ends this early leaves them pending."""
        self._begin = time.monotonic()
        places = self._next_places()
        if self._is_async:
            asyncio.run(self._run_on_loop(places))
        elif self._concurrency == 1:
            for place in places:
                self._run_one(place)
        else:
            self._run_in_threads(places)

    def close(self) -> None:
        """Let no further item start, and forget what those that run still return."""
        self._closed.set()

    def fail(self, place: int, error: str) -> None:
        """Take back the success of an item whose value turned out to be unusable."""
        self.states[place] = FAILED
        self.values.pop(place, None)
        self.errors[place] = error
        self._failed += 1

    def _next_places(self) -> Iterator[int]:
        """Places of the items to run; asked by all threads."""
        pending = iter(self.pending)
        while not self._closed.is_set() and (self._left is None or self._left > 0):
            with self._lock:
                place = next(pending, None)
            if place is None:
                return
            yield place

    def _run_in_threads(self, places: Iterator[int]) -> None:
        lock = threading.Lock()

        def work() -> None:
            while True:
                with lock:  # a generator can't be asked twice at once
                    place = next(places, None)
                if place is None:
                    return
                self._run_one(place)

        count = min(self._concurrency, len(self.states))
        # Daemons: after a timeout nobody waits for them.
        threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
            for _ in range(count)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def _run_on_loop(self, places: Iterator[int]) -> None:
        async def work() -> None:
            for place in places:
                await self._await_one(place)

        await asyncio.gather(*(work() for _ in range(min(self._concurrency, len(self.states)))))

    def _run_one(self, place: int) -> None:
        begin, cpu = time.perf_counter(), time.thread_time()
        try:
            value = self._call(place)
        except BaseException as exception:
            self._note_exception(place, exception)
        else:
            self._note(place, SUCCEEDED, value=value)
        self.seconds[place] = time.perf_counter() - begin
        self.cpu_seconds[place] = time.thread_time() - cpu

    async def _await_one(self, place: int) -> None:
        begin = time.perf_counter()
        try:
            value = self._call(place)
            if inspect.isawaitable(value):
                value = await value
        except BaseException as exception:
            if isinstance(exception, asyncio.CancelledError) and self._closed.is_set():
                raise
            self._note_exception(place, exception)
        else:
            self._note(place, SUCCEEDED, value=value)
        self.seconds[place] = time.perf_counter() - begin

    def _note_exception(self, place: int, exception: BaseException) -> None:
        if isinstance(exception, AirflowTaskTimeout | KeyboardInterrupt):  # the task's own end
            self.close()
            raise exception
        if isinstance(exception, AirflowSkipException):
            self._note(place, SKIPPED, error=str(exception) or None)
            return
        self._note(
            place,
            FAILED,
            error=self._describe(exception),
            is_final=isinstance(exception, AirflowFailException),
        )

    def _note(
        self, place: int, state: str, *, value: Any = None, error: str | None = None, is_final: bool = False
    ) -> None:
        with self._lock:
            if self._closed.is_set():
                return
            if state == SUCCEEDED:
                self.values[place] = value
            if error is not None:
                self.errors[place] = error
            if is_final:
                self.final.add(place)
            if state == FAILED:
                self._failed += 1
                if self._left is not None and self._counts(is_final):
                    self._left -= 1
            self.states[place] = state
            self.ended.append(place)


def mutable(value: object) -> bool:
    """Whether one item could change a value under another's hands."""
    if isinstance(value, tuple):
        return any(map(mutable, value))
    return not isinstance(value, str | int | float | complex | bytes | bool | None)
