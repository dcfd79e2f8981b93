from __future__ import annotations

import asyncio
import functools
import signal
import threading
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.execution_time.batch import Batch, Done, Progress
from airflow_fanout.rules.records import ITEM_FAILED, ITEM_PENDING, ITEM_SKIPPED, ITEM_SUCCEEDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIME_OUT = 10
"""Seconds after which what should have met, or ended, never will."""


def describe(exception: BaseException) -> str:
    return f"{type(exception).__name__}: {exception}"


def batch_of(size: int, call: Callable[[int], Any], **arguments: Any) -> Batch:
    return Batch(size, call, describe=describe, **arguments)


def run(size: int, call: Callable[[int], Any], **arguments: Any) -> Batch:
    batch = batch_of(size, call, **arguments)
    batch.run()
    return batch


def done(
    state: str,
    value: Any = None,
    *,
    error: str | None = None,
    seconds: float | None = None,
    cpu_seconds: float | None = None,
) -> Done:
    return Done(state=state, value=value, error=error, seconds=seconds, cpu_seconds=cpu_seconds)


def every(place: int) -> bool:
    """All items are ``async def``."""
    return True


def acting(*fates: Any) -> Callable[[int], Any]:
    """Raise what is an exception, return the rest."""

    def call(place: int) -> Any:
        if isinstance(fates[place], BaseException):
            raise fates[place]
        return fates[place]

    return call


def acting_async(*fates: Any) -> Callable[[int], Any]:
    act = acting(*fates)

    async def call(place: int) -> Any:
        await asyncio.sleep(0)
        return act(place)

    return call


WAYS = [
    pytest.param({}, acting, id="one after another"),
    pytest.param({"concurrency": 3}, acting, id="threads"),
    pytest.param({"concurrency": 1, "is_async": every}, acting_async, id="event loop, one at a time"),
    pytest.param({"concurrency": 3, "is_async": every}, acting_async, id="event loop"),
    pytest.param({"concurrency": 3, "is_async": lambda place: False}, acting, id="threads beside the loop"),
]


@pytest.mark.parametrize(("way", "acting_so"), WAYS)
class TestWhatBecomesOfAnItem:
    def test_each_has_its_own_fate(self, way: Any, acting_so: Any) -> None:
        fates = [
            "a",
            None,
            0,
            ValueError("broken"),
            AirflowSkipException("nothing"),
            AirflowFailException("no"),
        ]
        batch = run(6, acting_so(*fates), **way)

        assert "".join(batch.states) == ITEM_SUCCEEDED * 3 + ITEM_FAILED + ITEM_SKIPPED + ITEM_FAILED
        assert batch.values == {0: "a", 1: None, 2: 0}
        assert batch.errors == {3: "ValueError: broken", 4: "nothing", 5: "AirflowFailException: no"}
        assert batch.final == {5}
        assert sorted(batch.ended) == list(range(6))
        assert batch.pending == []

    @pytest.mark.parametrize(
        "raised",
        [
            pytest.param(SystemExit(3), id="SystemExit"),
            pytest.param(GeneratorExit(), id="GeneratorExit"),
            pytest.param(asyncio.CancelledError(), id="CancelledError"),
            pytest.param(TaskDeferred(trigger=mock.Mock(), method_name="resume"), id="TaskDeferred"),
        ],
    )
    def test_what_would_end_a_process_fails_its_item_alone(
        self, way: Any, acting_so: Any, raised: BaseException
    ) -> None:
        batch = run(4, acting_so("a", raised, "b", "c"), **way)

        assert "".join(batch.states) == "SFSS"
        assert batch.errors[1].startswith(type(raised).__name__)

    def test_seconds_are_known_when_an_item_has_ended(self, way: Any, acting_so: Any) -> None:
        batch = run(3, acting_so("a", ValueError(), "b"), **way)

        assert all(seconds is not None and seconds >= 0 for seconds in batch.seconds)

    def test_what_an_earlier_try_has_done_does_not_run_again(self, way: Any, acting_so: Any) -> None:
        batch = batch_of(4, acting_so("never", "b", "never", "never"), **way)
        batch.reuse(0, done(ITEM_SUCCEEDED, "a", seconds=1.5, cpu_seconds=0.25))
        batch.reuse(2, done(ITEM_SKIPPED, error="nothing"))
        batch.reuse(3, done(ITEM_FAILED, error="no use", seconds=0.5))
        batch.run()

        assert "".join(batch.states) == "SSKF"
        assert (batch.seconds[0], batch.cpu_seconds[0]) == (1.5, 0.25)
        assert batch.values == {0: "a", 1: "b"}
        assert (batch.ended, batch.final, batch.reused) == ([1], {3}, 3)
        assert (batch.progress.done, batch.progress.failed) == (4, 1)

    def test_no_items_are_done_at_once(self, way: Any, acting_so: Any) -> None:
        assert run(0, acting_so(), **way).states == []


