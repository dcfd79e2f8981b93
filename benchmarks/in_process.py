"""Measures what a batch, and a reader of slow storage, cost within one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_fanout.demo.embedded import isolated_environment
from benchmarks.in_process_sizes import (
    ASYNC_AT_ONCE,
    COMBINED_ITEMS,
    COMBINED_TASKS,
    SECONDS_OF_A_READ,
    SECONDS_OF_A_WAIT,
    SECONDS_OF_AN_ITEM,
    STORED_VALUES,
    THREADS_AT_ONCE,
    WAITING_ITEMS,
)
from benchmarks.pairs import Comparison, Pair, Target
from benchmarks.slow_storage import BASE
from benchmarks.twins import DAGS, environment

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["measure_in_process"]

OVERHEAD_AT_MOST = 50
"""Microseconds of an item."""

ASYNC_AT_MOST = 1 / 15
THREADS_AT_MOST = 1 / 10
CHECKPOINTS_AT_MOST = 0.02
STORAGE_AT_MOST = 1 / 8
COMBINED_AT_MOST = 2
"""CPU seconds."""

WANTED = {
    "batch": ("overhead", "on_an_event_loop", "in_threads", "checkpoints", "combined"),
    "storage": ("storage",),
}

ONE_BY_ONE = "(by hand: one by one)"

ROWS = {
    "overhead": (
        "a trivial item in a batch (by hand: in a loop)",
        "µs",
        Target(of="difference", at_most=OVERHEAD_AT_MOST),
    ),
    "on_an_event_loop": (
        f"{WAITING_ITEMS} async items of {SECONDS_OF_A_WAIT} s, {ASYNC_AT_ONCE} at once {ONE_BY_ONE}",
        "s",
        Target(of="ratio", at_most=ASYNC_AT_MOST),
    ),
    "in_threads": (
        f"{WAITING_ITEMS} items of {SECONDS_OF_A_WAIT} s, {THREADS_AT_ONCE} threads {ONE_BY_ONE}",
        "s",
        Target(of="ratio", at_most=THREADS_AT_MOST),
    ),
    "checkpoints": (
        f"checkpoints, {SECONDS_OF_AN_ITEM * 1000:g} ms items (by hand: the whole batch)",
        "s",
        Target(of="ratio", at_most=CHECKPOINTS_AT_MOST),
    ),
    "combined": (
        f"fan-in of {COMBINED_ITEMS:,} combined items in {COMBINED_TASKS} tasks (by hand: value by value)",
        "CPU s",
        Target(of="ours", at_most=COMBINED_AT_MOST),
    ),
    "storage": (
        f"{STORED_VALUES} stored values, {SECONDS_OF_A_READ * 1000:g} ms each {ONE_BY_ONE}",
        "s",
        Target(of="ratio", at_most=STORAGE_AT_MOST),
    ),
}
"""What each measurement is called, its unit, and what is promised."""


def measure_in_process(wanted: Collection[str], tell: Callable[[str], None]) -> list[Comparison]:
    """
    Measure in a process of its own, which no server answers.

    :param wanted: ``"batch"``, ``"storage"`` or both.
    :param tell: Shows a line of progress.
    """
    names = [name for group, its in WANTED.items() if group in wanted for name in its]
    found = []
    with tempfile.TemporaryDirectory(prefix="airflow-fanout-benchmarks-") as folder:
        for name in names:
            row, unit, target = ROWS[name]
            tell(row)
            pairs = tuple(Pair(ours=ours, by_hand=by_hand) for ours, by_hand in _measured(Path(folder), name))
            found.append(Comparison(name=row, unit=unit, pairs=pairs, target=target))
    return found


def _measured(home: Path, name: str) -> list[tuple[float, float]]:
    output, log = home / f"{name}.json", home / f"{name}.txt"
    with log.open("wb") as said:
        ended = subprocess.run(
            [sys.executable, "-m", "benchmarks.one_process", str(output), name],
            env=isolated_environment(
                os.environ,
                home=home,
                extra={
                    **environment(branches=0, numbers=0),
                    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
                    "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": BASE,
                    "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
                },
            ),
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode:
        message = f"{name} can't be measured:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}"
        raise RuntimeError(message)
    measured: dict[str, list[tuple[float, float]]] = json.loads(output.read_text(encoding="utf-8"))
    return measured[name]
