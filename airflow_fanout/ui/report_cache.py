"""Answers made in a few threads; reports once however many ask at the same time, and kept for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from concurrent.futures import Future

    Content = tuple[bytes, ...]
    """A report in each form in which it is given out."""

MAKERS = 2  # answers that are made at the same time in one process of the API server
MOST_WAITING = 16  # answers that are made or wait for a maker; more are refused
KEPT_SECONDS = 2.0
KEPT_BYTES = 32 * 1024 * 1024


Answer = TypeVar("Answer")


class BusyError(Exception):
    """Raised when too many answers are being made for another one to be begun."""


class Makers:
    """The few threads in which answers are made, so that others of the API server stay free."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(MAKERS, thread_name_prefix="fan-out")
        self._lock = Lock()
        self._waiting = 0

    def begin(self, make: Callable[[], Answer]) -> Future[Answer]:
        """
        Begin to make an answer, or have it wait for a thread.

        :raises BusyError: If too many others are being made.
        """
        with self._lock:
            if self._waiting >= MOST_WAITING:
                raise BusyError
            self._waiting += 1
        making = self._threads.submit(make)
        making.add_done_callback(self._end)
        return making

    async def make(self, make: Callable[[], Answer]) -> Answer:
        """Make an answer; waiting for it holds no thread. Errors are those of :meth:`begin`."""
        return await asyncio.shield(asyncio.wrap_future(self.begin(make)))

    def _end(self, _: Future[Answer]) -> None:
        with self._lock:
            self._waiting -= 1


@dataclass(frozen=True, kw_only=True)
class _Report:
    """
    A report as it was made.

    :param version: What it was made of, if nothing more can come; None if something can.
    :param fresh_until: Until when nobody looks whether something has changed, by ``time.monotonic``.
    """

    content: Content
    version: Hashable | None
    fresh_until: float


class ReportCache:
    """
    Makes reports, and keeps them.

    A report is given out unseen for two seconds, or for as long as it took to make if that was longer. After
    that it is made again, unless the run had ended and has not changed since.

    :param version_of: Tells what a report would be made of; None while the run goes on.
    :param make: Makes a report.
    :param makers: The threads in which that happens.
    """

    def __init__(
        self,
        version_of: Callable[[str, str], Hashable | None],
        make: Callable[[str, str], Content],
        makers: Makers,
    ) -> None:
        self._version_of, self._make, self._makers = version_of, make, makers
        self._lock = Lock()
        self._reports: OrderedDict[tuple[str, str], _Report] = OrderedDict()
        self._waiting: dict[tuple[str, str], Future[Content]] = {}
        self._changes = 0  # what began to be made before the last one is not kept

    def forget(self, dag_id: str, run_id: str) -> None:
        """Have a run's report made again: somebody has just changed the run."""
        with self._lock:
            self._changes += 1
            self._reports.pop((dag_id, run_id), None)
            self._waiting.pop((dag_id, run_id), None)

    async def get(self, dag_id: str, run_id: str) -> Content:
        """
        Return a run's report, in each of its forms; waiting for it holds no thread.

        :raises BusyError: If too many others are being made.
        """
        run = dag_id, run_id
        with self._lock:
            report = self._reports.get(run)
            if report is not None and time.monotonic() < report.fresh_until:
                return report.content
            waiting = self._waiting.get(run)
            if waiting is None:
                renew = partial(self._renewed, run, report, self._changes)
                waiting = self._waiting[run] = self._makers.begin(renew)
                waiting.add_done_callback(partial(self._end_waiting, run))
        # One who goes away takes the report from nobody else.
        return await asyncio.shield(asyncio.wrap_future(waiting))

    def _end_waiting(self, run: tuple[str, str], waiting: Future[Content]) -> None:
        if self._waiting.get(run) is waiting:
            del self._waiting[run]

    def _renewed(self, run: tuple[str, str], report: _Report | None, changes: int) -> Content:
        begin = time.monotonic()
        version = self._version_of(*run)
        is_unchanged = report is not None and version is not None and report.version == version
        content = report.content if report is not None and is_unchanged else self._make(*run)
        now = time.monotonic()
        fresh_until = now + max(KEPT_SECONDS, now - begin)
        with self._lock:
            if changes != self._changes:
                return content
            self._reports[run] = _Report(content=content, version=version, fresh_until=fresh_until)
            self._reports.move_to_end(run)
            while sum(len(form) for report in self._reports.values() for form in report.content) > KEPT_BYTES:
                self._reports.popitem(last=False)
        return content
