"""The demo's output: branches while they run, results, and two runs side by side."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.live import Live
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from airflow_fanout.demo.plan import WAITING
from airflow_fanout.reports.timing import summarize
from airflow_fanout.rules.records import (
    ITEM_FAILED,
    ITEM_SKIPPED,
    ITEM_STOPPED,
    ITEM_SUCCEEDED,
    BatchRecord,
    read_record,
)
from airflow_fanout.rules.wording import counted, format_ratio, format_seconds, on_one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console, RenderableType

    from airflow_fanout.reports.timing import BranchTiming, GroupSummary


MOST_LINES = 20
"""Branches that get a line of their own; of more than that the states are counted."""

MOST_PROBLEMS = 5
"""Branches whose errors are shown after a run that went well without them."""

MOST_CHARACTERS = 2000
"""Length of a result that is shown whole."""

STYLES = {"success": "green", "failed": "bold red", "upstream_failed": "red", "running": "cyan"}


@contextmanager
def waiting(console: Console, activity: str) -> Iterator[None]:
    """Show what takes its time, and on a terminal how long it has taken so far."""
    if not console.is_terminal:
        console.print(f"{activity} …")
        yield
        return
    columns = (SpinnerColumn(), TextColumn(f"{activity} …"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(activity, total=None)
        yield


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Sequence[BranchTiming], Mapping[str, str]], None]]:
    """
    Give a function that shows the branches as they are: a redrawn table, or lines of what changed.

    Its arguments are the branches, and notes on them by name.
    """
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda timings, notes: live.update(
                branch_table(timings, notes, datetime.now(UTC)), refresh=True
            )
        return
    states: dict[str, str] = {}

    def show(timings: Sequence[BranchTiming], notes: Mapping[str, str]) -> None:
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
        seconds = ""
        if timing.started is not None and timing.state != WAITING:
            seconds = format_seconds(max(0.0, ((timing.ended or now) - timing.started).total_seconds()))
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
        if timing.started is not None and timing.ended is not None:
            line += f" after {format_seconds((timing.ended - timing.started).total_seconds())}"
        lines.append(", ".join(filter(None, [line, notes.get(timing.name)])))
    return lines


def _counts(timings: Sequence[BranchTiming]) -> str:
    counts = Counter(timing.state for timing in timings)
    return f"{len(timings)} branches: {', '.join(f'{counts[state]} {state}' for state in sorted(counts))}"


def items_text(record: Any) -> str:
    """Say how many items of a batch that has ended are done, from its record."""
    batch = read_record(record)
    if not isinstance(batch, BatchRecord):
        return "with no record of its items"
    statuses = batch.statuses
    rest = [
        f"{statuses.count(status)} {word}"
        for status, word in ((ITEM_SKIPPED, "skipped"), (ITEM_FAILED, "failed"), (ITEM_STOPPED, "stopped"))
        if status in statuses
    ]
    return ", ".join([f"{statuses.count(ITEM_SUCCEEDED)} of {len(statuses)} items done", *rest])


def result_text(value: Any) -> str:
    """Write what a fan-in returned, a line for each branch if it is a mapping."""
    if isinstance(value, dict) and value:
        return "\n".join(f"  {on_one_line(name)}: {_short(part)}" for name, part in value.items())
    return f"  {_short(value)}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "\n".join(map(printable, text.splitlines()))
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} …"


def problems_text(report: Mapping[str, Any] | None) -> str | None:
    """Write what a fan-in did without, from its ``fan_out_report``; None if there is nothing."""
    if not report or not report["problems"]:
        return None
    problems = report["problems"]
    number = max(report["failed"] + report["missing"], len(problems))
    lines = [f"  {problem['name']}: {problem['error'] or problem['state']}" for problem in problems]
    more = [f"  and {number - MOST_PROBLEMS} more"] if number > MOST_PROBLEMS else []
    return "\n".join([f"without {number} of {report['expected']}:", *lines[:MOST_PROBLEMS], *more])


def comparison(
    parallel: Sequence[BranchTiming], sequential: Sequence[BranchTiming], *, cores: int | None
) -> str:
    """
    Write two runs of the same work side by side, whichever was faster.

    :param parallel: Branches that could run at the same time.
    :param sequential: Tasks of the same names that ran one after another.
    :param cores: Number of the machine's cores; None if it isn't known.
    """
    seconds = {step.name: _elapsed(step) for step in sequential}
    left, right = summarize(parallel), summarize(sequential)
    rows = [(branch.name, _elapsed(branch), seconds.get(branch.name)) for branch in parallel]
    rows.append(("Sum", left.elapsed_sum_seconds, right.elapsed_sum_seconds))
    rows.append(("Wall", left.wall_seconds, right.wall_seconds))
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'':<{width}}  {'in parallel':>12}  {'one by one':>12}"]
    lines += [
        f"{name:<{width}}  {format_seconds(one):>12}  {format_seconds(other):>12}"
        for name, one, other in rows
    ]
    lines.append("Each from its start to its end; wall is from the first one queued to the last one's end.")
    return "\n".join(lines + _verdict(left, right, cores))


def _verdict(parallel: GroupSummary, sequential: GroupSummary, cores: int | None) -> list[str]:
    if not parallel.wall_seconds or sequential.wall_seconds is None:
        return []
    ratio = format_ratio(sequential.wall_seconds / parallel.wall_seconds)
    if ratio == format_ratio(1):
        verdict = f"In parallel it took as long as one by one ({ratio})."
    elif sequential.wall_seconds > parallel.wall_seconds:
        verdict = f"In parallel it was {ratio} as fast as one by one."
    else:
        verdict = (
            f"In parallel it was slower, {ratio} as fast as one by one: starting tasks at the same time, or "
            "sharing cores, cost more than it saved."
        )
    if cores is None or parallel.peak_concurrency <= cores:
        return [verdict]
    shared = f"{parallel.peak_concurrency} branches shared {counted(cores, 'core', 'cores')}"
    return [verdict, f"{shared}: those that compute then take longer, and so does their sum."]


def _elapsed(timing: BranchTiming) -> float | None:
    return summarize([timing]).elapsed_sum_seconds
