"""Lays out the last runs of a Dag in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from airflow_fanout.cli.time_line import MOST_ROWS, STYLES
from airflow_fanout.reports.figures import PLURALS, number_of, shortened
from airflow_fanout.reports.history import last_runs
from airflow_fanout.rules.wording import format_ratio, format_seconds, on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from airflow_fanout.reports.history import DagHistory, GroupHistory, GroupOfRun

LONGEST_RUN_ID = 40


def show_history(history: DagHistory, console: Console) -> None:
    """Show a history on a console that has markup and highlighting off."""
    runs = f"{history.dag_id}: {last_runs(history.runs)}"
    if not history.groups:
        console.print(f"{runs}: nothing was fanned out that a fan-in collects, so there is no report")
        return
    unread = f", {history.unread:,} of which can't be read any more" if history.unread else ""
    console.print(runs + unread)
    for group in history.groups:
        console.print()
        _show_group(group, console)


def _show_group(group: GroupHistory, console: Console) -> None:
    console.print(f"{shortened(group.title)}: {group.headline}")
    width = max((len(figure.value) for figure in group.figures), default=0)
    for figure in group.figures:
        console.print(f"{figure.name:<10}  {figure.value:>{width}}  {figure.note}")
    rows = [_heading(group), *map(_row, group.runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        left = [f"{text:<{width}}" for text, width in zip(row[:2], widths, strict=False)]
        right = [f"{text:>{width}}" for text, width in zip(row[2:], widths[2:], strict=True)]
        style = STYLES.get(group.runs[number - 1].state, "") if number else "dim"
        console.print(Text("  ".join([*left, *right]), style=style))
    if group.failures:
        console.print(f"{PLURALS[group.noun].capitalize()} that failed:")
        for line in _failures(group):
            console.print(f"  {line}")


def _heading(group: GroupHistory) -> list[str]:
    many = PLURALS[group.noun]
    return ["Run", "State", many.capitalize(), "Failed", "Wall", "Work", "Speed-up", f"Per {group.noun}"]


def _row(run: GroupOfRun) -> list[str]:
    return [
        shortened(run.run_id, LONGEST_RUN_ID),
        "degraded" if run.degraded else run.state,
        f"{run.total:,}",
        f"{run.failed:,}",
        format_seconds(run.wall_seconds),
        format_seconds(run.work_seconds),
        format_ratio(run.speed_up),
        format_seconds(run.mean_work_seconds),
    ]


def _failures(group: GroupHistory) -> Iterator[str]:
    for branch in group.failures[:MOST_ROWS]:
        what = f"{shortened(branch.name)}: {branch.failed:,} of {number_of(branch.runs, 'run')}"
        yield on_one_line(what if branch.error is None else f"{what}, last with {branch.error}")
    if group.failure_count > MOST_ROWS:
        yield f"and {group.failure_count - MOST_ROWS:,} more"
