"""The items of one task: runs them, some at the same time, and keeps how each ended."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import inspect
import json
import math
import signal
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout

from airflow_fanout.exceptions import ItemTimeoutError
from airflow_fanout.execution_time.processes import ChildEndedError, ForkServer
from airflow_fanout.execution_time.recording import (
    cpu_seconds,
    io_bytes,
    io_since,
    redacted_error,
    skip_reason,
)
from airflow_fanout.execution_time.transport import stored_value
from airflow_fanout.rules.pacing import ItemQueue, Pace, Wait
from airflow_fanout.rules.records import ITEM_FAILED, ITEM_SKIPPED, ITEM_SUCCEEDED
from airflow_fanout.rules.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_fanout.serialization.declaration import ItemExecutor

CANCEL_SECONDS = 1.0
"""For what runs on an event loop to end when it is cancelled."""

RINGS = (1.5, 1.0)
"""Seconds before each ring of the alarm after the deadline; who is interrupted first may clean up."""

GIVE_UP_AFTER = 1.0
"""Seconds after the last ring."""

LOOK_EVERY = 0.25
"""Seconds after which who waits for an item to start sees that the batch was closed, which wakes nobody."""


class ItemResult(NamedTuple):
    """
    How an item ended.

    :param status: Succeeded, skipped or failed, as in the record of a batch.
    :param error: What it raised, or why it was skipped.
    :param cpu_seconds: None on an event loop, where items share a thread.
    :param is_final: Whether it failed so that no retry would help.
    :param tries: Number of its calls that have ended, over all tries of the task.
    """

    status: str
    value: Any = None
    error: str | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    is_final: bool = False
    tries: int = 1


class Verdict(NamedTuple):
    """
    What becomes of an item that has failed.

    :param delay: Seconds after which it is tried again, infinite when all others have ended; None if it
        isn't.
    :param is_final: Whether a retry of the task wouldn't help either.
    """

    delay: float | None = None
    is_final: bool = False


@dataclass(eq=False)
class _Call:
    """
    A call of an item, which may go on after the item was given up.

    :param stop: Ends the call, as far as it can be ended; called with the batch's lock held.
    :param grace: Seconds that this may take.
    """

    index: int
    stop: Callable[[], object] = lambda: None
    grace: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)
    begin: float = field(default_factory=time.monotonic)
    given_up: float = math.inf
    """When it was, by the same clock."""

    is_told: bool = False
    """Whether somebody was told that it goes on."""

    @property
    def is_given_up(self) -> bool:
        return self.given_up < math.inf

    @property
    def is_lost(self) -> bool:
        """Whether it goes on though it was given up."""
        return self.given_up + self.grace <= time.monotonic()


class Batch:
    """
    The items of one task.

    An item's exception never reaches its neighbours, nor does a value that can't be stored. A value is fixed
    when its item ends. ``AirflowSkipException`` skips the item, ``AirflowFailException`` fails it for good.

    :param call: Runs the item of an index, from 0; may return an awaitable.
    :param on_failure: Called with the index and the exception of each item that fails, and isn't put back.
    :param on_trouble: Called with the index and what is wrong with an item that has not failed yet.
    :param judge: Asked what becomes of an item that has failed, by its index, the exception, and the number
        of its tries in this try of the task; None if no item is tried again.
    :param concurrency: Items at the same time: in threads or processes, or, if one is ``async def``, on an
        event loop, beside which the others have threads.
    :param executor: Where items run that are not ``async def``.
    :param is_async: Whether the item of an index is ``async def``; None if none is.
    :param failures_left: Number of failures after which no further item starts; None for no limit.
    :param is_retried: Whether Airflow tries the task again, so that only final failures count for that.
    :param item_timeout: Seconds after which an item has failed, and is ended if it can be; None for no limit.
    :param per_second: Rate at which items start, tries after the first included; None for no limit.
    :param deadline: End of the task's time, by ``time.monotonic``: no item starts after it, and an
        ``AirflowTaskTimeout`` before it is the item's own.
    """

    def __init__(
        self,
        size: int,
        call: Callable[[int], Any],
        *,
        on_failure: Callable[[int, BaseException], None] = lambda index, exception: None,  # noqa: ARG005
        on_trouble: Callable[[int, str], None] = lambda index, trouble: None,  # noqa: ARG005
        judge: Callable[[int, BaseException, int], Verdict] | None = None,
        concurrency: int = 1,
        executor: ItemExecutor = "thread",
        is_async: Callable[[int], bool] | None = None,
        failures_left: int | None = None,
        is_retried: bool = False,
        item_timeout: float | None = None,
        per_second: float | None = None,
        deadline: float = math.inf,
    ) -> None:
        self.size, self.concurrency, self.deadline = size, concurrency, deadline
        self.results: dict[int, ItemResult] = {}
        self.earlier_tries: dict[int, int] = {}  # of items that failed in earlier tries of the task
        self.ended: list[int] = []  # indexes of this try's items in the order in which they ended
        self.reused = self._failed = 0
        self.elapsed = 0.0  # seconds from the first item's begin to the last one's end
        self.cpu_seconds = 0.0  # of the process in these; items that run at once wait for each other
        self.rate_wait_seconds = 0.0  # of these, in which an item could have started but for the rate
        self.idle_seconds = 0.0  # of these, in which all had to wait for the rate or for their next try
        self._per_second = per_second
        self._call, self._judge = call, judge
        self._on_failure, self._on_trouble = on_failure, on_trouble
        self.is_retried, self._is_async_item, self._failures_left = is_retried, is_async, failures_left
        self.is_running = self._is_closed = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._wake: Callable[[], object] = self._changed.notify_all
        self._item_timeout = item_timeout
        self._calls: set[_Call] = set()  # that have not ended
        self._places = 0  # workers that have not left
        self._left = threading.Event()  # one of them has
        self.is_stuck = False  # whether calls that were given up, and go on, kept all others from starting
        self._queue = ItemQueue(())
        self._waiting: Wait | None = None  # what the last look for an item to start has found
        self._looked_at = 0.0
        self._tries: dict[int, int] = {}  # in this try of the task
        self._put_back: dict[int, ItemResult] = {}  # last failure of each item that is tried again
        self._workers: asyncio.Task[None] | None = None
        self._executor = executor
        self._server: ForkServer | None = None
        self._ends: dict[int, str] = {}  # how the process of an item has ended, by the item's index
        self._refusal: OSError | None = None  # why a worker has no process
        self._is_child = False
        self.read_bytes: int | None = None  # by the process in these
        self.written_bytes: int | None = None
        self._begin, self._cpu_begin, self._io_begin = time.monotonic(), cpu_seconds(), io_bytes()

    @property
    def progress(self) -> str:
        """How far it is, in a line for the log."""
        done, seconds = len(self.ended) + self.reused, time.monotonic() - self._begin
        rate = len(self.ended) / seconds if seconds else 0.0
        left = f", about {(self.size - done) / rate:.0f} s left" if rate and done < self.size else ""
        again = f", {len(self._put_back)} to be tried again" if self._put_back else ""
        items = counted(self.size, "item", "items")
        return f"{done} of {items} done, {self._failed} failed{again}, {rate:.1f}/s{left}"

    @property
    def is_stopped(self) -> bool:
        """Whether enough items have failed for no further one to start."""
        return self._failures_left is not None and self._failures_left <= 0

    @property
    def pending(self) -> list[int]:
        """Indexes of the items that have not ended."""
        return [index for index in range(self.size) if index not in self.results]

    def snapshot(self) -> Batch:
        """How far it is, for somebody who must not wait for the items that run."""
        copied = copy.copy(self)
        copied.results = dict(self.results)
        copied.stop_clocks()
        return copied

    def reuse(self, index: int, result: ItemResult) -> None:
        """Take the result of an earlier try."""
        self.results[index] = result
        self._failed += result.status == ITEM_FAILED
        self.reused += 1

    def fail(self, index: int, error: str) -> None:
        """Fail an item that has not ended, or whose value turned out to be unusable."""
        result = self.results.get(index)
        if result is None and (last := self._put_back.get(index)) is not None:
            result, error = last, f"{last.error}; {error}"
        if result is None:
            result = ItemResult(ITEM_FAILED, tries=self.earlier_tries.get(index, 0))
        self.results[index] = result._replace(status=ITEM_FAILED, value=None, error=error)
        self._failed += 1

    def prepare(self) -> None:
        """Fork the process that forks those of the items, if they have any: before there are threads."""
        if self._executor == "process" and self._server is None and self.pending:
            self._server = ForkServer(self._run_in_child)

    def close(self) -> None:
        """Let no further item start, end those that can be, and drop what the running ones still return."""
        is_closed, self._is_closed = self._is_closed, True  # no lock: a signal handler may be here
        if self._workers is not None and not is_closed:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._workers.get_loop().call_soon_threadsafe(self._workers.cancel)
        if self._server is not None:
            self._server.stop()

    def run(self) -> None:
        """
        Run the items that have not ended; those that an exception cuts short stay pending.

        Plain functions one after another run in this thread, for libraries that want the main one. All others
        run in daemon threads, so that nobody has to wait for them after a timeout: also those with a timeout
        of their own, which this thread watches.
        """
        self._begin, self._cpu_begin, self._io_begin = time.monotonic(), cpu_seconds(), io_bytes()
        self.is_running = True
        pace = None if self._per_second is None else Pace(self._per_second, self._begin)
        self._queue = ItemQueue(self.pending, may_return=self._judge is not None, pace=pace)
        try:
            self.prepare()
            if self._is_async_item is not None:
                self._run_in_loop(self._is_async_item)
            elif self._server is not None:
                self._run_in_processes(self._server)
            elif self.concurrency == 1 and self._item_timeout is None:
                self._work()
            else:
                self._run_in_threads(self._work, self.concurrency)
            if self.is_stopped:
                self._end_put_back()
            if self.pending and not self.is_stopped and time.monotonic() >= self.deadline:
                signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm, unless an item has swallowed it
                message = "execution_timeout is over"
                raise AirflowTaskTimeout(message)
        except BaseException:
            self.close()
            raise
        finally:
            if self._server is not None:
                self._server.wait()
            self.is_running = False
            self.stop_clocks()

    def stop_clocks(self) -> None:
        """Read what the items took so far."""
        self._count_wait(None)
        self.elapsed = round(time.monotonic() - self._begin, 6)
        cpu = cpu_seconds() - self._cpu_begin
        if self._server is not None and self.is_running:  # of children only what has ended is known
            cpu += sum(self.results[index].cpu_seconds or 0.0 for index in self.ended)
        self.cpu_seconds = round(cpu, 6)
        self.read_bytes, self.written_bytes = io_since(self._io_begin)

    def _next_start(self) -> int | Wait | None:
        """Decide, holding the lock, which item starts now; None if none is to start any more."""
        now = time.monotonic()
        if self._is_closed or self.is_stopped or now >= self.deadline:
            return None
        start = self._queue.take(now)
        self._count_wait(start if isinstance(start, Wait) else None)
        return start

    def _count_wait(self, found: Wait | None) -> None:
        """Count the time since the last look for an item to start as what that look has found."""
        now = time.monotonic()
        if self._waiting is not None:
            seconds = now - self._looked_at
            self.rate_wait_seconds += seconds if self._waiting.is_for_rate else 0.0
            self.idle_seconds += seconds if self._waiting.is_idle else 0.0
        self._waiting, self._looked_at = found, now

    def _await_start(self) -> int | None:
        """Wait, in a thread, for the next item to start; None if none is to start any more."""
        with self._lock:
            while isinstance(start := self._next_start(), Wait):
                self._changed.wait(min(start.seconds, LOOK_EVERY))
            return start

    def _work(self) -> None:
        for index in iter(self._await_start, None):
            self._run_one(index)

    def _run_in_threads(self, work: Callable[[], None], concurrency: int) -> None:
        def work_and_leave() -> None:
            try:
                work()
            finally:
                self._leave()

        self._places = wanted = min(concurrency, len(self.pending))
        try:
            for _ in range(wanted):
                _start_thread(work_and_leave)
                wanted -= 1
        except RuntimeError:  # there are no more to be had; those that there are do all
            with self._lock:
                self._places -= wanted
            if not self._places and self.pending:
                work()
        self._watch(lambda: not self._places)

    def _leave(self) -> None:
        """Count a worker that has nothing more to do."""
        with self._lock:
            self._places -= 1
        self._left.set()

    def _watch(self, is_over: Callable[[], bool]) -> None:
        """Wait for the end, and give up calls whose time is over; without a place left that is the end."""
        while not is_over():
            seconds = self._give_up_late_calls()
            with self._lock:
                lost = sum(call.is_lost for call in self._calls)
            if 0 < self._places <= lost:
                self.is_stuck = bool(self.pending)
                self.close()
                return
            self._left.wait(seconds)
            self._left.clear()

    def _give_up_late_calls(self) -> float | None:
        """Fail the items whose time is over; return in how many seconds to look again, None for never."""
        if (timeout := self._item_timeout) is None:
            return None
        now = time.monotonic()
        with self._lock:
            calls = list(self._calls)
        for call in calls:
            if not call.is_given_up and call.begin + timeout <= now:
                self._give_up(call, timeout)
            if call.is_lost and not call.is_told and call in self._calls:
                call.is_told = True
                trouble = "it can't be stopped: it goes on, and until it ends its place is lost"
                self._on_trouble(call.index, trouble)
        ends = [call.given_up + call.grace if call.is_given_up else call.begin + timeout for call in calls]
        # One that starts meanwhile ends later than that.
        return max(0.0, min([timeout, *(end - now for end in ends if end > now)]))

    def _give_up(self, call: _Call, timeout: float) -> None:
        with self._lock:
            if call not in self._calls:  # it has just ended
                return
            call.stop()
            call.given_up = time.monotonic()
        ended = _Call(call.index)  # the other goes on by itself
        result = self._result_of(ended, ItemTimeoutError(f"it had not ended after {timeout:g} s"))
        with self._lock:
            self._settle(ended, result._replace(seconds=round(call.given_up - call.begin, 6)))

    def _run_in_processes(self, server: ForkServer) -> None:
        def work() -> None:
            try:
                self._feed_children(server)
            except OSError as refusal:
                self._refusal = refusal

        self._run_in_threads(work, self.concurrency)
        for index in sorted(self._put_back):  # whose processes have ended
            if not self._is_closed and not self.is_stopped:
                self._queue.add(index, time.monotonic())
                self._run_in_threads(work, 1)
        if self._refusal is not None and self.pending and not self._is_closed and not self.is_stopped:
            raise self._refusal

    def _feed_children(self, server: ForkServer) -> None:
        """Run items in a child process, and in another one if that ends."""
        child = server.start()
        try:
            for index in iter(self._await_start, None):
                call = self._start(_Call(index, child.kill, grace=math.inf))
                try:
                    result, call.verdict = _received(
                        child.ask(json.dumps([index, self._tries.get(index, 0)]).encode())
                    )
                except ChildEndedError as ended:
                    if self._is_closed:
                        return
                    self._take_end(call, str(ended))
                else:
                    self._take(call, result)
                    if not call.is_given_up:
                        continue
                    child.close()  # it was killed all the same
                child = server.start()
        finally:
            child.close()

    def _take_end(self, call: _Call, end: str) -> None:
        """Put an item whose process has ended aside, to run alone; fail it if that was its second."""
        if call.is_given_up:  # that is why
            with self._lock:
                self._calls.discard(call)
            return
        index, seconds = call.index, round(time.monotonic() - call.begin, 6)
        first_end = self._ends.get(index)
        error = f"its process {end}"
        if first_end is None:
            self._ends[index] = end
            call.verdict = Verdict(delay=math.inf)
            self._on_trouble(index, f"{error}; it runs once more, alone, when all others have ended")
        else:
            error = f"{error}, twice" if end == first_end else f"its process {first_end}, then {end}"
            self._on_trouble(index, error)
        self._take(call, ItemResult(ITEM_FAILED, None, error, seconds, is_final=first_end is not None))

    def _run_in_child(self, request: bytes) -> bytes:
        index, self._tries[index] = json.loads(request)
        self._is_child, call = True, _Call(index)
        result = self._result(call, cpu_clock=time.process_time)
        return _sent(result, call.verdict)

    def _run_in_loop(self, is_async: Callable[[int], bool]) -> None:
        async def next_start() -> int | None:
            async with taking:  # one waits, for all
                while True:
                    changed.clear()
                    with self._lock:
                        start = self._next_start()
                    if not isinstance(start, Wait):
                        return start
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(changed.wait(), min(start.seconds, LOOK_EVERY))

        async def work() -> None:
            try:
                while (index := await next_start()) is not None:
                    await (self._await_one(index) if is_async(index) else self._await_thread(index))
            finally:
                self._leave()

        async def work_at_once() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*(work() for _ in range(self._places)))

        def run() -> None:
            with contextlib.closing(asyncio.Runner()) as runner:  # waits for what items have left running
                try:
                    loop = runner.get_loop()
                    self._wake = partial(loop.call_soon_threadsafe, changed.set)
                    self._workers = loop.create_task(work_at_once())
                    while not self._workers.done():
                        # The exit of a task that an item has started ends the loop; the item is told, too.
                        with contextlib.suppress(SystemExit, KeyboardInterrupt):
                            loop.run_until_complete(self._workers)
                except BaseException as error:
                    ended.set_exception(error)
                else:
                    ended.set_result(None)

        taking, changed = asyncio.Lock(), asyncio.Event()
        ended: Future[None] = Future()
        ended.add_done_callback(lambda _: self._left.set())
        self._places = min(self.concurrency, self.size)
        thread = _start_thread(run)
        try:
            self._watch(ended.done)
        except BaseException:
            self.close()
            wait([ended], CANCEL_SECONDS)
            raise
        thread.join(CANCEL_SECONDS)
        if ended.done():
            ended.result()

    def _run_one(self, index: int) -> None:
        call = self._start(_Call(index))
        self._take(call, self._result(call, cpu_clock=time.thread_time))

    def _start(self, call: _Call) -> _Call:
        with self._lock:
            self._calls.add(call)
        return call

    def _result(self, call: _Call, cpu_clock: Callable[[], float]) -> ItemResult:
        value, failure = None, None
        begin, cpu_begin = time.perf_counter(), cpu_clock()
        try:
            value = stored_value(self._call(call.index))
        except BaseException as exception:
            failure = self._result_of(call, exception)
        seconds = round(time.perf_counter() - begin, 6)
        cpu = round(cpu_clock() - cpu_begin, 6)
        if failure is None:
            return ItemResult(ITEM_SUCCEEDED, value, None, seconds, cpu)
        return failure._replace(seconds=seconds, cpu_seconds=cpu)

    async def _await_thread(self, index: int) -> None:
        """Run a plain function in a thread: it would hold up the loop."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def work() -> None:
            self._run_one(index)
            with contextlib.suppress(RuntimeError):  # after a timeout there is no loop any more
                loop.call_soon_threadsafe(ended.set)

        try:
            _start_thread(work)
        except RuntimeError as exception:
            call = _Call(index)
            self._take(call, self._result_of(call, exception))
        else:
            await ended.wait()

    async def _await_one(self, index: int) -> None:
        call = _Call(index, grace=CANCEL_SECONDS)
        task = asyncio.create_task(self._call_on_loop(call))  # one that cancels itself cancels no other
        call.stop = partial(asyncio.get_running_loop().call_soon_threadsafe, task.cancel)
        self._start(call)
        try:
            result = await task
        except asyncio.CancelledError as cancelled:
            if self._is_closed:
                raise  # the loop ends; this item has not ended
            result = self._result_of(call, cancelled)
        self._take(call, result._replace(seconds=round(time.monotonic() - call.begin, 6)))

    async def _call_on_loop(self, call: _Call) -> ItemResult:
        try:
            value = self._call(call.index)
            value = await value if inspect.isawaitable(value) else value
            return ItemResult(ITEM_SUCCEEDED, stored_value(value))
        except asyncio.CancelledError:
            raise
        except BaseException as exception:  # SystemExit would end the loop
            return self._result_of(call, exception)

    def _result_of(self, call: _Call, exception: BaseException) -> ItemResult:
        """Make the result of an exception, or raise it if it is not the item's own."""
        self._raise_end_of_task(exception)
        is_skip = isinstance(exception, AirflowSkipException)
        error: str | None = type(exception).__name__
        verdict = Verdict(is_final=isinstance(exception, AirflowFailException))
        try:
            error = skip_reason(exception) if is_skip else redacted_error(exception)
            if not is_skip and not self._is_closed and not call.is_given_up:
                verdict = self._verdict_on(call.index, exception, verdict)
                if verdict.delay is None:
                    self._on_failure(call.index, exception)
        except BaseException as another:  # of an exception that can't be put into words
            self._raise_end_of_task(another)
        call.verdict = verdict
        return ItemResult(ITEM_SKIPPED if is_skip else ITEM_FAILED, error=error, is_final=verdict.is_final)

    def _verdict_on(self, index: int, exception: BaseException, verdict: Verdict) -> Verdict:
        """Ask what becomes of an item that has failed; no try begins after the end of the task's time."""
        if self._judge is None or verdict.is_final:
            return verdict
        verdict = self._judge(index, exception, self._tries.get(index, 0) + 1)
        is_too_late = verdict.delay is not None and time.monotonic() + verdict.delay >= self.deadline
        return verdict._replace(delay=None) if is_too_late else verdict

    def _raise_end_of_task(self, exception: BaseException) -> None:
        # Signals reach the main thread alone, whatever runs there; those of the task are no child's.
        if not self._is_child and threading.current_thread() is threading.main_thread():
            is_late = isinstance(exception, AirflowTaskTimeout) and time.monotonic() >= self.deadline
            if is_late or isinstance(exception, KeyboardInterrupt):
                self.close()
                raise exception

    def _take(self, call: _Call, result: ItemResult) -> None:
        """Keep how an item ended, or put it back, unless it was given up before."""
        with self._lock:
            self._calls.discard(call)
            if not call.is_given_up:
                self._settle(call, result)

    def _settle(self, call: _Call, result: ItemResult) -> None:
        """Keep how an item ended, or put it back, unless the batch has ended; called with the lock held."""
        index, delay = call.index, call.verdict.delay
        if self._is_closed:
            return
        self._tries[index] = self._tries.get(index, 0) + 1
        if (tries := self.earlier_tries.get(index, 0) + self._tries[index]) != result.tries:
            result = result._replace(tries=tries)
        if delay is not None and not self.is_stopped:
            self._put_back[index] = result
            if math.isinf(delay):
                self._queue.drop()
            else:
                self._queue.put_back(index, time.monotonic() + delay)
        else:
            self._put_back.pop(index, None)
            self._queue.drop()
            self._keep(index, result)
        if self._queue.may_wait:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._wake()

    def _keep(self, index: int, result: ItemResult) -> None:
        if result.status == ITEM_FAILED:
            self._failed += 1
            if self._failures_left is not None and (result.is_final or not self.is_retried):
                self._failures_left -= 1
        self.results[index] = result
        self.ended.append(index)  # last: whoever saves what has ended holds no lock

    def _end_put_back(self) -> None:
        """Fail what was to be tried again: enough items have failed for no further try to start."""
        with self._lock:
            while self._put_back and not self._is_closed:
                self._keep(*self._put_back.popitem())


