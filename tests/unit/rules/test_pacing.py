from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from airflow.models.taskinstance import TaskInstance
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules.pacing import ItemQueue, Wait, retry_seconds, seconds_in


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
        assert queue.take(6) == Wait(1)
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
