"""Shows a run's report in a terminal; when ``airflow fanout report`` runs."""

from __future__ import annotations

import codecs
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from airflow_fanout.cli.time_scale import time_scale
from airflow_fanout.reports.runs import PROBLEMS
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.wording import format_bytes, format_ratio, format_seconds, format_share, on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import TextIO

    from rich.console import Console

    from airflow_fanout.cli.time_scale import TimeScale
    from airflow_fanout.reports.run_report import (
        BranchReport,
        Cause,
        GroupReport,
        ItemsReport,
        Problem,
        RunReport,
        TryReport,
    )

    Times = tuple[datetime | None, datetime | None, datetime | None]
    """When a branch, or an earlier try of one, was queued, started and ended, as far as it has been."""

__all__ = ["show", "tolerate_any_encoding"]

MOST_ROWS = 20
"""Branches that get a row, or a line with their error, of their own."""

TITLES = ["", "state", "tries", "work", "CPU", "memory"]
"""Heads of the time line's columns, the bars' left out; one with nothing to say in it is left out too."""

WIDEST = 120

LONGEST_NAME = 24

SHORTEST_NAME = 8

SHORTEST_BAR = 10

GAP = 2

QUEUED, RUNNING, EARLIER, IDLE = "░", "█", "▒", "┊"

PLAIN = {QUEUED: ".", RUNNING: "#", EARLIER: "=", IDLE: ":", "–": "-", "×": "x", "…": "~", "→": ">"}
"""What stands for a character that a terminal hasn't got; one for one, so that tables keep their shape."""

STYLES = {
    "success": "green",
    "failed": "bold red",
    "upstream_failed": "red",
    "missing": "red",
    "running": "cyan",
}


