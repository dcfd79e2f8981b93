from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from airflow.models.taskinstance import TaskInstance
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules.pacing import ItemQueue, Pace, Wait, most_tasks, retry_seconds, seconds_in


def took(queue: ItemQueue, now: float) -> list[Any]:
    """What starts at a time, up to the first that doesn't."""
    starts: list[Any] = []
    while not starts or isinstance(starts[-1], int):
        starts.append(queue.take(now))
    return starts


class TestItemQueue:
    def test_items_start_in_order(self) -> None:
        assert took(ItemQueue([3, 1, 2]), 0) == [3, 1, 2, None]

    def test_one_that_is_put_back_starts_first_once_its_time_has_come(self) -> None:
        queue = ItemQueue(range(4), may_return=True)
        assert [queue.take(0), queue.take(0)] == [0, 1]
        queue.put_back(0, 5)
        assert queue.take(4.9) == 2
        assert took(queue, 5) == [0, 3, Wait(math.inf)]

    def test_those_put_back_start_by_their_time(self) -> None:
        queue = ItemQueue(range(3), may_return=True)
        assert took(queue, 0) == [0, 1, 2, Wait(math.inf)]
        for index, when in enumerate([7, 9, 8]):
            queue.put_back(index, when)
        assert queue.take(6) == Wait(1, is_idle=True)
        assert took(queue, 8.5) == [0, 2, Wait(0.5)]

    def test_the_end_waits_for_what_may_come_back(self) -> None:
        queue = ItemQueue(range(2), may_return=True)
        assert took(queue, 0) == [0, 1, Wait(math.inf)]
        queue.drop()
        assert queue.take(0) == Wait(math.inf)
        queue.drop()
        assert queue.take(0) is None

    def test_nothing_is_waited_for_that_never_comes_back(self) -> None:
        assert took(ItemQueue(range(2)), 0) == [0, 1, None]


RATES = [0.2, 0.5, 1, 1.5, 2, 3.7, 10, 64]


def starts_of(share: float, lives: list[list[float]], begin: float) -> list[float]:
    """When the items of one task start that begins anew after each life, on a clock that nobody waits for."""
    starts, now = [], begin
    for busy_times in lives:
        pace = Pace(share, now)
        for busy in busy_times:
            while seconds := pace.wait(now):
                now += seconds
            pace.start()
            starts.append(now)
            now += busy
    return starts


@st.composite
def shared_rates(draw: st.DrawFn) -> tuple[float, list[float]]:
    """A rate, and when the items of all tasks that share it start; each may be killed, and begin anew."""
    rate = draw(st.sampled_from(RATES))
    tasks = draw(st.integers(1, min(6, most_tasks(rate))))
    busy = st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0, 7.0])
    lives = st.lists(st.lists(busy, max_size=40), max_size=4)
    begins = draw(st.lists(st.sampled_from([0.0, 0.1, 0.9, 2.5]), min_size=tasks, max_size=tasks))
    return rate, sorted(start for begin in begins for start in starts_of(rate / tasks, draw(lives), begin))


class TestPace:
    @given(shared=shared_rates())
    def test_no_second_sees_more_than_twice_the_rate(self, shared: tuple[float, list[float]]) -> None:
        rate, starts = shared

        for first in starts:
            in_a_second = [start for start in starts if first <= start < first + 1 - 1e-6]
            assert len(in_a_second) <= max(1, 2 * rate)

    @pytest.mark.parametrize("rate", RATES)
    def test_all_of_the_rate_is_used_by_one_who_always_wants_more(self, rate: float) -> None:
        starts = starts_of(rate, [[0.0] * 1000], 0.0)

        assert starts[-1] == pytest.approx(1000 / rate)
        assert len({round(start * rate, 3) for start in starts}) == 1000  # one after another, evenly

    @pytest.mark.parametrize("rate", [2, 3.7, 10, 64])
    def test_what_was_not_used_is_made_up_for_within_a_second_at_most(self, rate: float) -> None:
        starts = starts_of(rate, [[60.0, *[0.0] * 100]], 0.0)

        burst = [start for start in starts if start == starts[1]]
        assert len(burst) == int(rate)

    def test_nothing_is_saved_up_at_the_begin(self) -> None:
        assert starts_of(4, [[0.0, 0.0], [0.0]], 7.0) == [7.25, 7.5, 7.75]


def test_a_queue_keeps_to_a_pace_with_every_try() -> None:
    queue = ItemQueue(range(3), may_return=True, pace=Pace(2, 10))

    assert queue.take(10) == Wait(0.5, is_for_rate=True, is_idle=True)
    assert queue.take(10.5) == 0
    assert queue.take(10.75) == Wait(0.25, is_for_rate=True)
    queue.put_back(0, 10.75)
    assert queue.take(10.75) == Wait(0.25, is_for_rate=True, is_idle=True)
    assert queue.take(11) == 0
    queue.put_back(0, 99)
    assert took(queue, 13) == [1, 2, Wait(86)]


def test_a_duration_is_a_timedelta_or_seconds() -> None:
    assert [seconds_in(1.5), seconds_in(timedelta(minutes=1)), seconds_in(0)] == [1.5, 60, 0]


@given(
    tries=st.integers(1, 2000),
    delay=st.sampled_from([0, 0.25, 1, 30, 300]),
    multiplier=st.sampled_from([0, 1, 1.5, 2, 10]),
    most=st.none() | st.sampled_from([0, 2, 1000]),
)
def test_an_item_waits_as_long_as_airflow_lets_a_task_wait(
    tries: int, delay: float, multiplier: float, most: float | None
) -> None:
    end = datetime(2026, 1, 1, tzinfo=UTC)
    task = mock.Mock(
        spec=["retry_delay", "retry_exponential_backoff", "max_retry_delay"],
        retry_delay=timedelta(seconds=delay),
        retry_exponential_backoff=multiplier,
        max_retry_delay=None if most is None else timedelta(seconds=most),
    )
    ti: Any = mock.Mock(
        spec=TaskInstance, task=task, try_number=tries, end_date=end, retry_delay_override=None
    )
    ti.dag_id, ti.task_id, ti.logical_date, ti.log = "d", "t", end, mock.Mock(spec=["warning"])
    due = TaskInstance.next_retry_datetime(ti)  # type: ignore[no-untyped-call]

    assert (due - end).total_seconds() == retry_seconds(
        tries,
        delay,
        multiplier=multiplier,
        most=most,
        ceiling=24 * 60 * 60,
        identity=f"d#t#{end}#{tries}",
    )
