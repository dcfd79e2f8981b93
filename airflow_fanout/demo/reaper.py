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

TIMEOUT = 10.0
"""Seconds after which killing is given up."""


def find(marker: str) -> list[psutil.Process]:
    """Find the living processes of this user whose marker starts with ``marker``."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARKER, "").startswith(marker):
                processes.append(process)
    return processes


def kill(marker: str) -> None:
    """Kill those processes, and what they start meanwhile."""
    deadline = time.monotonic() + TIMEOUT
    while (processes := find(marker)) and time.monotonic() < deadline:
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=0.2)


def main(marker: str, home: str = "") -> None:
    """Wait until the owner closes its end of the pipe, or is gone; then kill the rest and remove the home."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    kill(marker)
    if home:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
