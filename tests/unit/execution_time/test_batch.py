from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowSkipException,
    AirflowTaskTimeout,
    TaskDeferred,
)
from airflow.sdk.execution_time.comms import CommsDecoder, GetVariable, XComResult
from airflow.sdk.execution_time.timeout import timeout
from airflow.sdk.log import mask_secret
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.execution_time.batch import AlarmThread, Batch, ItemResult, Verdict, alarm_deadline
from airflow_fanout.rules.records import ITEM_FAILED, ITEM_SKIPPED, ITEM_SUCCEEDED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIME_OUT = 10
"""Seconds after which what should have met, or ended, never will."""


def run(size: int, call: Callable[[int], Any], **arguments: Any) -> Batch:
    batch = Batch(size, call, **arguments)
    batch.run()
    return batch


def statuses(batch: Batch) -> str:
    """A letter for each item, a dot for what has not ended."""
    return "".join(
        batch.results[index].status if index in batch.results else "." for index in range(batch.size)
    )


def errors(batch: Batch) -> dict[int, str]:
    return {index: result.error for index, result in batch.results.items() if result.error is not None}


def values(batch: Batch) -> dict[int, Any]:
    return {index: result.value for index, result in batch.results.items() if result.status == ITEM_SUCCEEDED}


def every(index: int) -> bool:
    """All items are ``async def``."""
    return True


def acting(*fates: Any) -> Callable[[int], Any]:
    """Raise what is an exception, return the rest."""

    def call(index: int) -> Any:
        if isinstance(fates[index], BaseException):
            raise fates[index]
        return fates[index]

    return call


def acting_async(*fates: Any) -> Callable[[int], Any]:
    act = acting(*fates)

    async def call(index: int) -> Any:
        await asyncio.sleep(0)
        return act(index)

    return call


WAYS = [
    pytest.param({}, acting, id="one-after-another"),
    pytest.param({"concurrency": 3}, acting, id="threads"),
    pytest.param({"concurrency": 1, "is_async": every}, acting_async, id="event-loop-one-at-a-time"),
    pytest.param({"concurrency": 3, "is_async": every}, acting_async, id="event-loop"),
    pytest.param({"concurrency": 3, "is_async": lambda index: False}, acting, id="threads-beside-the-loop"),
    pytest.param({"concurrency": 3, "executor": "process"}, acting, id="processes"),
]

IN_ONE_PROCESS = WAYS[:-1]
"""Ways in which an item's changes to what is around it can be seen."""


class UnreadableError(Exception):
    """Raises when it is asked what it says."""

    def __str__(self) -> str:
        raise self.args[0]


class UnreadableSkipError(UnreadableError, AirflowSkipException):
    pass


FATES = {
    "S": ("S", None, None),
    "F": ("F", ValueError("broken"), "ValueError: broken"),
    "X": ("F", AirflowFailException("no"), "AirflowFailException: no"),
    "K": ("K", AirflowSkipException("no open-sesame-4711 today"), "no *** today"),
    "k": ("K", AirflowSkipException(), None),
    "U": ("F", UnreadableError(SystemExit(3)), "UnreadableError: (its message can't be read: SystemExit)"),
    "N": ("F", {"loss": math.nan}, "NaN at ['loss'] can't be stored in an XCom"),
    "u": ("K", UnreadableSkipError(RecursionError()), "(its message can't be read: RecursionError)"),
}
"""Status of an item, what it raises or returns, and its error; X fails for good."""

mask_secret("open-sesame-4711")


@given(fates=st.lists(st.sampled_from([*FATES]), max_size=12), way=st.sampled_from(WAYS))
def test_every_item_has_a_fate_of_its_own(fates: list[str], way: Any) -> None:
    arguments, acting_so = way.values
    batch = run(len(fates), acting_so(*(FATES[fate][1] for fate in fates)), **arguments)

    assert statuses(batch) == "".join(FATES[fate][0] for fate in fates)
    assert list(values(batch).values()) == [None] * fates.count("S")
    results = [batch.results[index] for index in range(len(fates))]
    assert [(result.error, result.is_final) for result in results] == [
        (FATES[fate][2], fate == "X") for fate in fates
    ]
    assert all(result.seconds is not None and result.seconds >= 0 for result in results)
    assert (sorted(batch.ended), batch.pending) == (list(range(len(fates))), [])
    assert f"{len(fates)} of {len(fates)} item" in batch.progress
    assert f"done, {statuses(batch).count('F')} failed" in batch.progress


