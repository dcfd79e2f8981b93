from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from airflow_fanout.cli.history import show_history
from airflow_fanout.reports.history import dag_history, group_traces
from tests.unit.run_facts import NOON, facts_of, ran, static

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import RunFacts

pytestmark = pytest.mark.unit


def shown(*runs: RunFacts, number: int | None = None) -> str:
    traces = [group_traces(facts, now=NOON) for facts in runs]
    history = dag_history("pipeline", traces, number=number or len(runs), now=NOON)
    stream = io.StringIO()
    show_history(history, Console(file=stream, highlight=False, markup=False, emoji=False, soft_wrap=True))
    return stream.getvalue()


def test_each_run_is_a_line_and_each_branch_that_failed() -> None:
    failed = facts_of(
        [ran("etl.eu", seconds=1.0), ran("etl.us", state="failed", error="E: \x1b[2J")],
        static("eu", "us"),
        state="failed",
    )
    well = facts_of([ran("etl.eu", seconds=1.0), ran("etl.us", seconds=0.5)], static("eu", "us"))
    runs = [replace(failed, run_id="manual__2"), replace(well, run_id="manual__1")]

    assert shown(*runs, number=3).splitlines() == [
        "pipeline: the last 3 runs, 1 of which can't be read any more",
        "",
        "etl: 2 runs · 1 with failed branches",
        "Wall        1.0 s  the median of 2 runs, from 1.0 s to 1.0 s",
        "Work        1.2 s  the median of 2 runs",
        "Speed-up     1.2×  the median of 2 runs",
        "Per branch  0.9 s  the median of 2 runs: work divided by the branches that recorded theirs",
        "Run        State    Branches  Failed   Wall   Work  Speed-up  Per branch",
        "manual__2  failed          2       1  1.0 s  1.0 s      1.0×       1.0 s",
        "manual__1  success         2       0  1.0 s  1.5 s      1.5×       0.8 s",
        "Branches that failed:",
        "  us: 1 of 2 runs, last with E: \\x1b[2J",
    ]


def test_runs_without_a_fan_out_are_one_line() -> None:
    assert shown(facts_of([ran("lone")])) == (
        "pipeline: the last run: nothing was fanned out that a fan-in collects, so there is no report\n"
    )
