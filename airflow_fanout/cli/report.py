"""``airflow fanout report``: reads what became of a run, and lays it out in a terminal."""

from __future__ import annotations

import codecs
import json
import sys
from datetime import UTC, datetime
from functools import partial
from io import TextIOWrapper
from typing import TYPE_CHECKING

from airflow.utils.cli import suppress_logs_and_warning
from rich.console import Console
from rich.text import Text

from airflow_fanout.cli.command_line import metadata_session, stop, while_read
from airflow_fanout.cli.history import show_history
from airflow_fanout.cli.time_line import MOST_ROWS, PLAIN, STYLES, show_time_line
from airflow_fanout.metadata.limits import read_scheduling_limits
from airflow_fanout.metadata.runs import find_run, find_runs, read_run, read_runs
from airflow_fanout.reports.figures import number_of, shortened
from airflow_fanout.reports.group_report import to_json
from airflow_fanout.reports.history import dag_history, group_traces
from airflow_fanout.reports.run_report import report_of
from airflow_fanout.rules.error_kinds import kind_line
from airflow_fanout.rules.wording import format_seconds, on_one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable
    from typing import TextIO

    from airflow_fanout.reports.group_report import ErrorCount, GroupReport, Outcomes, Problem, RunReport
    from airflow_fanout.reports.history import DagHistory


@suppress_logs_and_warning
@while_read()
def command(args: Namespace) -> None:
    """Print the report of a run, or of the last ones."""
    if args.runs is not None and args.run_id is not None:
        stop("report", f"expected either RUN_ID or --runs, found both: {args.run_id!r} and {args.runs}")
    answer: RunReport | DagHistory
    show_it: Callable[[Console], None]
    with metadata_session("report") as session:
        if args.runs is None:
            facts = read_run(find_run(args.dag_id, args.run_id, session=session), session=session)
            answer = report_of(facts, read_scheduling_limits(), group_id=args.group)
            show_it = partial(show, answer)
        else:
            runs = find_runs(args.dag_id, args.runs, session=session)
            now = datetime.now(UTC)
            traces = (group_traces(facts, now=now) for facts in read_runs(runs, session=session))
            answer = dag_history(args.dag_id, traces, number=len(runs), now=now, group_id=args.group)
            show_it = partial(show_history, answer)
    if args.output == "json":
        print(json.dumps(answer, indent=2, default=to_json))
        return
    tolerate_any_encoding(sys.stdout)
    # Long lines are left to the terminal, so that in a pipe each stays whole.
    show_it(Console(highlight=False, markup=False, emoji=False, soft_wrap=True))


def tolerate_any_encoding(stream: TextIO) -> None:
    """Have a stream write something similar for what its encoding lacks, instead of raising an error."""

    def similar(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        text = error.object[error.start : error.end]
        return "".join(PLAIN.get(character, "?") for character in text), error.end

    codecs.register_error("airflow_fanout.similar", similar)
    if isinstance(stream, TextIOWrapper):  # a stream that holds text alone encodes nothing
        stream.reconfigure(errors="airflow_fanout.similar")


def show(report: RunReport, console: Console) -> None:
    """Show a report on a console that has markup and highlighting off."""
    run = f"{report.dag_id}, run {report.run_id}"
    if not report.groups:
        console.print(f"{run}: nothing is fanned out in it that a fan-in collects, so there is no report")
        return
    so_far = "" if report.is_finished else ": these are the figures so far"
    console.print(f"{run}: {report.state}{so_far}")
    for group in report.groups:
        console.print()
        _show_group(group, report, console)
    if report.rerun is not None:
        console.print(f"\nTo run again what has failed: {report.rerun}")


def _show_group(group: GroupReport, report: RunReport, console: Console) -> None:
    console.print(f"{group.title}: {group.headline}")
    width = max((len(figure.value) for figure in group.figures), default=0)
    for figure in group.figures:
        console.print(f"{figure.name:<10}  {figure.value:>{width}}  {figure.note}")
    show_time_line(group, report.read_at, console)
    if group.items is not None and group.items.slowest:
        console.print("Slowest items:")
        for slow in group.items.slowest:
            console.print(f"  {shortened(slow.name)}: {format_seconds(slow.seconds)}")
    if group.failures is not None:
        console.print(f"{group.failures}:")
        _show_errors(group.outcomes, console)
    for advice in group.advice:
        text = on_one_line(advice.text)
        console.print(Text("→ ", style="bold yellow").append(text, style="not bold default"))


def _show_errors(outcomes: Outcomes, console: Console) -> None:
    firsts: dict[int | None, Problem] = {problem.kind: problem for problem in reversed(outcomes.problems)}
    shown = outcomes.errors[:MOST_ROWS]
    for number, kind in enumerate(shown):
        line = _error_line(kind, firsts.get(number))
        console.print(Text(f"  {line}", style=STYLES.get(kind.state, "")))
    if left := outcomes.problem_count - sum(kind.number for kind in shown):
        console.print(f"  and {left:,} more")


def _error_line(kind: ErrorCount, first: Problem | None) -> str:
    state, names = kind.state, [shortened(name) for name in kind.names]
    if first is not None and first.items == kind.number > 1:  # a batch that left no record
        names = [f"{names[0]}: {number_of(kind.number, 'item')}"]
    if kind.number == 1 and first is not None and (first.item_tries or 0) > 1:
        state = f"{state} in {first.item_tries:,} tries"
    what = on_one_line(": ".join(filter(None, (state, kind.error))))
    return kind_line(what, names, number=kind.number, unnamed=kind.unnamed)
