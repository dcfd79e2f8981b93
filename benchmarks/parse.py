"""Measures what a Dag with many branches takes to parse and to serialize."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_fanout.demo.embedded import isolated_environment
from benchmarks.pairs import Comparison, Pair, Target
from benchmarks.twins import DAGS, FAN_OUT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["measure_parse"]

PAIRS_PER_RUN = {10: 1, 200: 5, 1_000: 1}
"""By the number of branches: a parse takes a tenth of a second, one pair alone would measure hiccups."""

TARGETS = {200: Target(of="ratio", at_most=1.25)}


def measure_parse(runs: int) -> list[Comparison]:
    """
    Parse in forks of a process that has Airflow imported, as the Dag processor does.

    :param runs: Number of runs, each of several pairs.
    """
    return [
        comparison
        for branches, pairs in PAIRS_PER_RUN.items()
        for comparison in _measure(branches, runs * pairs)
    ]


def _measure(branches: int, pairs: int) -> Iterator[Comparison]:
    with tempfile.TemporaryDirectory(prefix="airflow-fanout-benchmarks-") as folder:
        seconds = _parsed(Path(folder), branches, pairs)
    yield Comparison(
        name=f"parse, {branches:,} branches (CPU)",
        unit="s",
        pairs=tuple(Pair(ours=ours[0], by_hand=by_hand[0]) for ours, by_hand in seconds),
        target=TARGETS.get(branches),
    )
    yield Comparison(
        name=f"parse and serialize, {branches:,} branches (CPU)",
        unit="s",
        pairs=tuple(Pair(ours=sum(ours), by_hand=sum(by_hand)) for ours, by_hand in seconds),
        target=TARGETS.get(branches),
    )


def _parsed(home: Path, branches: int, pairs: int) -> list[tuple[list[float], list[float]]]:
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
                extra={
                    **environment(branches=branches, numbers=0),
                    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
                },
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
