"""The demo's output: branches while they run, results, and two runs side by side."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from airflow_fanout.reports.timing import summarize
from airflow_fanout.rules.outcomes import WAITING
from airflow_fanout.rules.wording import counted, format_ratio, format_seconds, on_one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console, RenderableType

    from airflow_fanout.reports.timing import BranchTiming


MOST_LINES = 20
"""Branches that get a line of their own; of more than that the states are counted."""

MOST_CHARACTERS = 2000
"""Length of a result that is shown whole."""

STYLES = {"success": "green", "failed": "bold red", "upstream_failed": "red", "running": "cyan"}


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Sequence[BranchTiming], Mapping[str, str]], None]]:
    """
    Give a function that shows the branches as they are: a redrawn table, or lines of what changed.

    Its arguments are the branches, and notes on them by name.
    """
    states: dict[str, str] = {}
    with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as live:

        def show(timings: Sequence[BranchTiming], notes: Mapping[str, str]) -> None:
            if console.is_terminal:
                live.update(branch_table(timings, notes, datetime.now(UTC)), refresh=True)
                return
            for line in changed_lines(states, timings, notes):
                console.print(line)
            states.update({timing.name: timing.state for timing in timings})

        yield show


def branch_table(timings: Sequence[BranchTiming], notes: Mapping[str, str], now: datetime) -> RenderableType:
    """Draw the branches; a running one's seconds are counted up to now."""
    if len(timings) > MOST_LINES:
        return Text(_counts(timings))
    table = Table.grid(padding=(0, 2))
    for timing in timings:
        so_far = replace(timing, ended=timing.ended or now).elapsed_seconds
        seconds = "" if so_far is None else format_seconds(so_far)
        state = Text(timing.state, style=STYLES.get(timing.state, "dim"))
        table.add_row(timing.name, state, seconds, notes.get(timing.name, ""))
    return table


def changed_lines(
    states: Mapping[str, str], timings: Sequence[BranchTiming], notes: Mapping[str, str]
) -> list[str]:
    """
    Say what has changed, for output that can't be redrawn: a line a branch, or one with counts of many.

    :param states: State of each branch as last said.
    """
    changed = [timing for timing in timings if timing.state != states.get(timing.name, WAITING)]
    if len(timings) > MOST_LINES:
        return [_counts(timings)] if changed else []
    lines = []
    for timing in changed:
        line = f"{timing.name}: {timing.state}"
        if timing.elapsed_seconds is not None:
            line += f" after {format_seconds(timing.elapsed_seconds)}"
        lines.append(", ".join(filter(None, [line, notes.get(timing.name)])))
    return lines


def _counts(timings: Sequence[BranchTiming]) -> str:
    counts = Counter(timing.state for timing in timings)
    return f"{len(timings)} branches: {', '.join(f'{counts[state]} {state}' for state in sorted(counts))}"


def items_text(states: Mapping[str, int]) -> str:
    """Say how many items of a batch are done, from how many are in each state."""
    rest = [f"{number} {state}" for state, number in states.items() if state != "success"]
    return ", ".join([f"{states.get('success', 0)} of {sum(states.values())} items done", *rest])


def result_text(value: Any) -> str:
    """Write what a fan-in returned, a line for each branch if it is a mapping."""
    if isinstance(value, dict) and value:
        return "\n".join(f"  {on_one_line(name)}: {_short(part)}" for name, part in value.items())
    return f"  {_short(value)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "\n".join(map(printable, text.splitlines()))
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"


def comparison(
    parallel: Sequence[BranchTiming], sequential: Sequence[BranchTiming], *, cores: int | None
) -> str:
    """
    Write two runs of the same work side by side, whichever was faster.

    :param parallel: Branches that could run at the same time.
    :param sequential: Tasks of the same names that ran one after another.
    :param cores: Number of the machine's cores; None if it isn't known.
    """
    left, right = summarize(parallel), summarize(sequential)
    seconds = {step.name: step.elapsed_seconds for step in sequential}
    rows = [
        *((branch.name, branch.elapsed_seconds, seconds.get(branch.name)) for branch in parallel),
        ("Sum", left.elapsed_sum_seconds, right.elapsed_sum_seconds),
        ("Wall", left.wall_seconds, right.wall_seconds),
    ]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'':<{width}}  {'in parallel':>12}  {'one by one':>12}"]
    lines += [
        f"{name:<{width}}  {format_seconds(one):>12}  {format_seconds(other):>12}"
        for name, one, other in rows
    ]
    lines.append("Each from its start to its end; wall is from the first one queued to the last one's end.")
    if left.wall_seconds and right.wall_seconds:
        ratio = format_ratio(right.wall_seconds / left.wall_seconds)
        lines.append(f"In parallel it was {ratio} as fast as one by one.")
    if cores is not None and left.peak_concurrency > cores:
        shared = f"{left.peak_concurrency} branches shared {counted(cores, 'core', 'cores')}"
        lines.append(f"{shared}: those that compute then take longer, and so does their sum.")
    return "\n".join(lines)