def test_one_at_a_time_runs_in_order() -> None:
    assert run(20, lambda place: place).ended == list(range(20))


def test_a_skip_without_a_reason_has_none() -> None:
    assert run(1, acting(AirflowSkipException())).errors == {}


class TestAtTheSameTime:
    def test_threads_overlap(self) -> None:
        barrier = threading.Barrier(4)

        batch = run(8, lambda place: barrier.wait(TIME_OUT), concurrency=4)

        assert "".join(batch.states) == ITEM_SUCCEEDED * 8

    def test_items_on_a_loop_overlap(self) -> None:
        here, all_here = [], asyncio.Event()

        async def meet(place: int) -> int:
            here.append(place)
            if len(here) == 4:
                all_here.set()
            await asyncio.wait_for(all_here.wait(), TIME_OUT)
            return place

        assert "".join(run(4, meet, concurrency=4, is_async=every).states) == ITEM_SUCCEEDED * 4

    def test_plain_functions_and_async_ones_overlap(self) -> None:
        """A plain function on the loop would keep all others from starting."""
        barrier = threading.Barrier(3)

        def meet(place: int) -> Any:
            if place == 1:
                return asyncio.to_thread(barrier.wait, TIME_OUT)
            return barrier.wait(TIME_OUT)

        batch = run(3, meet, concurrency=3, is_async=lambda place: place == 1)

        assert "".join(batch.states) == ITEM_SUCCEEDED * 3

    @pytest.mark.parametrize("way", [{}, {"is_async": every}, {"is_async": lambda place: place % 2 == 0}])
    def test_never_more_than_asked_for(self, way: dict[str, Any]) -> None:
        lock, running, most = threading.Lock(), 0, 0

        def enter() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)

        def leave(place: int) -> int:
            nonlocal running
            with lock:
                running -= 1
            return place

        async def on_loop(place: int) -> int:
            enter()
            await asyncio.sleep(0)
            return leave(place)

        def call(place: int) -> Any:
            if "is_async" in way and way["is_async"](place):
                return on_loop(place)
            enter()
            return leave(place)

        batch = run(60, call, concurrency=3, **way)

        assert most <= 3
        assert batch.values == {place: place for place in range(60)}

    def test_an_item_that_cancels_itself_cancels_no_other(self) -> None:
        async def call(place: int) -> int:
            task = asyncio.current_task()
            if place == 1 and task is not None:
                task.cancel()
            await asyncio.sleep(0)
            return place

        assert "".join(run(4, call, concurrency=2, is_async=every).states) == "SFSS"


