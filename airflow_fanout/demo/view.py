"""Shows the branches of a run while they run, and what came of it; used by the demo."""

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

from airflow_fanout.reports.timing import BranchTiming, summarize
from airflow_fanout.rules.names import natural_key
from airflow_fanout.rules.records import (
    ITEM_FAILED,
    ITEM_SKIPPED,
    ITEM_STOPPED,
    ITEM_SUCCEEDED,
    BatchRecord,
    read_record,
)
from airflow_fanout.rules.wording import format_ratio, format_seconds, on_one_line, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console, RenderableType

    from airflow_fanout.reports.timing import GroupSummary


MOST_LINES = 20
"""Branches that get a line of their own; of more than that the states are counted."""

MOST_PROBLEMS = 5
"""Branches whose errors are shown after a run that went well without them."""

WAITING = "waiting"

STYLES = {"success": "green", "failed": "bold red", "upstream_failed": "red", "running": "cyan"}


def timing_of(instance: Mapping[str, Any]) -> BranchTiming:
    """Put a task instance, as the REST API has it, into the shape that the figures are made from."""
    return BranchTiming(
        name=instance_name(instance),
        state=instance["state"] or WAITING,
        queued=moment(instance["queued_when"]),
        started=moment(instance["start_date"]),
        ended=moment(instance["end_date"]),
        tries=instance["try_number"],
    )


def instance_name(instance: Mapping[str, Any]) -> str:
    """Name a task instance: its branch's name, or its task's id, with the map index if it is mapped."""
    named = rendered_name(instance)
    if named is not None:
        return named
    task_id: str = instance["task_id"]
    return task_id if instance["map_index"] < 0 else f"{task_id}[{instance['map_index']}]"


def rendered_name(instance: Mapping[str, Any]) -> str | None:
    """Return what a mapped instance calls itself, since it has started; None for a mere index."""
    named: str | None = instance.get("rendered_map_index")
    return None if named in {None, str(instance["map_index"])} else named


def batch_name(instance: Mapping[str, Any]) -> str:
    """Name an instance of a batched group's task."""
    group_id = str(instance["task_id"]).rpartition(".")[0]
    return group_id if instance["map_index"] < 0 else f"{group_id} batch {instance['map_index']}"


def items_done(record: object) -> str | None:
    """Say how many items of a batch that has ended are done; None if it left no record of them."""
    batch = read_record(record)
    if not isinstance(batch, BatchRecord):
        return None
    statuses = batch.statuses
    rest = [
        f"{statuses.count(status)} {word}"
        for status, word in ((ITEM_SKIPPED, "skipped"), (ITEM_FAILED, "failed"), (ITEM_STOPPED, "stopped"))
        if status in statuses
    ]
    return ", ".join([f"{statuses.count(ITEM_SUCCEEDED)} of {len(statuses)} items done", *rest])


def in_order(timing: BranchTiming) -> Any:
    """Sort ``process_10`` after ``process_9``."""
    return natural_key(timing.name)


