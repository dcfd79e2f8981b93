"""``airflow fanout report``: reads what became of a run, and prints it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from airflow.utils.cli import suppress_logs_and_warning

from airflow_fanout.cli.command_line import metadata_session, while_read
from airflow_fanout.metadata.runs import read_report

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_fanout.reports.run_report import RunReport


__all__ = ["command"]


@suppress_logs_and_warning
@while_read()
def command(args: Namespace) -> None:
    """Print the report of a run."""
    with metadata_session("report") as session:
        report = read_report(args.dag_id, args.run_id, group_id=args.group, session=session)
    if args.output == "json":
        print(json.dumps(report, indent=2))
    elif not report["groups"]:
        print(f"{_what(report)}: nothing is fanned out in it that a fan-in collects, so there is no report")
    else:
        _show(report)


def _what(report: RunReport) -> str:
    return f"{report['dag_id']}, run {report['run_id']}"


def _show(report: RunReport) -> None:
    from rich.console import Console

    from airflow_fanout.cli.report_view import show, tolerate_any_encoding

    tolerate_any_encoding(sys.stdout)
    # Long lines are left to the terminal, so that in a pipe each stays whole.
    show(report, Console(highlight=False, markup=False, emoji=False, soft_wrap=True))
