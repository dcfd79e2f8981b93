"""The end of a task's time, for items that don't mind it."""

from __future__ import annotations

import math
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


FIRST_RING = 1.5
"""Seconds after the deadline; until then, who is interrupted may clean up."""

SECONDS_BETWEEN = 1.0

RINGS = 2


def alarm_deadline() -> float:
    """When ``execution_timeout``, which Airflow has set an alarm for, is over by ``time.monotonic``."""
    begin = time.monotonic()
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    return begin + left if left else math.inf


class AlarmThread:
    """
    A thread that rings Airflow's alarm again: an item may have swallowed its exception.

    :param is_running: Whether items run, who may be interrupted; what reports them may not.
    :param give_up: Called if it has not ended after the last ring either.
    """

    def __init__(
        self, deadline: float, *, is_running: Callable[[], bool], give_up: Callable[[], object]
    ) -> None:
        self._deadline, self._is_running, self._give_up = deadline, is_running, give_up
        self._ended = threading.Event()

    def __enter__(self) -> None:
        if self._deadline < math.inf:
            threading.Thread(target=self._run, daemon=True, name="fan-out-alarm").start()

    def __exit__(self, *exception: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        main, seconds = threading.main_thread().ident, self._deadline - time.monotonic() + FIRST_RING
        for _ in range(RINGS):
            if self._ended.wait(seconds):
                return
            if main is not None and self._is_running() and callable(signal.getsignal(signal.SIGALRM)):
                signal.pthread_kill(main, signal.SIGALRM)
            seconds = SECONDS_BETWEEN
        if not self._ended.wait(seconds):
            self._give_up()
