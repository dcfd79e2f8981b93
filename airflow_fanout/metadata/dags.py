"""A Dag as its file makes it now, or as the database has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_fanout.rules.wording import close_to
from airflow_fanout.serialization.outline import outline

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow_fanout.serialization.outline import DagOutline

__all__ = ["ParsedDags", "UnreadableDagError", "find_dag", "parse_dags"]


class UnreadableDagError(Exception):
    """Raised when a Dag can't be found, or its file can't be imported; its text is for people."""


@dataclass(kw_only=True)
class ParsedDags:
    """
    Dags as their files make them now.

    :param dags: The Dags by id.
    :param errors: What went wrong with files, by their paths.
    """

    dags: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


def find_dag(dag_id: str) -> tuple[DagOutline, str]:
    """Find a Dag: in the file that had it last, else in any, else as it is in the database."""
    from airflow.models.dag import DagModel

    with create_session() as session:
        row = session.execute(
            select(DagModel.bundle_name, DagModel.relative_fileloc).where(DagModel.dag_id == dag_id)
        ).first()
    found = ParsedDags()
    if row is not None and row.relative_fileloc:
        found = parse_dags(dag_id, in_bundle=row.bundle_name, file=row.relative_fileloc)
        if dag_id not in found.dags and found.errors:
            raise UnreadableDagError(_unparsed(f"the file of Dag {dag_id!r} can't be imported", found.errors))
    if dag_id not in found.dags:
        found = parse_dags(dag_id)
    if dag_id in found.dags:
        return outline(found.dags[dag_id]), "file"
    if row is not None and (stored := _stored(dag_id)) is not None:
        return outline(stored), "database"
    raise UnreadableDagError(_unknown(dag_id, found))


def parse_dags(
    dag_id: str | None = None, *, in_bundle: str | None = None, file: str | None = None
) -> ParsedDags:
    """
    Parse Dag files as ``airflow tasks list`` does, but without writing to the database.

    :param dag_id: The Dag that is wanted, at which to stop; files may leave out what takes long for others.
    :param in_bundle: The one bundle to look in; None for all.
    :param file: The one file in it, by its path in the bundle; None for all.
    """
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager

    found = ParsedDags()
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


def _unknown(dag_id: str, found: ParsedDags) -> str:
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
