"""The command line: measure, show, compare with the targets."""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING

from rich.console import Console

from airflow_fanout.demo.embedded import EmbeddedAirflowError
from airflow_fanout.demo.rest import RestError
from benchmarks.in_process import measure_in_process
from benchmarks.machine import machine_facts
from benchmarks.parse import measure_parse
from benchmarks.scale import measure_scale
from benchmarks.scheduled import measure_runs
from benchmarks.table import figures
from benchmarks.waves import measure_waves

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence

    from benchmarks.pairs import Comparison

USUAL = ("parse", "wall", "requests", "batch", "storage")
MEASUREMENTS = (*USUAL, "waves", "scale")
"""What takes longer than a few minutes has to be asked for."""

WIDTH = 150
"""Columns of what is written to a file or a pipe."""

DESCRIPTION = """
Measure this package beside the same Dags written by hand in plain Airflow.

  parse     what a Dag file imports, which each task pays for; parsing a file with many branches, and
            serializing it
  wall      a run on a real scheduler (LocalExecutor), from the first queued task to the last end, and the CPU
            seconds of all Airflow meanwhile
  requests  what the fan-in asks of the API server meanwhile
  batch     what a batch of items costs within its process: overhead, items at once, checkpoints
  storage   reading values from object storage, where each takes its time
  waves     what a run waits for the scheduler between its waves of tasks, by its idle sleep; only on request
  scale     hundreds to a million items, thousands of instances, memory, on a real scheduler; only on request

The metadata database is SQLite, or made on the PostgreSQL server that FANOUT_E2E_POSTGRES names
(postgresql://user@host:port).

Both sides are measured in pairs, one right after the other, in an order that is swapped every time, after a
warm-up that does not count. Ratios are the pairs' medians: on a busy machine they say more than seconds do.
Where the spread of "wall" is wide, the machine was too busy for it; CPU seconds hardly mind.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; return 1 if a target was missed, and that was asked for, or if nothing could be measured."""
    options = _options(arguments)
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    began = time.monotonic()

    def tell(line: str) -> None:
        progress.print(f"{time.monotonic() - began:5.0f} s  {line}")

    comparisons: list[Comparison] = []
    try:
        if "parse" in options.only:
            tell("Dag files are parsed")
            comparisons += measure_parse(options.runs)
        if {"wall", "requests"} & {*options.only}:
            comparisons += measure_runs(options.runs, options.only, tell)
        if {"batch", "storage"} & {*options.only}:
            comparisons += measure_in_process(options.only, tell)
        if "waves" in options.only:
            comparisons += measure_waves(options.runs, tell)
        if "scale" in options.only:
            comparisons += measure_scale(tell)
    except KeyboardInterrupt:
        progress.print("benchmarks: interrupted; all that was started is stopped")
        return 1
    except (EmbeddedAirflowError, OSError, RestError, RuntimeError) as error:
        progress.print(f"benchmarks: {error}")
        return 1
    _show(comparisons, options.output)
    return 1 if options.check and not all(comparison.met for comparison in comparisons) else 0


def _options(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(
        prog="python -m benchmarks", description=DESCRIPTION, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        type=_measurements,
        default=USUAL,
        metavar="NAME,…",
        help=f"some of {', '.join(MEASUREMENTS)} (default: {', '.join(USUAL)})",
    )
    parser.add_argument("--runs", type=_positive, default=5, help="pairs of runs to measure (default: 5)")
    parser.add_argument(
        "--output", choices=("table", "json"), default="table", help="how to show the figures"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    return parser.parse_args(arguments)


def _measurements(text: str) -> tuple[str, ...]:
    names = text.split(",")
    if unknown := sorted({*names} - {*MEASUREMENTS}):
        message = f"expected some of {', '.join(MEASUREMENTS)}, found {', '.join(map(repr, unknown))}"
        raise ArgumentTypeError(message)
    return tuple(name for name in MEASUREMENTS if name in names)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        message = f"expected 1 or more, found {text!r}"
        raise ArgumentTypeError(message)
    return int(text)


def _show(comparisons: Sequence[Comparison], output: str) -> None:
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    facts = machine_facts()
    if output == "json":
        measured = [comparison.as_json() for comparison in comparisons]
        console.print_json(data={"machine": facts, "measurements": measured})
        return
    console.print(figures(comparisons))
    console.print(
        f"{facts['cores']} cores, {facts['system']}, Python {facts['python']}, Airflow {facts['airflow']}, "
        f"Task SDK {facts['task_sdk']}, {facts['database']}, airflow-fanout {facts['airflow_fanout']}"
    )


if __name__ == "__main__":
    sys.exit(main())
