"""Finds the Dags that ``airflow fanout check`` is about, checks them and exits with the code that follows."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from airflow_fanout.command_line import CANNOT_TELL, stop, while_read, why_unreadable
from airflow_fanout.dag_check import check_dag
from airflow_fanout.names import close_to
from airflow_fanout.outline import outline
from airflow_fanout.surroundings import read_pools, read_surroundings

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping
    from pathlib import Path

    from airflow_fanout.dag_check import DagCheck
    from airflow_fanout.outline import DagOutline

__all__ = ["CheckError", "command"]

FINE, PROBLEM = 0, 1


class CheckError(Exception):
    """Raised when a check can't tell; its text is for the terminal."""


@dataclass(kw_only=True)
class Found:
    """
    Dags as their files make them now.

    :param dags: The Dags by id.
    :param errors: What went wrong with files, by their paths.
    """

    dags: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


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
    except CheckError as error:
        stop("check", str(error))
    except SQLAlchemyError as error:
        stop("check", why_unreadable(error))
    from airflow_fanout import check_view

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
        found = _parsed()
        outlines = [(outline(dag), "file") for _, dag in sorted(found.dags.items())]
        errors = found.errors
    else:
        outlines = [_one(dag_id)]
    wanted = [(each, source) for each, source in outlines if dag_id or each.groups or each.fan_ins]
    surroundings = read_surroundings(pools)
    checks = [(check_dag(each, surroundings), source) for each, source in wanted]
    return checks, len(outlines) - len(wanted), errors


def _one(dag_id: str) -> tuple[DagOutline, str]:
    """Find a Dag: in the file that had it last, else in any, else as it is in the database."""
    from airflow.models.dag import DagModel

    with create_session() as session:
        row = session.execute(
            select(DagModel.bundle_name, DagModel.relative_fileloc).where(DagModel.dag_id == dag_id)
        ).first()
    found = Found()
    if row is not None and row.relative_fileloc:
        found = _parsed(dag_id, in_bundle=row.bundle_name, file=row.relative_fileloc)
        if dag_id not in found.dags and found.errors:
            raise CheckError(_unparsed(f"the file of Dag {dag_id!r} can't be imported", found.errors))
    if dag_id not in found.dags:
        found = _parsed(dag_id)
    if dag_id in found.dags:
        return outline(found.dags[dag_id]), "file"
    if row is not None and (stored := _stored(dag_id)) is not None:
        return outline(stored), "database"
    raise CheckError(_unknown(dag_id, found))


def _parsed(dag_id: str | None = None, *, in_bundle: str | None = None, file: str | None = None) -> Found:
    """
    Parse Dag files as ``airflow tasks list`` does, but without writing to the database.

    :param dag_id: The Dag that is wanted, at which to stop; files may leave out what takes long for others.
    :param in_bundle: The one bundle to look in; None for all.
    :param file: The one file in it, by its path in the bundle; None for all.
    """
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager

    found = Found()
    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    for bundle in manager.get_all_dag_bundles():
        if in_bundle not in {None, bundle.name}:
            continue
        bundle.initialize()
        path: Path = bundle.path
        with _airflow_parsing_context_manager(dag_id=dag_id):
            bag = BundleDagBag(
                dag_folder=path if file is None else path / file, bundle_path=path, bundle_name=bundle.name
            )
        found.errors |= bag.import_errors
        found.dags |= bag.dags
        if dag_id in bag.dags:
            break
    return found


def _stored(dag_id: str) -> Any:
    from airflow.models.serialized_dag import SerializedDagModel

    return SerializedDagModel.get_dag(dag_id)


def _unknown(dag_id: str, found: Found) -> str:
    from airflow.models.dag import DagModel

    with create_session() as session:
        known = {*found.dags, *session.scalars(select(DagModel.dag_id))}
    message = f"there is no Dag {dag_id!r}; {close_to(dag_id, known)}"
    return (
        _unparsed(f"{message}. It may be in a file that can't be imported", found.errors)
        if found.errors
        else message
    )


def _unparsed(message: str, errors: Mapping[str, str]) -> str:
    return "\n".join(
        [f"{message}:", *(f"{file}: {error.rstrip()}" for file, error in sorted(errors.items()))]
    )
