from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from airflow_fanout.ui import report_cache
from airflow_fanout.ui.report_cache import KEPT_SECONDS, MAKERS, MOST_WAITING, BusyError, Makers, ReportCache

if TYPE_CHECKING:
    from collections.abc import Callable

RUN = ("etl", "of_friday")


class Making:
    """Makes reports that say how often they were made; ``version`` is that of the run."""

    def __init__(self) -> None:
        self.counts: Counter[Any] = Counter()
        self.at_once = self.most_at_once = 0
        self.version: int | None = None
        self.may_end = threading.Event()
        self.may_end.set()
        self.error: Exception | None = None
        self._lock = threading.Lock()

    def make(self, dag_id: str, run_id: str) -> tuple[bytes, ...]:
        with self._lock:
            self.counts[dag_id, run_id] += 1
            self.at_once += 1
            self.most_at_once = max(self.at_once, self.most_at_once)
        self.may_end.wait(10)
        with self._lock:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        return (f"{run_id} {self.counts[dag_id, run_id]}".encode(),)


@pytest.fixture
def making() -> Making:
    return Making()


@pytest.fixture
def cache(making: Making) -> ReportCache:
    return ReportCache(lambda *_: making.version, making.make, Makers())


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock forward by some seconds."""
    moved = [0.0]
    clock = mock.Mock(monotonic=lambda: time.monotonic() + moved[0])
    monkeypatch.setattr(report_cache, "time", clock)
    return lambda seconds: moved.__setitem__(0, moved[0] + seconds)


def ask(cache: ReportCache, *runs: tuple[str, str]) -> list[Any]:
    async def all_at_once() -> list[Any]:
        return await asyncio.gather(*(cache.get(*run) for run in runs), return_exceptions=True)

    return asyncio.run(all_at_once())


def test_a_report_is_made_once_for_all_who_ask_at_the_same_time(cache: ReportCache, making: Making) -> None:
    assert ask(cache, *[RUN] * 40) == [(b"of_friday 1",)] * 40
    assert making.counts == {RUN: 1}


def test_reports_of_several_runs_are_made_two_at_a_time(cache: ReportCache, making: Making) -> None:
    making.may_end.clear()
    threading.Timer(0.3, making.may_end.set).start()
    runs = [("etl", f"run_{number}") for number in range(6)]

    assert ask(cache, *runs) == [(f"run_{number} 1".encode(),) for number in range(6)]
    assert making.most_at_once == MAKERS


def test_more_than_can_wait_are_refused_and_the_others_served(cache: ReportCache, making: Making) -> None:
    making.may_end.clear()
    threading.Timer(0.3, making.may_end.set).start()
    answers = ask(cache, *(("etl", f"run_{number}") for number in range(MOST_WAITING + 3)))

    assert [type(answer) for answer in answers] == [tuple] * MOST_WAITING + [BusyError] * 3


def test_of_a_run_that_goes_on_it_is_made_again_when_it_is_old(
    cache: ReportCache, later: Callable[[float], None]
) -> None:
    first = ask(cache, RUN)
    second = ask(cache, RUN)
    later(KEPT_SECONDS + 1)

    assert (first, second, ask(cache, RUN)) == ([(b"of_friday 1",)], [(b"of_friday 1",)], [(b"of_friday 2",)])


def test_of_a_run_that_has_ended_it_is_made_again_only_after_a_change(
    cache: ReportCache, making: Making, later: Callable[[float], None]
) -> None:
    answers = []
    for making.version in (1, 1, 2, None):
        answers += ask(cache, RUN)
        later(KEPT_SECONDS + 1)

    assert answers == [(b"of_friday 1",), (b"of_friday 1",), (b"of_friday 2",), (b"of_friday 3",)]


def test_what_was_changed_is_read_again_at_once(cache: ReportCache) -> None:
    ask(cache, RUN)
    cache.forget(*RUN)

    assert ask(cache, RUN) == [(b"of_friday 2",)]


def test_what_began_to_be_read_before_a_change_is_neither_kept_nor_waited_for(
    cache: ReportCache, making: Making
) -> None:
    async def change() -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        making.may_end.clear()
        before = asyncio.create_task(cache.get(*RUN))
        await asyncio.sleep(0.05)
        cache.forget(*RUN)
        after = asyncio.create_task(cache.get(*RUN))
        await asyncio.sleep(0.05)
        making.may_end.set()
        return await before, await after

    before, after = asyncio.run(change())
    assert making.counts == {RUN: 2}
    assert ask(cache, RUN) == [after] == [(b"of_friday 2",)]
    assert before


def test_an_error_reaches_all_who_asked_and_is_not_kept(cache: ReportCache, making: Making) -> None:
    making.error = LookupError("no such run")
    making.may_end.clear()
    threading.Timer(0.1, making.may_end.set).start()
    assert [str(answer) for answer in ask(cache, RUN, RUN)] == ["no such run"] * 2

    making.error = None
    assert ask(cache, RUN) == [(b"of_friday 2",)]


def test_one_who_goes_away_takes_it_from_nobody_else(cache: ReportCache, making: Making) -> None:
    async def go_away() -> tuple[bytes, ...]:
        making.may_end.clear()
        gone, stays = asyncio.create_task(cache.get(*RUN)), asyncio.create_task(cache.get(*RUN))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.sleep(0.05)
        making.may_end.set()
        return await stays

    assert asyncio.run(go_away()) == (b"of_friday 1",)


def test_the_oldest_go_when_there_are_too_many(
    cache: ReportCache, making: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_cache, "KEPT_BYTES", 3 * len(b"run_0 1"))
    for number in range(4):
        ask(cache, ("etl", f"run_{number}"))
    ask(cache, ("etl", "run_3"), ("etl", "run_0"))

    assert making.counts["etl", "run_3"] == 1
    assert making.counts["etl", "run_0"] == 2