@contextmanager
def waiting(console: Console, what: str) -> Iterator[None]:
    """Say what takes its time, and on a terminal how long it has taken so far."""
    if not console.is_terminal:
        console.print(f"{what} …")
        yield
        return
    columns = (SpinnerColumn(), TextColumn(f"{what} …"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        bar.add_task(what, total=None)
        yield


@contextmanager
def progress(console: Console) -> Iterator[Callable[[Sequence[BranchTiming], Mapping[str, str]], None]]:
    """
    Give a function that shows the branches as they are: a redrawn table, or lines of what changed.

    It takes the branches, and by name what else there is to say of them.
    """
    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield lambda timings, notes: live.update(
                branch_table(timings, datetime.now(UTC), notes), refresh=True
            )
        return
    said: dict[str, str] = {}

    def show(timings: Sequence[BranchTiming], notes: Mapping[str, str]) -> None:
        for line in lines_of_change(said, timings, notes):
            console.print(line)
        said.update({timing.name: timing.state for timing in timings})

    yield show


def branch_table(
    timings: Sequence[BranchTiming], now: datetime, notes: Mapping[str, str] | None = None
) -> RenderableType:
    """
    Draw the branches as they are at one moment.

    :param timings: The branches, in their order.
    :param now: What running branches' seconds are counted to.
    :param notes: What else there is to say of a branch, by its name.
    """
    if len(timings) > MOST_LINES:
        return Text(_counts(timings))
    table = Table.grid(padding=(0, 2))
    for timing in timings:
        seconds = _seconds(timing, now)
        table.add_row(
            timing.name,
            Text(timing.state, style=STYLES.get(timing.state, "dim")),
            "" if seconds is None else format_seconds(seconds),
            (notes or {}).get(timing.name, ""),
        )
    return table


def lines_of_change(
    said: Mapping[str, str], timings: Sequence[BranchTiming], notes: Mapping[str, str] | None = None
) -> list[str]:
    """
    Say what has changed, for output that can't be redrawn.

    :param said: State of each branch as last said.
    :param timings: The branches as they are now.
    :param notes: What else there is to say of a branch, by its name.
    :return: A line for each branch whose state is another now, or one with the counts if there are many.
    """
    changed = [timing for timing in timings if timing.state != said.get(timing.name, WAITING)]
    if not changed:
        return []
    if len(timings) > MOST_LINES:
        return [_counts(timings)]
    notes = notes or {}
    return [", ".join(filter(None, [_line(timing), notes.get(timing.name)])) for timing in changed]


def result_text(value: Any) -> str:
    """Write what a fan-in returned, a line for each branch if it is a mapping."""
    if isinstance(value, dict) and value:
        return "\n".join(f"  {on_one_line(name)}: {_short(part)}" for name, part in value.items())
    return f"  {_short(value)}"


def problems_text(report: Mapping[str, Any] | None) -> str | None:
    """Write what a fan-in did without, from its ``fan_out_report``; None if there is nothing."""
    if not report or not report["problems"]:
        return None
    number = max(report["failed"] + report["missing"], len(report["problems"]))
    lines = [f"  {each['name']}: {each['error'] or each['state']}" for each in report["problems"]]
    more = [f"  and {number - MOST_PROBLEMS} more"] if number > MOST_PROBLEMS else []
    head = f"without {number} of {report['expected']}:"
    return "\n".join([head, *lines[:MOST_PROBLEMS], *more])


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
    at_once, one_by_one = summarize(parallel), summarize(sequential)
    rows: list[tuple[str, float | None, float | None]] = [
        (branch.name, _elapsed(branch), seconds.get(branch.name)) for branch in parallel
    ]
    rows += [
        ("Sum", at_once.elapsed_sum_seconds, one_by_one.elapsed_sum_seconds),
        ("Wall", at_once.wall_seconds, one_by_one.wall_seconds),
    ]
    width = max(len(name) for name, _, _ in rows)
    lines = [f"{'':<{width}}  {'in parallel':>12}  {'one by one':>12}"]
    lines += [
        f"{name:<{width}}  {format_seconds(left):>12}  {format_seconds(right):>12}"
        for name, left, right in rows
    ]
    lines.append("Each from its start to its end; wall is from the first one queued to the last one's end.")
    lines += _verdict(at_once, one_by_one, cores)
    return "\n".join(lines)


def _verdict(at_once: GroupSummary, one_by_one: GroupSummary, cores: int | None) -> list[str]:
    if not at_once.wall_seconds or one_by_one.wall_seconds is None:
        return []
    ratio = one_by_one.wall_seconds / at_once.wall_seconds
    said = format_ratio(ratio)
    if said == format_ratio(1):
        verdict = f"In parallel it took as long as one by one ({said})."
    elif ratio > 1:
        verdict = f"In parallel it was {said} as fast as one by one."
    else:
        verdict = (
            f"In parallel it was slower, {said} as fast as one by one: starting tasks at the same time, or "
            "sharing cores, cost more than it saved."
        )
    if cores is None or at_once.peak_concurrency <= cores:
        return [verdict]
    shared = f"{at_once.peak_concurrency} branches shared {cores} {'core' if cores == 1 else 'cores'}"
    return [verdict, f"{shared}: those that compute then take longer, and so does their sum."]


def _elapsed(timing: BranchTiming) -> float | None:
    return summarize([timing]).elapsed_sum_seconds


def moment(text: str | None) -> datetime | None:
    """Read a moment in ISO 8601; None stays None."""
    return None if text is None else datetime.fromisoformat(text)


def _seconds(timing: BranchTiming, now: datetime) -> float | None:
    if timing.started is None or timing.state == WAITING:
        return None
    return max(0.0, ((timing.ended or now) - timing.started).total_seconds())


def _line(timing: BranchTiming) -> str:
    if timing.started is None or timing.ended is None:
        return f"{timing.name}: {timing.state}"
    seconds = (timing.ended - timing.started).total_seconds()
    return f"{timing.name}: {timing.state} after {format_seconds(seconds)}"


def _counts(timings: Sequence[BranchTiming]) -> str:
    counts = Counter(timing.state for timing in timings)
    said = ", ".join(f"{number} {state}" for state, number in sorted(counts.items()))
    return f"{len(timings)} branches: {said or 'none'}"


def _short(value: Any, most: int = 2000) -> str:
    said = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "\n".join(map(printable, said.splitlines()))
    return text if len(text) <= most else f"{text[:most]} …"
