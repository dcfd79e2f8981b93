"""Finds the Dags that ``airflow fanout check`` is about, checks them and exits with the code that follows."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, NoReturn

from airflow.utils.cli import suppress_logs_and_warning
from sqlalchemy.exc import SQLAlchemyError

from airflow_fanout.cli.command_line import CANNOT_TELL, stop, while_read, why_unreadable
from airflow_fanout.metadata.dags import UnreadableDagError, find_dag, parse_dags
from airflow_fanout.metadata.limits import read_pools, read_surroundings
from airflow_fanout.reports.dag_check import check_dag
from airflow_fanout.serialization.outline import outline

if TYPE_CHECKING:
    from argparse import Namespace

    from airflow_fanout.reports.dag_check import DagCheck


__all__ = ["command"]

FINE, PROBLEM = 0, 1


@suppress_logs_and_warning
@while_read()
def command(args: Namespace) -> NoReturn:
    """Check what the command line says, show it and exit."""
    if bool(args.dag_id) == args.all:
        stop("check", "expected either a DAG_ID or --all")
    try:
        # What Airflow logs and Dag files print is not part of the report.
        with redirect_stdout(sys.stderr):
            checks, others, errors = _check(None if args.all else args.dag_id)
    except UnreadableDagError as error:
        stop("check", str(error))
    except SQLAlchemyError as error:
        stop("check", why_unreadable(error))
    from airflow_fanout.cli import check_view

    show = check_view.as_json if args.output == "json" else check_view.as_text
    show(checks, others=others, errors=errors)
    if errors:
        sys.exit(CANNOT_TELL)
    sys.exit(PROBLEM if any(check.problems for check, _ in checks) else FINE)


def _check(dag_id: str | None) -> tuple[list[tuple[DagCheck, str]], int, dict[str, str]]:
    """Return what was found out with its source, the number of Dags without a fan-out, and files' errors."""
    pools = read_pools()  # before any Dag file is parsed: without a database there is nothing to say
    errors: dict[str, str] = {}
    if dag_id is None:
        found = parse_dags()
        outlines = [(outline(dag), "file") for _, dag in sorted(found.dags.items())]
        errors = found.errors
    else:
        outlines = [find_dag(dag_id)]
    wanted = [(each, source) for each, source in outlines if dag_id or each.groups or each.fan_ins]
    surroundings = read_surroundings(pools)
    checks = [(check_dag(each, surroundings), source) for each, source in wanted]
    return checks, len(outlines) - len(wanted), errors