@pytest.mark.parametrize(("way", "acting_so"), WAYS)
class TestInEveryWay:
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

        assert statuses(batch) == "SFSS"
        assert errors(batch)[1].startswith(type(raised).__name__)

    def test_results_of_an_earlier_try_are_taken_as_they_are(self, way: Any, acting_so: Any) -> None:
        earlier = {
            0: ItemResult(ITEM_SUCCEEDED, "a", seconds=1.5, cpu_seconds=0.25),
            2: ItemResult(ITEM_SKIPPED, error="nothing"),
            3: ItemResult(ITEM_FAILED, error="no use", is_final=True),
        }
        batch = Batch(4, acting_so("never", "b", "never", "never"), **way)
        for index, result in earlier.items():
            batch.reuse(index, result)
        batch.run()

        assert statuses(batch) == "SSKF"
        assert earlier.items() < batch.results.items()
        assert (batch.ended, batch.reused) == ([1], 3)
        assert batch.progress.startswith("4 of 4 items done, 1 failed")

    def test_a_timeout_before_the_deadline_is_the_items_own(self, way: Any, acting_so: Any) -> None:
        fates = ["a", AirflowTaskTimeout("its own"), "c"]
        batch = run(3, acting_so(*fates), **way, deadline=time.monotonic() + 3600)

        assert (statuses(batch), errors(batch)) == ("SFS", {1: "AirflowTaskTimeout: its own"})


def again(most: int, delay: float = 0.0) -> Callable[[int, BaseException, int], Verdict]:
    """Try items again."""
    return lambda index, exception, tries: Verdict(delay=delay if tries <= most else None)


def failing(counts: dict[int, int], calls: list[int], acting_so: Any) -> Callable[[int], Any]:
    """Fail an item so many times before it succeeds."""

    def call(index: int) -> Any:
        calls.append(index)
        is_over = calls.count(index) > counts.get(index, 0)
        return acting_so(*[index if is_over else ValueError(f"no {calls.count(index)}")] * (index + 1))(index)

    return call


def once_put_back(batch: Batch, act: Callable[[], object]) -> None:
    """Do something when one of two items has ended and the other one waits for its next try."""

    def watch() -> None:
        while not (batch.ended and "1 to be tried again" in batch.progress):
            time.sleep(0.01)
        act()

    threading.Thread(target=watch, daemon=True).start()


@pytest.mark.parametrize(("way", "acting_so"), IN_ONE_PROCESS)
class TestItemRetries:
    def test_what_fails_is_tried_again_and_its_neighbours_are_not(self, way: Any, acting_so: Any) -> None:
        calls: list[int] = []
        batch = run(5, failing({1: 2, 3: 1}, calls, acting_so), judge=again(2), **way)

        assert (statuses(batch), values(batch)) == ("SSSSS", {index: index for index in range(5)})
        assert sorted(calls) == [0, 1, 1, 1, 2, 3, 3, 4]
        assert [batch.results[index].tries for index in range(5)] == [1, 3, 1, 2, 1]
        assert (sorted(batch.ended), batch.pending) == ([0, 1, 2, 3, 4], [])

    def test_what_fails_to_the_end_has_failed_once(self, way: Any, acting_so: Any) -> None:
        calls: list[int] = []
        failures: list[str] = []
        batch = run(
            3,
            failing({1: 9}, calls, acting_so),
            judge=again(3),
            on_failure=lambda index, exception: failures.append(f"{index}: {exception}"),
            **way,
        )

        assert (statuses(batch), errors(batch)) == ("SFS", {1: "ValueError: no 4"})
        assert (batch.results[1].tries, calls.count(1)) == (4, 4)
        assert failures == ["1: no 4"]
        assert "3 of 3 items done, 1 failed, " in batch.progress

    def test_what_is_final_is_not_tried_again(self, way: Any, acting_so: Any) -> None:
        fates = [AirflowFailException("no"), AirflowSkipException("nothing"), ValueError("policy")]
        judged: list[int] = []

        def judge(index: int, exception: BaseException, tries: int) -> Verdict:
            judged.append(index)
            return Verdict(is_final=True)

        batch = run(3, acting_so(*fates), judge=judge, **way)

        assert (statuses(batch), judged) == ("FKF", [2])
        assert [batch.results[index].is_final for index in range(3)] == [True, False, True]
        assert {result.tries for result in batch.results.values()} == {1}

    def test_what_waits_for_its_next_try_holds_up_no_neighbour(self, way: Any, acting_so: Any) -> None:
        calls: list[int] = []
        batch = run(12, failing({0: 1}, calls, acting_so), judge=again(1, 1.0), **way)

        assert (statuses(batch), calls[-1], len(calls)) == ("S" * 12, 0, 13)

    def test_no_try_follows_the_end_of_the_tasks_time(self, way: Any, acting_so: Any) -> None:
        batch = run(
            2, acting_so(ValueError("no"), "b"), judge=again(9, 60), deadline=time.monotonic() + 30, **way
        )

        assert (statuses(batch), errors(batch)) == ("FS", {0: "ValueError: no"})

    def test_only_the_last_failure_counts_for_the_stop(self, way: Any, acting_so: Any) -> None:
        calls: list[int] = []
        call = failing({0: 2, 1: 2, 2: 2}, calls, acting_so)
        batch = run(6, call, judge=again(2), failures_left=1, **way)

        assert statuses(batch) == "SSSSSS"

    def test_what_was_to_be_tried_again_when_enough_failed_has_failed(self, way: Any, acting_so: Any) -> None:
        def judge(index: int, exception: BaseException, tries: int) -> Verdict:
            return Verdict(delay=60 if index == 0 else None)

        fates = [ValueError("first"), *[ValueError("second")] * 9]
        batch = run(10, acting_so(*fates), judge=judge, failures_left=1, **way)

        assert errors(batch)[0] == "ValueError: first"
        assert statuses(batch).startswith("FF")
        assert batch.pending == [index for index in range(10) if index not in batch.ended]

    def test_closing_ends_the_waiting_and_keeps_the_error(self, way: Any, acting_so: Any) -> None:
        batch = Batch(2, acting_so("a", ValueError("no")), judge=again(1, 3600), **way)
        once_put_back(batch, batch.close)
        batch.run()

        assert (statuses(batch), batch.pending) == ("S.", [1])
        assert "1 of 2 items done, 0 failed, 1 to be tried again" in batch.progress
        batch.fail(1, "the task ended")
        result = batch.results[1]
        assert (result.status, result.error, result.tries) == ("F", "ValueError: no; the task ended", 1)
        assert result.seconds is not None

    def test_the_deadline_ends_the_waiting(self, way: Any, acting_so: Any) -> None:
        batch = Batch(2, acting_so("a", ValueError("no")), judge=again(1, 3600), **way)
        once_put_back(batch, lambda: setattr(batch, "deadline", time.monotonic()))
        with pytest.raises(AirflowTaskTimeout):
            batch.run()

        assert (statuses(batch), batch.pending) == ("S.", [1])

    def test_tries_of_earlier_tries_of_the_task_are_counted(self, way: Any, acting_so: Any) -> None:
        batch = Batch(2, failing({1: 1}, [], acting_so), judge=again(1), **way)
        batch.earlier_tries[1] = 3
        batch.run()

        assert [batch.results[index].tries for index in range(2)] == [1, 5]


