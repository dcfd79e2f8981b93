"""Reports worked out in a process of its own: threads of the API server would wait for its interpreter."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import traceback
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, Pipe
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.group_report import to_json
from airflow_fanout.reports.history import group_traces
from airflow_fanout.reports.run_report import report_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from airflow_fanout.reports.group_capacity import SchedulingLimits
    from airflow_fanout.reports.history import GroupTrace
    from airflow_fanout.reports.runs import RunFacts

COMPRESSION = 5  # as Airflow's own answers
MOST_SECONDS = 120.0  # for one report
NICE = 10  # where cores are few, the API server goes first
LARGE = 8_000_000  # bytes of what a report is made of, the memory that it takes being some ten times that

ROOT = Path(__file__).parents[2]
LAUNCH = """
import sys
sys.path.append(sys.argv[1])
from airflow_fanout.ui.reporter import serve
serve(int(sys.argv[2]))
"""

Answers = tuple[bytes, bytes]
"""A report, compressed: for who may not clear, and for who may."""


class ReporterError(Exception):
    """Raised when a report could not be worked out; its text is for people."""


def answers(facts: RunFacts, surroundings: SchedulingLimits) -> Answers:
    """Work out what the tab is answered."""
    report = _json(report_of(facts, surroundings))
    texts = (f'{{"report":{report},"may_clear":{may}}}' for may in ("false", "true"))
    forbidden, allowed = (gzip.compress(text.encode(), COMPRESSION, mtime=0) for text in texts)
    return forbidden, allowed


def compressed_json(shape: object) -> bytes:
    """Turn a shape of the report into what the tab is answered, compressed."""
    return gzip.compress(_json(shape).encode(), COMPRESSION, mtime=0)


def _json(shape: object) -> str:
    return json.dumps(shape, separators=(",", ":"), default=to_json, allow_nan=False)


class Reporter:
    """
    A process that works out one report at a time; it starts with the first, and ends with its parent.

    It imports nothing of Airflow, and is told nothing of its configuration.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    def work_out(self, facts: RunFacts, surroundings: SchedulingLimits) -> Answers:
        """
        Have a report worked out, while other threads go on.

        :raises ReporterError: If that takes too long, or the process ends.
        """
        worked_out: Answers = self._have_done(answers, facts, surroundings)
        return worked_out

    def trace(self, facts: RunFacts, now: datetime) -> list[GroupTrace]:
        """Have taken from a run what its Dag's history needs; errors are those of :meth:`work_out`."""
        traces: list[GroupTrace] = self._have_done(partial(group_traces, now=now), facts)
        return traces

    def _have_done(self, function: Callable[..., Any], *arguments: Any) -> Any:
        task = ForkingPickler.dumps((function, arguments))
        with self._lock:
            try:
                return self._ask_again(task)
            finally:
                if len(task) > LARGE:  # the memory is given back
                    self._end()

    def _ask_again(self, task: memoryview) -> Any:
        """Ask the process, and, if it had ended since the last report, another one."""
        with suppress(EOFError, OSError):
            return self._ask(task)
        self._end()
        try:
            return self._ask(task)
        except (EOFError, OSError) as error:
            message = f"The process that works reports out ended with exit code {self._end()}"
            raise ReporterError(message) from error

    def _ask(self, task: memoryview) -> Any:
        if self._connection is None:
            self._connection = self._start()
        self._connection.send_bytes(task)
        if not self._connection.poll(MOST_SECONDS):
            self._end()
            message = f"The report was not worked out within {MOST_SECONDS:g} seconds"
            raise ReporterError(message)
        error = self._connection.recv_bytes().decode()
        if error:
            message = f"A report could not be worked out:\n{error}"
            raise RuntimeError(message)
        return self._connection.recv()

    def _start(self) -> Connection:
        own, other = Pipe()
        arguments = [sys.executable, "-P", "-c", LAUNCH, str(ROOT), str(other.fileno())]
        kept = {name: value for name, value in os.environ.items() if "AIRFLOW" not in name}
        with other:
            self._process = subprocess.Popen(
                arguments, env=kept, stdin=subprocess.DEVNULL, pass_fds=[other.fileno()]
            )
        return own

    def _end(self) -> int | None:
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if connection is not None:
            connection.close()
        if process is None:
            return None
        process.kill()
        return process.wait()


def serve(descriptor: int) -> None:
    """Work out reports until nobody asks for any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, meant for the parent
    os.nice(NICE)
    with Connection(descriptor) as connection, suppress(EOFError, OSError):
        while True:
            # Nothing of a report is kept until the next one.
            error, *done = _done(*connection.recv())
            connection.send_bytes(error)
            for result in done:
                connection.send(result)


def _done(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return an error, which is empty if there is none, and what a function returns."""
    try:
        return b"", function(*arguments)
    except Exception:
        return (traceback.format_exc().encode(),)
