"""``airflow fanout report``: reads what became of a run, and prints it."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow.utils.cli import suppress_logs_and_warning

from airflow_fanout.branch_runs import chosen_group_runs
from airflow_fanout.capacity import Capacity
from airflow_fanout.command_line import metadata_session
from airflow_fanout.metadata import find_run, read_run
from airflow_fanout.run_report import RunReport, run_report

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from airflow_fanout.branch_runs import GroupRun, RunFacts

__all__ = ["command", "read_report"]


@suppress_logs_and_warning
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


def read_report(
    dag_id: str, run_id: str | None, *, group_id: str | None = None, session: Session
) -> RunReport:
    """
    Read the report of a run.

    :param dag_id: Id of the Dag.
    :param run_id: Id of the run; None for the latest.
    :param group_id: Id of the only group to report on, or of the fan-in of what has no group; None for all.
    :param session: The metadata database.
    :raises UnknownDagError: If there is no such Dag.
    :raises UnknownRunError: If it has no such run.
    :raises UnknownGroupError: If the run has no such group.
    """
    facts = read_run(find_run(dag_id, run_id, session=session), session=session)
    runs = chosen_group_runs(facts, None if group_id is None else [group_id])
    return run_report(facts, runs, now=datetime.now(UTC), capacity_of=_capacity(facts))


def _capacity(facts: RunFacts) -> Callable[[GroupRun, int], Capacity | None]:
    """Make what tells how many branches, or batches, can run at once, as things are now."""
    from airflow_fanout.group_capacity import group_capacity
    from airflow_fanout.surroundings import read_surroundings

    surroundings = read_surroundings()

    def capacity_of(run: GroupRun, count: int) -> Capacity | None:
        if run.group is None:
            return None
        declared = sum(branch.state != "removed" for branch in run.branches)
        found = group_capacity(facts.outline, run.group, surroundings, declared=declared)
        if found.effective >= count:
            return Capacity(declared=count, effective=count, limit=None)
        return Capacity(declared=count, effective=found.effective, limit=found.limit)

    return capacity_of


def _what(report: RunReport) -> str:
    return f"{report['dag_id']}, run {report['run_id']}"


def _show(report: RunReport) -> None:
    from rich.console import Console

    from airflow_fanout.report_view import show, tolerate_any_encoding

    tolerate_any_encoding(sys.stdout)
    # Long lines are left to the terminal, so that in a pipe each stays whole.
    show(report, Console(highlight=False, markup=False, emoji=False, soft_wrap=True))
