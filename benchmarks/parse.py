"""Measures what a Dag file imports, and what one with many branches takes to parse and to serialize."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_fanout.demo.embedded import isolated_environment
from benchmarks.pairs import Comparison, Pair, Target
from benchmarks.twins import DAGS, FAN_OUT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["measure_parse"]

IMPORT_AT_MOST = 15
"""Milliseconds more than without this package."""

STEPS = {"parse": 1.25, "serialize": 1.1}
"""What the Dag processor does with a file, and how many times as long as by hand it may take."""

PROMISED = 200
"""Number of branches that the targets are for."""

IMPORTS_PER_RUN = 5
PAIRS_PER_RUN = {10: 1, 200: 5, 1_000: 1}
"""By the number of branches: a parse takes a tenth of a second, one pair alone would measure hiccups."""


def measure_parse(runs: int) -> list[Comparison]:
    """
    Import and parse in forks of a process that has Airflow imported, as the Dag processor does.

    :param runs: Number of runs, each of several pairs.
    """
    with tempfile.TemporaryDirectory(prefix="airflow-fanout-benchmarks-") as folder:
        home = Path(folder)
        return [
            _imports(home, runs * IMPORTS_PER_RUN),
            *(
                comparison
                for branches, pairs in PAIRS_PER_RUN.items()
                for comparison in _measure(home, branches, runs * pairs)
            ),
        ]


def _imports(home: Path, pairs: int) -> Comparison:
    milliseconds: list[list[float]] = _run(home, "benchmarks.imports", str(pairs))
    return Comparison(
        name="import of what a Dag file needs (CPU)",
        unit="ms",
        pairs=tuple(Pair(ours=ours, by_hand=by_hand) for ours, by_hand in milliseconds),
        target=Target(of="difference", at_most=IMPORT_AT_MOST),
    )


def _measure(home: Path, branches: int, pairs: int) -> Iterator[Comparison]:
    files = str(FAN_OUT.ours), str(FAN_OUT.by_hand)
    seconds = _run(home, "benchmarks.dag_processor", str(pairs), *files, branches=branches)
    for step, (what, at_most) in enumerate(STEPS.items()):
        yield Comparison(
            name=f"{what} {branches:,} branches (CPU)",
            unit="s",
            pairs=tuple(Pair(ours=ours[step], by_hand=by_hand[step]) for ours, by_hand in seconds),
            target=Target(of="ratio", at_most=at_most) if branches == PROMISED else None,
        )


def _run(home: Path, module: str, *arguments: str, branches: int = 0) -> Any:
    output, log = home / "output.json", home / "log.txt"
    with log.open("wb") as said:
        ended = subprocess.run(
            [sys.executable, "-m", module, str(output), *arguments],
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
        message = f"{module} has failed:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}"
        raise RuntimeError(message)
    return json.loads(output.read_text(encoding="utf-8"))
