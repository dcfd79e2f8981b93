"""Many items in one task: runs them, so many at a time, and notes what became of each; on the worker."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from airflow_fanout.rules.records import ITEM_FAILED, ITEM_PENDING, ITEM_SKIPPED, ITEM_SUCCEEDED
from airflow_fanout.rules.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


__all__ = ["Batch", "Done", "Progress"]


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
        done = f"{self.done} of {counted(self.total, 'item', 'items')} done"
        return f"{done}, {self.failed} failed, {rate:.1f}/s{left}"


@dataclass(frozen=True, kw_only=True)
class Done:
    """
    An item that an earlier try has done.

    :param state: What became of it.
    :param value: What it returned.
    :param error: What it raised, or why it was skipped.
    :param seconds: How long it took.
    :param cpu_seconds: CPU seconds of that; None if they can't be told.
    """

    state: str
    value: Any
    error: str | None
    seconds: float | None
    cpu_seconds: float | None


class Batch:
    """
    Items of one task, and what became of each.

    An item's exception never reaches its neighbours. ``AirflowSkipException`` skips the item,
    ``AirflowFailException`` fails it for good, whatever else it raises fails it.

    :param size: Number of items.
    :param call: Runs the item of a place, from 0; may return an awaitable.
    :param describe: Makes a text of an exception.
    :param tell: Told the place and the exception of each item that fails.
    :param concurrency: How many run at once: in threads, or, if one is ``async def``, on an event loop,
        beside which the others have threads.
    :param is_async: Tells of a place whether its item is ``async def``; None if none is.
    :param most_failures: Number of failures after which no further item starts; None for no limit.
    :param counts: Whether a failure counts for that: of an exception, by whether it is final.
    :param deadline: When the task's time is up, by ``time.monotonic``; None for never. An
        ``AirflowTaskTimeout`` before that is the item's own.
    """

    def __init__(
        self,
        size: int,
        call: Callable[[int], Any],
        *,
        describe: Callable[[BaseException], str],
        tell: Callable[[int, BaseException], None] = lambda place, exception: None,  # noqa: ARG005
        concurrency: int = 1,
        is_async: Callable[[int], bool] | None = None,
        most_failures: int | None = None,
        counts: Callable[[bool], bool] = lambda is_final: True,  # noqa: ARG005
        deadline: float | None = None,
    ) -> None:
        self.states = [ITEM_PENDING] * size
        self.values: dict[int, Any] = {}
        self.errors: dict[int, str] = {}
        self.final: set[int] = set()
        self.seconds: list[float | None] = [None] * size
        self.cpu_seconds: list[float | None] = [None] * size
        self.ended: list[int] = []  # places in the order in which items ended
        self.reused = 0
        self.elapsed: float | None = None  # seconds from the first item's begin to the last one's end
        self._call, self._describe, self._tell = call, describe, tell
        self.concurrency, self._is_async = concurrency, is_async
        self._left, self._counts = most_failures, counts
        self._deadline = math.inf if deadline is None else deadline
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
    def is_stopped(self) -> bool:
        """Whether enough items have failed for no further one to start."""
        return self._left is not None and self._left <= 0

    @property
    def pending(self) -> list[int]:
        """Places of the items that have not ended."""
        return [place for place, state in enumerate(self.states) if state == ITEM_PENDING]

    def reuse(self, place: int, done: Done) -> None:
        """Take what an earlier try has done."""
        self.states[place] = done.state
        self.seconds[place], self.cpu_seconds[place] = done.seconds, done.cpu_seconds
        if done.state == ITEM_SUCCEEDED:
            self.values[place] = done.value
        if done.error is not None:
            self.errors[place] = done.error
        if done.state == ITEM_FAILED:
            self.final.add(place)
            self._failed += 1
        self.reused += 1

    def run(self) -> None:
        """Run the items that have not ended; whatever ends this early leaves them pending."""
        self._begin = time.monotonic()
        places = self._next_places()
        try:
            if self._is_async is not None:
                asyncio.run(self._run_on_loop(places))
            elif self.concurrency == 1:
                for place in places:
                    self._run_one(place)
            else:
                self._run_in_threads(places)
        finally:
            self.elapsed = time.monotonic() - self._begin

    def close(self) -> None:
        """Let no further item start, and forget what those that run still return."""
        self._closed.set()

    def fail(self, place: int, error: str) -> None:
        """Take back the success of an item whose value turned out to be unusable."""
        self.states[place] = ITEM_FAILED
        self.values.pop(place, None)
        self.errors[place] = error
        self._failed += 1

    def _next_places(self) -> Iterator[int]:
        """Places of the items to run; asked by all threads."""
        pending = iter(self.pending)
        while not self._closed.is_set() and not self.is_stopped:
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

        threads = [_start_thread(work) for _ in range(min(self.concurrency, len(self.states)))]
        for thread in threads:
            thread.join()

    async def _run_on_loop(self, places: Iterator[int]) -> None:
        async def work() -> None:
            for place in places:
                if self._is_async is not None and self._is_async(place):
                    await self._await_one(place)
                else:
                    await self._await_thread(place)

        await asyncio.gather(*(work() for _ in range(min(self.concurrency, len(self.states)))))

    def _run_one(self, place: int) -> None:
        begin, cpu = time.perf_counter(), time.thread_time()
        value, raised = None, None
        try:
            value = self._call(place)
        except BaseException as exception:
            self._close_if_ended(exception)
            raised = exception
        seconds, cpu_seconds = time.perf_counter() - begin, time.thread_time() - cpu
        self._note(place, value, raised, seconds=seconds, cpu_seconds=cpu_seconds)

    async def _await_thread(self, place: int) -> None:
        """Run a plain function, which would hold up the loop, in a thread."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            self._run_one(place)
            with contextlib.suppress(RuntimeError):  # after a timeout there is no loop any more
                loop.call_soon_threadsafe(ended.set)

        _start_thread(work)
        await ended.wait()

    async def _await_one(self, place: int) -> None:
        begin = time.perf_counter()
        value, raised = None, None
        try:
            # A task of its own: an item that cancels itself cancels no other.
            value, raised = await asyncio.create_task(self._call_on_loop(place))
        except asyncio.CancelledError as cancelled:
            worker = asyncio.current_task()
            if worker is None or worker.cancelling():
                raise  # the loop ends; this item has not ended
            raised = cancelled
        self._note(place, value, raised, seconds=time.perf_counter() - begin)

    async def _call_on_loop(self, place: int) -> tuple[Any, BaseException | None]:
        try:
            value = self._call(place)
            return (await value if inspect.isawaitable(value) else value), None
        except asyncio.CancelledError:
            raise
        except BaseException as exception:  # SystemExit would end the loop
            self._close_if_ended(exception)
            return None, exception

    def _close_if_ended(self, exception: BaseException) -> None:
        """Raise what is not of the item: signals reach the main thread alone, whatever runs there."""
        if threading.current_thread() is not threading.main_thread():
            return
        is_late = isinstance(exception, AirflowTaskTimeout) and time.monotonic() >= self._deadline
        if is_late or isinstance(exception, KeyboardInterrupt):
            self.close()
            raise exception

    def _note(
        self,
        place: int,
        value: Any,
        raised: BaseException | None,
        *,
        seconds: float,
        cpu_seconds: float | None = None,
    ) -> None:
        state, error, is_final = ITEM_SUCCEEDED, None, False
        if isinstance(raised, AirflowSkipException):
            kind = type(raised).__name__
            state, error = ITEM_SKIPPED, self._describe(raised).removeprefix(kind).removeprefix(": ") or None
        elif raised is not None:
            state, error = ITEM_FAILED, self._describe(raised)
            is_final = isinstance(raised, AirflowFailException)
        with self._lock:
            if self._closed.is_set():
                return
            if state == ITEM_SUCCEEDED:
                self.values[place] = value
            if error is not None:
                self.errors[place] = error
            if is_final:
                self.final.add(place)
            if state == ITEM_FAILED:
                self._failed += 1
                if self._left is not None and self._counts(is_final):
                    self._left -= 1
            self.seconds[place], self.cpu_seconds[place] = seconds, cpu_seconds
            self.states[place] = state
            self.ended.append(place)  # last: whoever saves what has ended reads the rest without the lock
        if state == ITEM_FAILED and raised is not None:
            self._tell(place, raised)


def _start_thread(work: Callable[[], None]) -> threading.Thread:
    """Start a thread that nobody waits for after a timeout: a daemon."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    return thread