@pytest.mark.parametrize(("way", "acting_so"), WAYS)
class TestTheRate:
    def test_items_start_at_it(self, way: Any, acting_so: Any) -> None:
        batch = run(12, acting_so(*range(12)), per_second=40, **way)

        assert statuses(batch) == "S" * 12
        assert batch.elapsed * 40 >= 12 - 1e-6
        assert 0 < batch.rate_wait_seconds <= batch.elapsed
        assert batch.rate_wait_seconds >= batch.idle_seconds

    def test_tries_after_the_first_start_at_it_too(self, way: Any, acting_so: Any) -> None:
        batch = run(2, acting_so("a", ValueError("no")), judge=again(10), per_second=40, **way)

        assert (statuses(batch), batch.results[1].tries) == ("SF", 11)
        assert batch.elapsed * 40 >= 12 - 1e-6

    def test_closing_ends_the_waiting(self, way: Any, acting_so: Any) -> None:
        batch = Batch(2, acting_so("a", "b"), per_second=1e-6, **way)

        def close() -> None:
            while batch._waiting is None:
                time.sleep(0.01)
            time.sleep(0.1)
            batch.close()

        threading.Thread(target=close, daemon=True).start()
        batch.run()

        assert (statuses(batch), batch.pending) == ("..", [0, 1])
        assert batch.rate_wait_seconds == pytest.approx(batch.idle_seconds)
        assert 0 < batch.rate_wait_seconds <= batch.elapsed

    def test_the_deadline_ends_the_waiting(self, way: Any, acting_so: Any) -> None:
        batch = Batch(2, acting_so("a", "b"), per_second=1e-6, deadline=time.monotonic() + 0.05, **way)
        with pytest.raises(AirflowTaskTimeout):
            batch.run()

        assert (statuses(batch), batch.pending) == ("..", [0, 1])


def test_an_item_that_runs_again_alone_keeps_to_the_rate() -> None:
    def call(index: int) -> int:
        return os._exit(3) if index == 1 else index

    batch = run(3, call, executor="process", concurrency=2, per_second=2)

    assert statuses(batch) == "SFS"
    assert batch.elapsed * 2 >= 4 - 1e-6


def test_what_runs_while_others_wait_for_the_rate_is_no_idle_time() -> None:
    started: list[int] = []

    def call(index: int) -> None:
        started.append(index)
        while index == 0 and len(started) < 4:
            time.sleep(0.01)

    batch = run(4, call, concurrency=2, per_second=20)

    assert statuses(batch) == "SSSS"
    assert batch.rate_wait_seconds >= 3 * batch.idle_seconds  # the first has nobody beside it