def _start_thread(work: Callable[[], None]) -> threading.Thread:
    """Start a thread that nobody waits for after a timeout: a daemon."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
    thread.start()
    return thread


def _sent(result: ItemResult, verdict: Verdict) -> bytes:
    """Put what a child has to say of an item into bytes, its value as an XCom has it."""
    from airflow.sdk.serde import serialize

    try:
        return json.dumps([result._replace(value=serialize(result.value)), verdict]).encode()
    except Exception as error:  # of a value that only an XCom backend of the author's takes
        return json.dumps([_refused(result, "sent from its process", error), verdict]).encode()


def _received(answer: bytes) -> tuple[ItemResult, Verdict]:
    """Read what a child has said."""
    from airflow.sdk.serde import deserialize

    fields, verdict = json.loads(answer)
    result = ItemResult(*fields)
    try:
        result = result._replace(value=deserialize(result.value))
    except Exception as error:  # such as of a class that may not be deserialized
        result = _refused(result, "read from its process", error)
    return result, Verdict(*verdict)


def _refused(result: ItemResult, what: str, error: Exception) -> ItemResult:
    text = f"its value can't be {what}: {redacted_error(error)}"
    return result._replace(status=ITEM_FAILED, value=None, error=text)


def alarm_deadline() -> float:
    """When ``execution_timeout``, which Airflow has set an alarm for, is over by ``time.monotonic``."""
    begin = time.monotonic()
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    return begin + left if left else math.inf


class AlarmThread:
    """
    A thread that rings Airflow's alarm again while a batch runs: an item may have swallowed its exception.

    :param give_up: Called if that did not help, or what comes after the items has not ended either.
    """

    def __init__(self, batch: Batch, give_up: Callable[[], object]) -> None:
        self._batch, self._give_up = batch, give_up
        self._ended = threading.Event()

    def __enter__(self) -> None:
        if self._batch.deadline < math.inf:
            threading.Thread(target=self._run, daemon=True, name="fan-out-alarm").start()

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        main, passed = threading.main_thread().ident, time.monotonic() - self._batch.deadline
        for seconds in RINGS:
            if self._ended.wait(seconds - passed):
                return
            passed = 0.0
            if main is not None and self._batch.is_running and callable(signal.getsignal(signal.SIGALRM)):
                signal.pthread_kill(main, signal.SIGALRM)
        if not self._ended.wait(GIVE_UP_AFTER):
            self._give_up()
