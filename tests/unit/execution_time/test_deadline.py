from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout

from airflow_fanout.execution_time import deadline
from airflow_fanout.execution_time.deadline import AlarmThread, alarm_deadline

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(deadline, "FIRST_RING", 0.05)
    monkeypatch.setattr(deadline, "SECONDS_BETWEEN", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.signal(signal.SIGALRM, before)


def alarm(seconds: float, give_up: Callable[[], object], *, is_running: bool = True) -> AlarmThread:
    return AlarmThread(seconds, is_running=lambda: is_running, give_up=give_up)


def test_the_deadline_is_when_airflows_alarm_rings() -> None:
    assert alarm_deadline() == float("inf")
    with timeout(60):  # type: ignore[no-untyped-call]
        assert 59 < alarm_deadline() - time.monotonic() <= 60


def test_who_swallows_a_timeout_is_interrupted_again() -> None:
    swallowed: list[AirflowTaskTimeout] = []

    def run() -> None:
        with timeout(0.05), alarm(alarm_deadline(), pytest.fail):  # type: ignore[no-untyped-call]
            try:
                time.sleep(10)
            except AirflowTaskTimeout as error:
                swallowed.append(error)
                time.sleep(10)

    with pytest.raises(AirflowTaskTimeout):
        run()
    assert len(swallowed) == 1


def test_it_gives_up_on_who_swallows_all_of_them() -> None:
    given_up, swallowed = threading.Event(), 0
    with timeout(0.05), alarm(alarm_deadline(), given_up.set):  # type: ignore[no-untyped-call]
        while not given_up.is_set():
            try:
                given_up.wait(10)
            except AirflowTaskTimeout:
                swallowed += 1

    assert swallowed == 3


def test_it_interrupts_no_report_but_gives_up_on_it() -> None:
    given_up = threading.Event()
    with alarm(time.monotonic() + 0.05, given_up.set, is_running=False):
        assert given_up.wait(10)  # an alarm would end the test run


@pytest.mark.parametrize("seconds", [float("inf"), 0.05], ids=["no-deadline", "ended-in-time"])
def test_it_leaves_alone_who_ends_in_time(seconds: float) -> None:
    with alarm(time.monotonic() + seconds, pytest.fail):
        pass
    time.sleep(0.2)  # an alarm would end the test run
