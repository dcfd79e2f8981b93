"""A group's branches on a time line in a terminal: a row for each, a column for a stretch of time."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from airflow_fanout.reports.figures import PLURALS
from airflow_fanout.reports.runs import PROBLEMS
from airflow_fanout.reports.timing import seconds_between
from airflow_fanout.rules.wording import format_bytes, format_seconds, on_one_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import Console

    from airflow_fanout.reports.group_report import BranchReport, GroupReport
    from airflow_fanout.reports.timing import Span, TaskTry


MOST_ROWS = 20  # branches that get a row of their own
TITLES = ("", "state", "tries", "work", "CPU", "memory")  # of columns; one with nothing to say is left out
WIDEST, LONGEST_NAME, SHORTEST_NAME, SHORTEST_BAR, GAP = 120, 24, 8, 10, 2
QUEUED, RUNNING, EARLIER, IDLE = "░", "█", "▒", "┊"
STYLES = {"success": "green", "failed": "bold red", "running": "cyan"}
STYLES |= dict.fromkeys(("upstream_failed", "missing"), "red")

PLAIN = {QUEUED: ".", RUNNING: "#", EARLIER: "=", IDLE: ":", "–": "-", "×": "x", "…": "~", "→": ">", "·": "|"}
"""What stands for a character that a terminal hasn't got; one for one, so that tables keep their shape."""


class Scale:
    """Where timestamps lie: each segment has columns by its length, the idle time before it has one."""

    def __init__(self, segments: Sequence[Span], width: int) -> None:
        ends = list(accumulate((end - start).total_seconds() for start, end in segments))
        spare = (width - 2 * len(segments) + 1) / (
            ends[-1] or 1.0
        )  # each has one column, and these by length
        widths = [1 + round(spare * end) - round(spare * start) for start, end in pairwise([0.0, *ends])]
        columns = [sum(widths[:index]) + index for index in range(len(widths))]
        self._pieces = list(zip(segments, columns, widths, strict=True))
        self.cuts = [column - 1 for column in columns[1:]]

    def column(self, timestamp: datetime) -> int:
        """Return the column at which a timestamp lies, from 0 to the width."""
        pieces = self._pieces
        (start, end), column, width = next((p for p in reversed(pieces) if timestamp >= p[0][0]), pieces[0])
        share = (timestamp - start).total_seconds() / ((end - start).total_seconds() or 1.0)
        return column + round(min(max(share, 0.0), 1.0) * width)


def show_time_line(group: GroupReport, now: datetime, console: Console) -> None:
    """Show when the branches were queued and ran, if any was."""
    if not group.segments:
        return
    rows = _rows(group.branches)
    cells = [_cells(branch) for branch in rows]
    kept = [index for index in range(len(TITLES)) if any(row[index] for row in cells)]
    widths = [max(cell_len(row[index]) for row in [TITLES, *cells]) for index in kept]
    widths[0], bar = _fitted(widths, min(console.width, WIDEST), len(group.segments))
    scale = Scale(group.segments, bar)
    table = Table.grid(padding=(0, GAP, 0, 0))
    titles = [TITLES[index] for index in kept[1:]]
    for title, width in zip(["", "", *titles], [widths[0], bar, *widths[1:]], strict=True):
        table.add_column(no_wrap=True, width=width, justify="left" if title in {"", "state"} else "right")
    seconds = format_seconds(seconds_between(group.segments[0][0], group.segments[-1][1]))
    table.add_row("", f"0 s{seconds:>{bar - 3}}", *titles, style="dim")
    for branch, row in zip(rows, cells, strict=True):
        style = STYLES.get(branch.state, "")
        others = (Text(row[index], style=style if TITLES[index] == "state" else "") for index in kept[1:])
        table.add_row(_cut(row[0], widths[0]), Text(_line(branch, now, scale, bar), style=style), *others)
    console.print()
    console.print(table)
    console.print(Text(_legend(group, rows), style="dim"))


def _legend(group: GroupReport, rows: Sequence[BranchReport]) -> str:
    text, left = f"{QUEUED} queued  {RUNNING} running", len(group.branches) - len(rows)
    if any(branch.earlier_tries for branch in rows):
        text += f"  {EARLIER} an earlier try"
    idle = [format_seconds(seconds_between(a[1], b[0])) for a, b in pairwise(group.segments)]
    if idle:
        text += f"  {IDLE} {' and '.join(idle)} without any left out"
    return text + (f"; {left:,} more {PLURALS[group.nouns[0]]}, neither slower nor failed" if left else "")


def _fitted(widths: Sequence[int], room: int, segments: int) -> tuple[int, int]:
    """Divide a terminal's room between names and bars; where it is too small for both, lines are too long."""
    others = sum(widths[1:]) + GAP * (len(widths) + 1)
    shortest = max(SHORTEST_BAR, 2 * segments)
    name = min(widths[0], LONGEST_NAME)
    name = max(min(name, SHORTEST_NAME), min(name, room - others - shortest))
    return name, max(shortest, room - others - name)


def _rows(branches: Sequence[BranchReport]) -> list[BranchReport]:
    """All branches; of many those that failed and the slowest, in their order."""
    weights = [(branch.state not in PROBLEMS, -(branch.elapsed_seconds or 0.0)) for branch in branches]
    chosen = sorted(range(len(branches)), key=lambda index: weights[index])[:MOST_ROWS]
    return [branches[index] for index in sorted(chosen)]


def _cells(branch: BranchReport) -> list[str]:
    return [
        on_one_line(branch.name),
        "stopped" if branch.is_stopped else branch.state,
        str(branch.tries) if (branch.tries or 0) > 1 else "",
        format_seconds(branch.work_seconds),
        format_seconds(branch.cpu_seconds),
        format_bytes(branch.peak_memory_bytes),
    ]


def _line(branch: BranchReport, now: datetime, scale: Scale, width: int) -> str:
    cells = [" "] * width
    _draw(cells, branch, branch.ended or now, RUNNING, scale)
    for earlier in branch.earlier_tries:  # of a branch of several tasks they lie within it
        if earlier.ended is not None:
            _draw(cells, earlier, earlier.ended, EARLIER, scale)
    for column in scale.cuts:
        if cells[column] == " ":
            cells[column] = IDLE
    return "".join(cells).rstrip()


def _draw(cells: list[str], times: BranchReport | TaskTry, ended: datetime, ran: str, scale: Scale) -> None:
    first = times.started if times.queued is None else times.queued
    if first is None:
        return
    start = end = scale.column(ended)
    if times.started is not None:
        start = min(scale.column(times.started), len(cells) - 1)
        end = max(end, start + 1)
    begin = min(scale.column(first), start)
    cells[begin:end] = QUEUED * (start - begin) + ran * (end - start)


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    # Both ends tell long names apart.
    tail = width // 3
    return f"{set_cell_size(text, width - tail - 1)}…{text[-tail:]}"