def test_a_snapshot_counts_the_waiting_so_far() -> None:
    batch = Batch(1, str, per_second=1e-6)
    seen: list[Batch] = []

    def look() -> None:
        seen.extend([batch.snapshot(), batch.snapshot()])
        batch.close()

    threading.Timer(0.1, look).start()
    batch.run()

    assert 0 < seen[0].rate_wait_seconds <= seen[1].rate_wait_seconds <= batch.rate_wait_seconds


def test_threads_wait_for_nothing_while_they_can_start_something() -> None:
    """Two threads, two items that wait for another try: the others run at once all the same."""
    barrier = threading.Barrier(2)
    failed: set[int] = set()

    def call(index: int) -> int:
        barrier.wait(TIME_OUT)
        if index < 2 and index not in failed:
            failed.add(index)
            raise ValueError
        return index

    batch = run(10, call, judge=again(1, 1.0), concurrency=2)
    assert (statuses(batch), sorted(batch.ended[-2:])) == ("S" * 10, [0, 1])


@pytest.mark.parametrize("is_async", [None, every])
def test_a_value_is_fixed_when_its_item_ends(is_async: Any) -> None:
    reused: list[int] = []

    async def append(index: int) -> list[int]:
        reused.append(index)
        return reused

    call = append if is_async else lambda index: asyncio.run(append(index))
    assert values(run(3, call, is_async=is_async)) == {0: [0], 1: [0, 1], 2: [0, 1, 2]}


BURNING = "import time\nwhile time.process_time() < 0.2: pass"


def burn(index: int) -> None:
    """Compute for 0.1 s in this thread, and for 0.2 s in a child."""
    begin = time.thread_time()
    while time.thread_time() - begin < 0.1:
        pass
    subprocess.run([sys.executable, "-c", BURNING], check=True)


@pytest.mark.parametrize("way", [{}, {"concurrency": 4}, {"concurrency": 4, "is_async": lambda index: False}])
def test_cpu_time_is_the_processs_with_its_childrens(way: Any) -> None:
    assert run(4, burn, **way).cpu_seconds >= 4 * 0.3


@pytest.mark.parametrize("way", [{}, {"concurrency": 4}])
def test_of_items_that_wait_next_to_none_of_the_time_is_cpu_time(way: Any) -> None:
    batch = run(4, lambda index: time.sleep(0.2), **way)

    assert batch.cpu_seconds < batch.elapsed / 2


def test_one_at_a_time_runs_in_order() -> None:
    assert run(20, lambda index: index).ended == list(range(20))


def test_whoever_listens_is_given_the_exception_of_each_failure() -> None:
    failures: list[tuple[int, BaseException]] = []
    broken = ValueError("broken")
    run(
        3,
        acting("a", broken, AirflowSkipException("nothing to do")),
        on_failure=lambda index, exception: failures.append((index, exception)),
    )

    assert failures == [(1, broken)]


class TestAtTheSameTime:
    def test_threads_overlap(self) -> None:
        barrier = threading.Barrier(4)

        assert statuses(run(8, lambda index: barrier.wait(TIME_OUT), concurrency=4)) == "S" * 8

    def test_plain_functions_and_async_ones_overlap(self) -> None:
        """A plain function on the loop would keep all others from starting."""
        barrier = threading.Barrier(4)

        def meet(index: int) -> Any:
            return barrier.wait(TIME_OUT) if index % 2 else asyncio.to_thread(barrier.wait, TIME_OUT)

        assert statuses(run(4, meet, concurrency=4, is_async=lambda index: index % 2 == 0)) == "SSSS"

    @pytest.mark.parametrize("is_async", [None, every, lambda index: index % 2 == 0])
    def test_never_more_than_asked_for(self, is_async: Callable[[int], bool] | None) -> None:
        running: set[int] = set()
        counts: list[int] = []

        async def on_loop(index: int) -> None:
            running.add(index)
            counts.append(len(running))
            await asyncio.sleep(0)
            running.remove(index)

        def call(index: int) -> Any:
            return on_loop(index) if is_async is not None and is_async(index) else asyncio.run(on_loop(index))

        assert statuses(run(60, call, concurrency=3, is_async=is_async)) == "S" * 60
        assert max(counts) <= 3

    @pytest.mark.parametrize(
        ("tasks", "concurrency"), [(asyncio.current_task, 2), (asyncio.all_tasks, 1)], ids=["itself", "all"]
    )
    def test_an_item_that_cancels_tasks_keeps_no_other_from_starting(
        self, tasks: Any, concurrency: int
    ) -> None:
        async def call(index: int) -> int:
            found = tasks()
            for task in (found if isinstance(found, set) else {found}) if index == 1 else ():
                task.cancel()
            await asyncio.sleep(0)
            return index

        assert statuses(run(4, call, concurrency=concurrency, is_async=every)) == "SFSS"


