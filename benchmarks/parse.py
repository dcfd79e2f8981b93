"""Measures what a Dag with many branches takes to parse and to serialize."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from airflow_fanout.embedded_environment import isolated_environment
from benchmarks.pairs import Comparison, Pair, Target
from benchmarks.twins import DAGS, FAN_OUT, environment

__all__ = ["measure_parse"]

BRANCHES = 200
PAIRS_PER_RUN = 5
"""A parse takes a tenth of a second: one pair alone would measure the machine's hiccups."""

AT_MOST = 1.25


def measure_parse(runs: int) -> list[Comparison]:
    """
    Parse in forks of a process that has Airflow imported, as the Dag processor does.

    :param runs: Number of runs, each of several pairs.
    """
    with tempfile.TemporaryDirectory(prefix="airflow-fanout-benchmarks-") as folder:
        seconds = _parsed(Path(folder), runs * PAIRS_PER_RUN)
    target = Target(of="ratio", at_most=AT_MOST)
    return [
        Comparison(
            name=f"parse, {BRANCHES} branches (CPU)",
            unit="s",
            pairs=tuple(Pair(ours=ours[0], by_hand=by_hand[0]) for ours, by_hand in seconds),
            target=target,
        ),
        Comparison(
            name=f"parse and serialize, {BRANCHES} branches (CPU)",
            unit="s",
            pairs=tuple(Pair(ours=sum(ours), by_hand=sum(by_hand)) for ours, by_hand in seconds),
            target=target,
        ),
    ]


def _parsed(home: Path, pairs: int) -> list[tuple[list[float], list[float]]]:
    output, log = home / "seconds.json", home / "log.txt"
    with log.open("wb") as said:
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "benchmarks.dag_processor",
                str(output),
                str(pairs),
                str(FAN_OUT.ours),
                str(FAN_OUT.by_hand),
            ],
            env=isolated_environment(
                os.environ,
                home=home,
                dags_folder=DAGS,
                base_url="http://localhost",  # nothing answers there, and nothing asks
                database_url=f"sqlite:///{home / 'airflow.db'}",
                extra=environment(branches=BRANCHES, numbers=0),
            ),
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode:
        message = f"The Dags can't be parsed:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}"
        raise RuntimeError(message)
    seconds: list[tuple[list[float], list[float]]] = json.loads(output.read_text(encoding="utf-8"))
    return seconds