def tolerate_any_encoding(stream: TextIO) -> None:
    """
    Have a stream write something similar for what its encoding lacks, instead of raising an error.

    :param stream: Such as standard output.
    """

    def similar(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        return "".join(PLAIN.get(each, "?") for each in error.object[error.start : error.end]), error.end

    codecs.register_error("airflow_fanout.similar", similar)
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:  # a stream that holds text alone encodes nothing
        reconfigure(errors="airflow_fanout.similar")


def show(report: RunReport, console: Console) -> None:
    """
    Show a report.

    :param report: The report.
    :param console: Where to; it has to have markup and highlighting off.
    """
    state = "" if report["is_finished"] else ": these are the figures so far"
    console.print(f"{report['dag_id']}, run {report['run_id']}: {report['state']}{state}")
    for group in report["groups"]:
        console.print()
        _show_group(group, console)
    if report["rerun"] is not None:
        console.print(f"\nTo run again what has failed: {report['rerun']}")


def _show_group(group: GroupReport, console: Console) -> None:
    one, many = ("branch", "branches") if group["items"] is None else ("batch", "batches")
    if not group["total"] and group["unexpanded"] is not None:
        console.print(f"{group['title']}: not expanded, {group['unexpanded']}")
        _show_causes(group, console)
        return
    unfinished = "" if group["is_finished"] else "; not all have ended"
    console.print(f"{group['title']}: {_counts(group['states'], one, many)}{unfinished}")
    if group["items"] is not None:
        console.print(_items_head(group["items"], group["total"]))
    for name, figure, note in _figures(group, one, many):
        console.print(f"{name:<9} {figure:>10}  {note}")
    _show_time_line(group, many, console)
    if group["items"] is not None:
        _show_items(group["items"], console)
    _show_errors(group, many, console)
    _show_causes(group, console)
    for advice in group["advice"]:
        console.print(
            Text("→ ", style="bold yellow").append(on_one_line(advice["text"]), style="not bold default")
        )


def _counts(states: Mapping[str, int], one: str, many: str) -> str:
    total = sum(states.values())
    said = ", ".join(f"{number:,} {state}" for state, number in states.items())
    return f"{total:,} {one if total == 1 else many}: {said or 'none'}"


def _items_head(items: ItemsReport, batches: int) -> str:
    return (
        f"{_counts(items['states'], 'item', 'items')}; in {batches} {'batch' if batches == 1 else 'batches'}"
    )


def _figures(group: GroupReport, one: str, many: str) -> Iterator[tuple[str, str, str]]:
    what, recorded, total = many, group["recorded"], group["total"]
    slowest = list(group["slowest"][:1])
    if group["items"] is not None:
        what, recorded, total = "items", group["items"]["recorded"], group["items"]["total"]
    of = f"{recorded:,} {what}" if recorded == total else f"{recorded:,} of {total:,} {what}"
    yield "Work", format_seconds(group["work_seconds"]), f"what {of} took inside their code, added up"
    yield "Computed", format_seconds(group["cpu_seconds"]), "CPU time of that; the rest was spent waiting"
    yield "Memory", format_bytes(group["peak_memory_bytes"]), f"at most, of one {one}'s process"
    if group["is_finished"]:
        wall = f"from the first {one} queued to the last one's end"
    else:
        wall = f"since the first {one} was queued"
    yield "Wall", format_seconds(group["wall_seconds"]), wall
    yield "Speed-up", format_ratio(group["speed_up"]), "work / wall"
    at_once = (group["item_concurrency"] or 1) > 1
    overhead = "of the time from queued to end was no work"
    if at_once and group["overhead_share"] is None:
        overhead = "items ran at once, how long all of them together was not recorded"
    yield "Overhead", format_share(group["overhead_share"]), overhead
    yield "At once", str(group["peak_concurrency"]), f"of {group['total']} {many}, at the busiest moment"
    if group["limit"] is not None:
        yield "Limit", str(group["effective_concurrency"]), group["limit"]
    elif group["effective_concurrency"] is not None:
        yield "Limit", "none", f"keeps all {many} from running at once"
    elif group["total"]:
        yield "Limit", "–", "not known: some of these tasks have limits of their own"
    for slow in slowest:
        added_up = ": the work of its items, which ran at once, added up" if at_once else ""
        yield "Slowest", format_seconds(slow["seconds"]), on_one_line(slow["name"]) + added_up
    if group["wall_without_slowest_seconds"] is not None:
        saved = format_seconds(group["saved_without_slowest_seconds"])
        note = f"wall without {on_one_line(slowest[0]['name'])}, {saved} less"
        yield "", format_seconds(group["wall_without_slowest_seconds"]), note


def _show_time_line(group: GroupReport, many: str, console: Console) -> None:
    branches = [branch for branch in group["branches"] if branch["state"] != "removed"]
    times = [each for branch in branches for each in (*_earlier(branch), _times(branch))]
    last = max((moment for each in times for moment in each if moment is not None), default=None)
    if last is None:
        return
    rows = _rows(branches)
    cells = [_cells(branch) for branch in rows]
    kept = [place for place in range(len(TITLES)) if any(row[place] for row in cells)]
    widths = [max(cell_len(row[place]) for row in [TITLES, *cells]) for place in kept]
    widths[0], bar = _fitted(widths, min(console.width, WIDEST))
    table = Table.grid(padding=(0, GAP, 0, 0))
    table.add_column(no_wrap=True, width=widths[0])
    table.add_column(no_wrap=True, width=bar)
    for place, width in zip(kept[1:], widths[1:], strict=True):
        justify: Literal["left", "right"] = "left" if TITLES[place] == "state" else "right"
        table.add_column(no_wrap=True, width=width, justify=justify)
    scale = time_scale([span for each in times if (span := _span(each, last)) is not None], bar)
    table.add_row(
        "",
        f"0 s{format_seconds(scale.seconds):>{bar - 3}}",
        *(TITLES[place] for place in kept[1:]),
        style="dim",
    )
    for branch, row in zip(rows, cells, strict=True):
        style = STYLES.get(branch["state"], "")
        line = _line(_times(branch), _earlier(branch), scale, bar)
        others = (Text(row[i], style=style if TITLES[i] == "state" else "") for i in kept[1:])
        table.add_row(_cut(row[0], widths[0]), Text(line, style=style), *others)
    left = len(branches) - len(rows)
    more = f"; {left} more {many}, neither slower nor failed" if left else ""
    console.print()
    console.print(table)
    idle = " and ".join(format_seconds(cut.seconds) for cut in scale.cuts)
    cut_out = f"  {IDLE} {idle} without any left out" if idle else ""
    tried = f"  {EARLIER} an earlier try" if any(_earlier(branch) for branch in rows) else ""
    console.print(Text(f"{QUEUED} queued  {RUNNING} running{tried}{cut_out}{more}", style="dim"))


def _fitted(widths: Sequence[int], room: int) -> tuple[int, int]:
    """
    Divide what a terminal has room for between names and bars.

    Names give way to a bar of some length; where there is no room for both, lines are too long.
    """
    others = sum(widths[1:]) + GAP * (len(widths) + 1)
    name = min(widths[0], LONGEST_NAME)
    name = max(min(name, SHORTEST_NAME), min(name, room - others - SHORTEST_BAR))
    return name, max(SHORTEST_BAR, room - others - name)


def _rows(branches: Sequence[BranchReport]) -> list[BranchReport]:
    """All branches; of many those that failed and the slowest, in their order."""
    if len(branches) <= MOST_ROWS:
        return list(branches)

    def weight(place: int) -> tuple[bool, float, int]:
        branch = branches[place]
        return branch["state"] not in PROBLEMS, -(_seconds(branch) or 0.0), place

    return [branches[place] for place in sorted(sorted(range(len(branches)), key=weight)[:MOST_ROWS])]


def _seconds(branch: BranchReport) -> float | None:
    if branch["work_seconds"] is not None:
        return branch["work_seconds"]
    if branch["started"] is None or branch["ended"] is None:
        return None
    return (
        datetime.fromisoformat(branch["ended"]) - datetime.fromisoformat(branch["started"])
    ).total_seconds()


def _cells(branch: BranchReport) -> list[str]:
    return [
        on_one_line(branch["name"]),
        "stopped" if branch["is_stopped"] else branch["state"],
        str(branch["tries"]) if (branch["tries"] or 0) > 1 else "",
        format_seconds(branch["work_seconds"]),
        format_seconds(branch["cpu_seconds"]),
        format_bytes(branch["peak_memory_bytes"]),
    ]


def _times(tried: BranchReport | TryReport) -> Times:
    queued, started, ended = (
        None if moment is None else datetime.fromisoformat(moment)
        for moment in (tried["queued"], tried["started"], tried["ended"])
    )
    return queued, started, ended


def _earlier(branch: BranchReport) -> list[Times]:
    """Times of the tries that others have followed, as far as it is known when they ended."""
    return [_times(each) for each in branch["earlier_tries"] if each["ended"] is not None]


def _span(times: Times, last: datetime) -> tuple[datetime, datetime] | None:
    """First and last moment that is drawn of a branch; what has no end goes on to the last moment known."""
    queued, started, ended = times
    begin = queued if queued is not None else started
    return None if begin is None else (begin, max(begin, last if ended is None else ended))


def _line(times: Times, earlier: Sequence[Times], scale: TimeScale, width: int) -> str:
    """Draw when a branch was queued and when it ran, and on that its earlier tries."""
    cells = [" "] * width
    _draw(cells, times, RUNNING, scale)
    for each in earlier:  # of a branch of several tasks they lie within it
        _draw(cells, each, EARLIER, scale)
    for cut in scale.cuts:
        if cells[cut.column] == " ":
            cells[cut.column] = IDLE
    return "".join(cells).rstrip()


def _draw(cells: list[str], times: Times, running: str, scale: TimeScale) -> None:
    """Draw one try; what has no end goes on to the last moment known."""
    queued, started, ended = times
    if queued is None and started is None:
        return
    width = len(cells)
    end = width if ended is None else scale.column(ended)
    start = end if started is None else scale.column(started)
    ran = 0 if started is None else max(end - start, 1)
    start = min(start, width - ran)
    begin = start if queued is None else min(scale.column(queued), start)
    cells[begin : start + ran] = QUEUED * (start - begin) + running * ran


def _cut(text: str, width: int) -> str:
    if cell_len(text) <= width:
        return text
    # Both ends tell long names apart.
    tail = width // 3
    return f"{set_cell_size(text, width - tail - 1)}…{text[-tail:]}"


def _show_items(items: ItemsReport, console: Console) -> None:
    if not items["slowest"]:
        return
    console.print(f"Slowest items (median {format_seconds(items['median_work_seconds'])}):")
    for slow in items["slowest"]:
        console.print(f"  {on_one_line(slow['name'])}: {format_seconds(slow['seconds'])}")


def _show_errors(group: GroupReport, many: str, console: Console) -> None:
    if group["items"] is not None:
        listed = group["items"]["problems"]
        problems = [(_with_items(each), each["state"], each["error"]) for each in listed]
        count, many = group["items"]["problem_count"], "items"
        more = count - sum(each["items"] for each in listed)
    else:
        found = [branch for branch in group["branches"] if branch["state"] in PROBLEMS]
        # In declared order, but what kept others from starting comes before these.
        found.sort(key=lambda branch: branch["error"] is None)
        problems = [(_with_step(branch), branch["state"], branch["error"]) for branch in found[:MOST_ROWS]]
        count = len(found)
        more = count - len(problems)
    if not count:
        return
    console.print(f"Without a value: {count:,} of {_total(group):,} {many}")
    for name, state, error in problems:
        said = f"{name}: {state}: {error}" if error else f"{name}: {state}"
        console.print(Text(f"  {on_one_line(said)}", style=STYLES.get(state, "")))
    if more:
        console.print(f"  and {more:,} more")


def _with_items(problem: Problem) -> str:
    return problem["name"] if problem["items"] == 1 else f"{problem['name']}: {problem['items']:,} items"


def _with_step(branch: BranchReport) -> str:
    return branch["name"] if branch["step"] is None else f"{branch['name']} ({branch['step']})"


def _show_causes(group: GroupReport, console: Console) -> None:
    causes = group["causes"]
    if causes:
        said = ", ".join(_named(cause) for cause in causes[:MOST_ROWS])
        more = f" and {len(causes) - MOST_ROWS:,} more" if len(causes) > MOST_ROWS else ""
        console.print(f"The cause lies before the branches: {said}{more}")


def _named(cause: Cause) -> str:
    task_id, at = cause["task_id"], cause["map_index"]
    return f"{task_id if at < 0 else instance_name(task_id, at)} ({cause['state']})"


def _total(group: GroupReport) -> int:
    """Return the number of a group's branches, or items."""
    return group["total"] if group["items"] is None else group["items"]["total"]
