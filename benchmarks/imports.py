"""Times what a Dag file imports, in a process that has what every task's has; run as one of its own."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

from benchmarks.forks import in_fork
from benchmarks.pairs import alternated

TASK_MODULES = (
    "airflow.sdk.execution_time.task_runner",
    "airflow.providers.standard.operators.empty",
    "airflow.providers.standard.operators.python",
)


def by_hand() -> float:
    """Milliseconds of CPU for what a Dag file without this package imports."""
    began = time.process_time()
    from airflow.sdk import TaskGroup, dag, task

    task(by_hand)
    del TaskGroup, dag
    return (time.process_time() - began) * 1000


def ours() -> float:
    """Milliseconds of CPU for the same, and groups and fan-ins."""
    milliseconds = by_hand()
    began = time.process_time()
    from airflow_fanout import FanInOperator, FanOutGroup

    del FanInOperator, FanOutGroup
    return milliseconds + (time.process_time() - began) * 1000


def main(output: str, runs: str) -> None:
    """Write pairs of milliseconds; into a file, for Airflow logs to standard output."""
    for module in TASK_MODULES:
        importlib.import_module(module)
    pairs = alternated(int(runs), lambda: in_fork(ours), lambda: in_fork(by_hand))
    Path(output).write_text(json.dumps(pairs), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