class TestStopping:
    @pytest.mark.parametrize(("way", "acting_so"), [WAYS[0], WAYS[2]])
    def test_no_item_starts_after_so_many_failures(self, way: Any, acting_so: Any) -> None:
        fates = ["a", ValueError(), "b", ValueError(), "c", "d"]
        batch = run(6, acting_so(*fates), most_failures=2, **way)

        assert "".join(batch.states) == "SFSF" + ITEM_PENDING * 2
        assert batch.is_stopped

    def test_none_starts_where_others_have_failed(self) -> None:
        assert run(3, acting("a", "b", "c"), most_failures=0).pending == [0, 1, 2]

    def test_too_few_failures_stop_nothing(self) -> None:
        batch = run(3, acting(ValueError(), "b", "c"), most_failures=2)

        assert batch.pending == []
        assert not batch.is_stopped

    def test_a_failure_that_will_be_retried_does_not_count(self) -> None:
        fates = [ValueError(), AirflowFailException(), "c"]

        assert run(3, acting(*fates), most_failures=1, counts=lambda is_final: is_final).pending == [2]

    def test_running_ones_finish(self) -> None:
        other_runs, failed = threading.Event(), threading.Event()

        def call(place: int) -> str:
            if place == 0:
                other_runs.wait(TIME_OUT)
                raise ValueError
            other_runs.set()
            failed.wait(0.01)
            return "done"

        batch = run(2, call, concurrency=2, most_failures=1)

        assert "".join(batch.states) == "FS"


class TestClosing:
    def test_no_further_item_starts(self) -> None:
        def call(place: int) -> int:
            if place == 1:
                batch.close()
            return place

        batch = batch_of(4, call)
        batch.run()

        assert "".join(batch.states) == ITEM_SUCCEEDED + ITEM_PENDING * 3  # what still ran is not looked at

    def test_what_an_abandoned_thread_returns_is_forgotten(self) -> None:
        go_on, started, returned = threading.Event(), threading.Event(), threading.Event()

        def call(place: int) -> str:
            started.set()
            go_on.wait(TIME_OUT)
            returned.set()
            return "too late"

        batch = batch_of(1, call, concurrency=2)
        before = set(threading.enumerate())
        threading.Thread(target=batch.run, daemon=True).start()
        started.wait(TIME_OUT)
        batch.close()
        go_on.set()
        returned.wait(TIME_OUT)
        for thread in set(threading.enumerate()) - before:
            thread.join(TIME_OUT)

        assert (batch.states, batch.values, batch.ended, batch.seconds) == ([ITEM_PENDING], {}, [], [None])

    @pytest.mark.parametrize("ended", [AirflowTaskTimeout("late"), KeyboardInterrupt()])
    def test_the_end_of_the_task_is_no_failure_of_an_item(self, ended: BaseException) -> None:
        batch = batch_of(3, acting("a", ended, "c"), deadline=time.monotonic())

        with pytest.raises(type(ended)):
            batch.run()

        assert "".join(batch.states) == ITEM_SUCCEEDED + ITEM_PENDING * 2

    @pytest.mark.parametrize("deadline", [None, time.monotonic() + 3600], ids=["none", "far"])
    @pytest.mark.parametrize(("way", "acting_so"), WAYS)
    def test_a_timeout_before_the_time_is_up_is_the_items_own(
        self, way: Any, acting_so: Any, deadline: float | None
    ) -> None:
        batch = run(3, acting_so("a", AirflowTaskTimeout("its own"), "c"), **way, deadline=deadline)

        assert "".join(batch.states) == "SFS"
        assert batch.errors == {1: "AirflowTaskTimeout: its own"}

    def test_a_timeout_in_a_thread_is_the_items_own(self) -> None:
        """Airflow's comes by a signal, which reaches the main thread alone."""
        batch = run(3, acting("a", AirflowTaskTimeout("its own"), "c"), concurrency=2)

        assert "".join(batch.states) == "SFS"

    @pytest.mark.parametrize(
        "way",
        [
            pytest.param({"concurrency": 2}, id="threads"),
            pytest.param({"concurrency": 2, "is_async": every}, id="event loop"),
            pytest.param({"concurrency": 2, "is_async": lambda place: False}, id="threads beside the loop"),
        ],
    )
    def test_a_timeout_while_items_wait_ends_the_batch(self, way: dict[str, Any], alarm: Any) -> None:
        started: list[int] = []
        for_ever = threading.Event()

        async def sleep() -> None:
            await asyncio.sleep(1)

        def call(place: int) -> Any:
            started.append(place)
            if place == 0:
                return asyncio.sleep(0) if way.get("is_async") is every else None
            if place == 2:
                alarm(0.05)
            return sleep() if way.get("is_async") is every else for_ever.wait(TIME_OUT)

        batch = batch_of(20, call, **way)
        begin = time.monotonic()
        with pytest.raises(AirflowTaskTimeout):
            batch.run()
        batch.close()
        for_ever.set()

        assert time.monotonic() - begin < TIME_OUT / 2
        assert started == [0, 1, 2]
        assert "".join(batch.states) == ITEM_SUCCEEDED + ITEM_PENDING * 19