class TestStopping:
    @pytest.mark.parametrize(
        ("fates", "arguments", "expected"),
        [
            pytest.param(["a", ValueError(), "b", ValueError(), "c"], {}, "SFSF.", id="enough"),
            pytest.param(["a", "b"], {"failures_left": 0}, "..", id="others-have-failed"),
            pytest.param(
                [*[ValueError()] * 2, *[AirflowFailException()] * 2, "c"],
                {"is_retried": True},
                "FFFF.",
                id="what-is-retried-does-not-count",
            ),
        ],
    )
    @pytest.mark.parametrize(("way", "acting_so"), [WAYS[0], WAYS[2]])
    def test_no_item_starts_after_so_many_failures(
        self, way: Any, acting_so: Any, fates: Any, arguments: Any, expected: str
    ) -> None:
        batch = run(len(fates), acting_so(*fates), **{"failures_left": 2, **arguments, **way})

        assert (statuses(batch), batch.is_stopped) == (expected, "." in expected)

    @given(
        fails=st.lists(st.booleans(), min_size=1, max_size=15),
        most=st.integers(1, 4),
        concurrency=st.integers(1, 4),
    )
    def test_what_had_started_finishes(self, fails: list[bool], most: int, concurrency: int) -> None:
        fates = [ValueError() if failing else "value" for failing in fails]
        batch = run(len(fates), acting(*fates), failures_left=most, concurrency=concurrency)

        assert statuses(batch).count("F") <= most - 1 + concurrency
        assert bool(batch.pending) <= batch.is_stopped
        assert len(batch.ended) + len(batch.pending) == len(fails)


class TestClosing:
    def test_no_further_item_starts_and_what_still_runs_is_dropped(self) -> None:
        def call(index: int) -> int:
            if index == 1:
                batch.close()
            return index

        batch = Batch(4, call)
        batch.run()

        assert statuses(batch) == "S..."

    @pytest.mark.parametrize("ended", [AirflowTaskTimeout("late"), KeyboardInterrupt()])
    def test_the_end_of_the_task_is_no_failure_of_an_item(self, ended: BaseException) -> None:
        deadline = time.monotonic() + 0.05

        def call(index: int) -> None:
            if index == 1:
                time.sleep(0.06)
                raise ended

        batch = Batch(3, call, deadline=deadline)
        with pytest.raises(type(ended)):
            batch.run()

        assert statuses(batch) == "S.."

    def test_a_timeout_while_an_error_says_what_it_is_ends_the_batch(self) -> None:
        class SlowError(Exception):
            def __str__(self) -> str:
                time.sleep(max(0.0, batch.deadline - time.monotonic()))
                raise AirflowTaskTimeout

        batch = Batch(3, acting("a", SlowError(), "b"), deadline=time.monotonic() + 0.05)
        with pytest.raises(AirflowTaskTimeout):
            batch.run()

        assert statuses(batch) == "S.."


FOR_EVER = threading.Event()


async def wait_in_a_thread() -> None:
    await asyncio.to_thread(FOR_EVER.wait, TIME_OUT)


async def swallow_cancellation() -> None:
    while not FOR_EVER.is_set():
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


async def block_the_loop() -> None:
    FOR_EVER.wait(TIME_OUT)


def wait() -> None:
    FOR_EVER.wait(TIME_OUT)


def swallow_the_timeout() -> None:
    with suppress(AirflowTaskTimeout):
        FOR_EVER.wait(TIME_OUT)


