"""Ends all that an embedded Airflow has started; runs beside it and outlives its owner."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from contextlib import suppress

import psutil

MARKER = "AIRFLOW_FANOUT_EMBEDDED"
"""
Environment variable by which the processes are known.

Neither parents nor process groups would do: Airflow puts each task in a group of its own, ``BashOperator``
starts a session, and an orphan's parent is init. The environment is inherited by all of them.
"""


def find(marker: str) -> list[psutil.Process]:
    """
    Find the living processes whose marker starts with ``marker``.

    :param marker: Beginning of the value of ``AIRFLOW_FANOUT_EMBEDDED``.
    :return: The processes; of other users' processes none can be read, so none is found.
    """
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARKER, "").startswith(marker):
                found.append(process)
    return found


def kill(marker: str, *, timeout: float = 10.0) -> list[psutil.Process]:
    """
    Kill those processes, and what they start meanwhile.

    :param marker: Beginning of the value of ``AIRFLOW_FANOUT_EMBEDDED``.
    :param timeout: Seconds after which to give up.
    :return: What is left, which nothing can kill just now.
    """
    deadline = time.monotonic() + timeout
    while (found := find(marker)) and time.monotonic() < deadline:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(found, timeout=0.2)
    return found


def main(marker: str, home: str = "") -> None:
    """
    Wait until the owner closes its end of the pipe, or is gone, then leave nothing behind.

    :param marker: Beginning of the value of ``AIRFLOW_FANOUT_EMBEDDED``.
    :param home: Directory to remove at the end; empty to leave it.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    kill(marker)
    if home:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