@pytest.fixture
def alarm() -> Iterator[Callable[[float], object]]:
    """Airflow's way to end a task that takes too long."""

    def ring(number: int, frame: object) -> None:
        raise AirflowTaskTimeout

    before = signal.signal(signal.SIGALRM, ring)
    yield functools.partial(signal.setitimer, signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_success_that_turns_out_unusable_is_one_failure() -> None:
    batch = run(2, acting("a", object()))
    batch.fail(1, "can't be stored")

    assert "".join(batch.states) == "SF"
    assert (batch.values, batch.errors) == ({0: "a"}, {1: "can't be stored"})
    assert (batch.progress.done, batch.progress.failed) == (2, 1)


@pytest.mark.parametrize(
    ("progress", "said"),
    [
        pytest.param(
            Progress(total=100, done=30, failed=2, seconds=10.0, reused=10),
            "30 of 100 items done, 2 failed, 2.0/s, about 35 s left",
            id="on the way",
        ),
        pytest.param(
            Progress(total=5, done=5, failed=0, seconds=2.0, reused=0),
            "5 of 5 items done, 0 failed, 2.5/s",
            id="done",
        ),
        pytest.param(
            Progress(total=5, done=2, failed=0, seconds=0.0, reused=2),
            "2 of 5 items done, 0 failed, 0.0/s",
            id="begun",
        ),
    ],
)
def test_progress_is_said_in_a_line(progress: Progress, said: str) -> None:
    assert str(progress) == said


FATES = st.sampled_from(["value", "fails", "fails for good", "is skipped"])


@given(fates=st.lists(FATES, max_size=12), concurrency=st.integers(1, 4), on_loop=st.booleans())
def test_every_item_is_counted_once(fates: list[str], concurrency: int, on_loop: bool) -> None:
    made = {
        "fails": ValueError("x"),
        "fails for good": AirflowFailException("x"),
        "is skipped": AirflowSkipException(),
    }
    way: dict[str, Any] = {"is_async": every} if on_loop else {}
    act = (acting_async if on_loop else acting)(*(made.get(fate, fate) for fate in fates))
    batch = run(len(fates), act, concurrency=concurrency, **way)

    letters = {"value": ITEM_SUCCEEDED, "is skipped": ITEM_SKIPPED}
    assert batch.states == [letters.get(fate, ITEM_FAILED) for fate in fates]
    assert batch.final == {place for place, fate in enumerate(fates) if fate == "fails for good"}
    assert (batch.progress.done, batch.progress.failed) == (len(fates), batch.states.count(ITEM_FAILED))
    assert sorted(batch.values) == [place for place, fate in enumerate(fates) if fate == "value"]


@given(
    fails=st.lists(st.booleans(), min_size=1, max_size=15),
    most=st.integers(1, 4),
    concurrency=st.integers(1, 4),
)
def test_a_stop_runs_at_most_what_had_started(fails: list[bool], most: int, concurrency: int) -> None:
    batch = run(
        len(fails),
        acting(*(ValueError() if each else "value" for each in fails)),
        most_failures=most,
        concurrency=concurrency,
    )

    failed = batch.states.count(ITEM_FAILED)
    assert failed <= most - 1 + concurrency
    assert bool(batch.pending) <= batch.is_stopped
    assert len(batch.ended) + len(batch.pending) == len(fails)


def test_each_failure_is_told_with_its_exception() -> None:
    told: list[tuple[int, BaseException]] = []
    broken = ValueError("broken")

    def call(place: int) -> int:
        if place == 1:
            raise broken
        if place == 2:
            message = "nothing to do"
            raise AirflowSkipException(message)
        return place

    run(4, call, tell=lambda place, exception: told.append((place, exception)))

    assert told == [(1, broken)]