@pytest.mark.parametrize(
    ("hostile", "way"),
    [
        pytest.param(wait_in_a_thread, {"is_async": every, "concurrency": 2}, id="thread-of-an-async-item"),
        pytest.param(
            swallow_cancellation, {"is_async": every, "concurrency": 2}, id="swallowed-cancellation"
        ),
        pytest.param(block_the_loop, {"is_async": every, "concurrency": 2}, id="blocked-loop"),
        pytest.param(wait, {"is_async": lambda index: False, "concurrency": 2}, id="threads-beside-the-loop"),
        pytest.param(wait, {"concurrency": 2}, id="threads"),
        pytest.param(wait, {"concurrency": 2, "executor": "process"}, id="processes"),
        pytest.param(wait, {}, id="one-after-another"),
        pytest.param(swallow_the_timeout, {}, id="swallowed-timeout"),
    ],
)
def test_a_timeout_ends_the_batch_and_no_item_starts_after_it(
    hostile: Any, way: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_fanout.execution_time.batch.CANCEL_SECONDS", 0.1)
    FOR_EVER.clear()
    started: list[int] = []

    async def nothing() -> None:
        pass

    def call(index: int) -> Any:
        started.append(index)
        if index:
            return hostile()
        return nothing() if "is_async" in way and way["is_async"](0) else None

    before = set(threading.enumerate())
    batch = Batch(9, call, deadline=time.monotonic() + 0.1, **way)
    with pytest.raises(AirflowTaskTimeout), timeout(0.1):  # type: ignore[no-untyped-call]
        batch.run()
    seconds = batch.elapsed
    FOR_EVER.set()
    for thread in set(threading.enumerate()) - before:  # what it still returns is dropped
        thread.join(TIME_OUT)

    assert seconds < 2
    assert started == list(range(1 + way.get("concurrency", 1)))[: len(started)]
    assert set(batch.ended) == batch.results.keys() <= {0, 1}


def test_items_that_end_when_they_are_cancelled_have_time_to() -> None:
    cleaned: list[int] = []

    async def call(index: int) -> None:
        try:
            await asyncio.sleep(TIME_OUT)
        finally:
            await asyncio.sleep(0.01)
            cleaned.append(index)

    with pytest.raises(AirflowTaskTimeout), timeout(0.05):  # type: ignore[no-untyped-call]
        run(2, call, is_async=every, concurrency=2, deadline=alarm_deadline())

    assert cleaned == [0, 1]


async def sleep_for_ever() -> None:
    await asyncio.sleep(TIME_OUT)


TIMED_OUT = "ItemTimeoutError: it had not ended after 0.5 s"

LOST = "it can't be stopped: it goes on, and until it ends its place is lost"


class TestItemTimeout:
    """Item 1 does not end in time."""

    @pytest.fixture(autouse=True)
    def _for_ever(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr("airflow_fanout.execution_time.batch.CANCEL_SECONDS", 0.1)
        FOR_EVER.clear()
        yield
        FOR_EVER.set()

    def run(self, hostile: Callable[[], Any], **way: Any) -> tuple[Batch, list[tuple[int, str]]]:
        async def nothing(index: int) -> int:
            return index

        def call(index: int) -> Any:
            if index == 1:
                return hostile()
            return nothing(index) if "is_async" in way and way["is_async"](index) else index

        troubles: list[tuple[int, str]] = []
        batch = run(
            5,
            call,
            item_timeout=0.5,
            on_trouble=lambda index, trouble: troubles.append((index, trouble)),
            **way,
        )
        return batch, troubles

    @pytest.mark.parametrize(
        ("hostile", "way", "is_lost"),
        [
            pytest.param(wait, {"concurrency": 2}, True, id="thread"),
            pytest.param(wait, {"executor": "process"}, False, id="process"),
            pytest.param(sleep_for_ever, {"is_async": every}, False, id="loop"),
            pytest.param(swallow_cancellation, {"is_async": every, "concurrency": 2}, True, id="stubborn"),
            pytest.param(
                wait,
                {"is_async": lambda index: index != 1, "concurrency": 2},
                True,
                id="thread-beside-the-loop",
            ),
        ],
    )
    def test_an_item_fails_and_its_neighbours_do_not_notice(
        self, hostile: Any, way: Any, is_lost: bool
    ) -> None:
        batch, troubles = self.run(hostile, **way)

        assert (statuses(batch), errors(batch), batch.is_stuck) == ("SFSSS", {1: TIMED_OUT}, False)
        assert not batch.results[1].is_final
        assert troubles == ([(1, LOST)] if is_lost else [])

    @pytest.mark.parametrize(
        ("hostile", "way"),
        [
            pytest.param(wait, {}, id="thread"),
            pytest.param(swallow_cancellation, {"is_async": every}, id="stubborn"),
            pytest.param(block_the_loop, {"is_async": every}, id="blocked-loop"),
            pytest.param(wait, {"is_async": lambda index: index != 1}, id="thread-beside-the-loop"),
        ],
    )
    def test_without_a_place_what_has_not_started_stays_unfinished(self, hostile: Any, way: Any) -> None:
        batch, troubles = self.run(hostile, **way)
        FOR_EVER.set()

        assert (statuses(batch), errors(batch), batch.is_stuck) == ("SF...", {1: TIMED_OUT}, True)
        assert troubles == [(1, LOST)]

    @pytest.mark.parametrize("executor", ["thread", "process"])
    @pytest.mark.parametrize("late", [None, ValueError("late")], ids=["returns", "raises"])
    def test_the_next_try_counts_and_not_how_the_first_one_ends(
        self, late: Exception | None, executor: Any, tmp_path: Path
    ) -> None:
        def call(index: int) -> str:
            (tried := tmp_path / f"{index}-{len(list(tmp_path.glob(f'{index}-*')))}").touch()
            if tried.name == "1-0":
                FOR_EVER.wait(TIME_OUT)
                if late is not None:
                    raise late
            elif tried.name == "1-1":
                FOR_EVER.set()
                time.sleep(0.1)
            return tried.name

        failed: list[str] = []

        def judge(index: int, exception: BaseException, tries: int) -> Verdict:
            failed.append(f"{index}: {exception}")
            return Verdict(delay=0.0)

        batch = run(3, call, concurrency=2, executor=executor, item_timeout=0.5, judge=judge)

        assert values(batch) == {0: "0-0", 1: "1-1", 2: "2-0"}
        assert batch.results[1].tries == 2
        assert failed == ["1: it had not ended after 0.5 s"]

    def test_a_process_is_killed_and_its_item_runs_once(self, tmp_path: Path) -> None:
        def call(index: int) -> int:
            (tmp_path / f"{index}-{os.getpid()}").touch()
            while index % 3 == 1:
                pass
            return index

        batch = run(6, call, concurrency=2, executor="process", item_timeout=0.5)
        ran = sorted(path.name.split("-") for path in tmp_path.iterdir())

        assert statuses(batch) == "SFSSFS"
        assert [index for index, _ in ran] == ["0", "1", "2", "3", "4", "5"]
        for pid in {int(pid) for index, pid in ran}:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

    def test_one_at_a_time_is_watched_by_the_main_thread(self) -> None:
        threads = values(run(2, lambda index: threading.current_thread().name, item_timeout=60)).values()

        assert threading.main_thread().name not in threads


class TestNothingWaitsForEver:
    def run(self, size: int, call: Callable[[int], Any], **arguments: Any) -> Batch:
        """Run a batch in a thread, so that a test that would wait for ever fails."""
        batch = Batch(size, call, **arguments)
        thread = threading.Thread(target=batch.run, daemon=True)
        thread.start()
        thread.join(TIME_OUT)
        assert not thread.is_alive()
        return batch

    @pytest.mark.parametrize(("way", "acting_so"), WAYS)
    def test_for_an_error_that_cannot_be_put_into_words(self, way: Any, acting_so: Any) -> None:
        batch = self.run(3, acting_so("a", UnreadableError(KeyboardInterrupt()), "b"), **way)

        assert (statuses(batch), errors(batch)) == ("SFS", {1: "UnreadableError"})

    @pytest.mark.parametrize(("way", "acting_so"), WAYS)
    def test_for_an_error_that_cannot_be_logged(self, way: Any, acting_so: Any) -> None:
        on_failure = mock.Mock(side_effect=SystemExit)
        batch = self.run(3, acting_so("a", ValueError("no"), "b"), on_failure=on_failure, **way)

        assert (statuses(batch), errors(batch)) == ("SFS", {1: "ValueError: no"})

    @pytest.mark.parametrize("ends", [SystemExit(3), KeyboardInterrupt()], ids=repr)
    def test_for_an_item_whose_own_task_ends_the_loop(self, ends: BaseException) -> None:
        async def call(index: int) -> None:
            await asyncio.gather(acting_async("a", ends, "b", "c")(index))
            await asyncio.sleep(0.01)

        assert statuses(self.run(4, call, is_async=every, concurrency=2)) == "SFSS"

    @pytest.mark.parametrize("stubborn", ["thread", "task"])
    def test_for_what_an_item_has_left_running(self, stubborn: str, monkeypatch: pytest.MonkeyPatch) -> None:
        async def call(index: int) -> Any:
            if stubborn == "task":
                left.append(asyncio.ensure_future(swallow_cancellation()))
                return index
            return await asyncio.wait_for(wait_in_a_thread(), 0.01)

        monkeypatch.setattr("airflow_fanout.execution_time.batch.CANCEL_SECONDS", 0.1)
        FOR_EVER.clear()
        left: list[Any] = []
        batch = self.run(3, call, is_async=every, concurrency=2)
        FOR_EVER.set()

        assert statuses(batch) == ("SSS" if stubborn == "task" else "FFF")
        assert batch.elapsed < 2

    @pytest.mark.parametrize(
        "way", [{}, {"is_async": lambda index: index % 2 == 0}], ids=["threads", "mixed"]
    )
    @pytest.mark.parametrize("most", [0, 1, 2])
    def test_for_more_threads_than_can_be_started(
        self, most: int, way: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def nothing() -> None:
            pass

        def call(index: int) -> Any:
            return nothing() if "is_async" in way and index % 2 == 0 else time.sleep(0.01)

        start, left = (
            threading.Thread.start,
            iter(range(most + 1 + len(way))),
        )  # the test's and the loop's own

        def start_some(thread: threading.Thread) -> None:
            if next(left, None) is None:
                message = "can't start new thread"
                raise RuntimeError(message)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_some)
        batch = self.run(6, call, concurrency=4, **way)

        expected = "".join("S" if index % 2 == 0 or index < 2 * most else "F" for index in range(6))
        assert statuses(batch) == (expected if way else "SSSSSS")

    def test_for_a_loop_that_cannot_be_made(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refusal = mock.Mock(side_effect=OSError("too many open files"))
        monkeypatch.setattr("asyncio.events.new_event_loop", refusal)
        with pytest.raises(OSError, match="too many open files"):
            run(3, acting_async("a", "b", "c"), is_async=every)

    @pytest.mark.parametrize("is_mixed", [False, True])
    def test_for_requests_that_are_given_up_or_fill_all_threads(
        self, comms: CommsDecoder[Any, Any], is_mixed: bool
    ) -> None:
        async def ask(index: int) -> None:
            for _ in range(3):
                with suppress(TimeoutError):
                    await asyncio.wait_for(comms.asend(GetVariable(key="awaited")), 0.001 if index % 3 else 9)
                await asyncio.to_thread(comms.send, GetVariable(key="in a thread"))

        def call(index: int) -> Any:
            is_plain = is_mixed and index % 2
            return comms.send(GetVariable(key="plain")) if is_plain else ask(index)

        batch = self.run(60, call, is_async=lambda index: not (is_mixed and index % 2), concurrency=20)

        assert errors(batch) == {}


@pytest.mark.usefixtures("comms")
def test_what_airflow_awaits_is_asked_in_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no public way; here it shows if Airflow asks in another one."""
    asked: list[str] = []

    def send(comms: object, message: object) -> XComResult:
        asked.append(threading.current_thread().name)
        return XComResult(key="return_value", value="a")

    monkeypatch.setattr(CommsDecoder, "send", send)
    value = asyncio.run(
        BaseXCom.aget_one(key="return_value", dag_id="d", task_id="t", run_id="r", map_index=-1)
    )

    assert (value, asked) == ("a", ["fan-out-requests_0"])


def test_a_success_that_turns_out_unusable_is_one_failure() -> None:
    batch = run(2, acting("a", "b"))
    batch.fail(1, "can't be stored")

    assert (statuses(batch), values(batch), errors(batch)) == ("SF", {0: "a"}, {1: "can't be stored"})
    assert batch.progress.startswith("2 of 2 items done, 1 failed")


@pytest.mark.parametrize(
    ("size", "done", "seconds", "text"),
    [
        pytest.param(
            100, 20, 10.0, "30 of 100 items done, 10 failed, 2.0/s, about 35 s left", id="on-the-way"
        ),
        pytest.param(11, 1, 2.0, "11 of 11 items done, 10 failed, 0.5/s", id="done"),
        pytest.param(15, 0, 0.0, "10 of 15 items done, 10 failed, 0.0/s", id="begun"),
    ],
)
def test_progress_is_a_line(size: int, done: int, seconds: float, text: str) -> None:
    with mock.patch.object(time, "monotonic", side_effect=[0.0, seconds]):
        batch = Batch(size, str)
        for index in range(10):
            batch.reuse(index, ItemResult(ITEM_FAILED))
        batch.ended.extend(range(done))

        assert batch.progress == text


class TestTheAlarm:
    """Airflow's, by ``execution_timeout``."""

    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setattr("airflow_fanout.execution_time.batch.RINGS", (0.05, 0.05))
        monkeypatch.setattr("airflow_fanout.execution_time.batch.GIVE_UP_AFTER", 0.05)
        before = signal.getsignal(signal.SIGALRM)
        yield
        signal.signal(signal.SIGALRM, before)

    def thread(self, deadline: float, give_up: Any = pytest.fail, *, is_running: bool = True) -> AlarmThread:
        batch = Batch(1, str, deadline=deadline)
        batch.is_running = is_running
        return AlarmThread(batch, give_up)

    def test_the_deadline_is_when_it_rings(self) -> None:
        assert alarm_deadline() == float("inf")
        with timeout(60):  # type: ignore[no-untyped-call]
            assert 59 < alarm_deadline() - time.monotonic() <= 60

    def test_rings_again_for_who_swallows_it(self) -> None:
        swallowed: list[AirflowTaskTimeout] = []

        def run() -> None:
            with timeout(0.05), self.thread(alarm_deadline()):  # type: ignore[no-untyped-call]
                try:
                    time.sleep(10)
                except AirflowTaskTimeout as error:
                    swallowed.append(error)
                    time.sleep(10)

        with pytest.raises(AirflowTaskTimeout):
            run()
        assert len(swallowed) == 1

    @pytest.mark.parametrize("is_running", [True, False], ids=["items-run", "they-are-reported"])
    def test_gives_up_on_who_does_not_end_and_interrupts_no_report(self, is_running: bool) -> None:
        given_up, swallowed = threading.Event(), 0
        with timeout(0.05), self.thread(alarm_deadline(), given_up.set, is_running=is_running):  # type: ignore[no-untyped-call]
            while not given_up.is_set():
                try:
                    given_up.wait(10)
                except AirflowTaskTimeout:
                    swallowed += 1

        assert swallowed == (3 if is_running else 1)

    @pytest.mark.parametrize("seconds", [float("inf"), 0.05], ids=["no-deadline", "ended-in-time"])
    def test_leaves_alone_who_ends_in_time(self, seconds: float) -> None:
        with self.thread(time.monotonic() + seconds):
            pass
        time.sleep(0.2)  # an alarm would end the test run
