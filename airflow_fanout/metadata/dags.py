"""A Dag as its file makes it now, or as the database has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_fanout.rules.wording import close_to
from airflow_fanout.serialization.outline import outline

if TYPE_CHECKING:
    from airflow_fanout.serialization.outline import DagOutline

__all__ = ["ParsedDags", "UnreadableDagError", "find_dag", "parse_dags"]


class UnreadableDagError(Exception):
    """Raised when a Dag can't be found, or its file can't be imported; its text is for people."""


@dataclass(kw_only=True)
class ParsedDags:
    """Dags by id, as their files make them now, and what went wrong with files, by path."""

    dags: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def listed_errors(self) -> str:
        """The errors, a file after the other."""
        return "\n".join(f"{file}: {error.rstrip()}" for file, error in sorted(self.errors.items()))


def find_dag(dag_id: str) -> tuple[DagOutline, str]:
    """Find a Dag: in the file that had it last, else in any, else as it is in the database."""
    from airflow.models.dag import DagModel
    from airflow.models.serialized_dag import SerializedDagModel

    with create_session() as session:
        files = {
            dag.dag_id: (dag.bundle_name, dag.relative_fileloc)
            for dag in session.execute(
                select(DagModel.dag_id, DagModel.bundle_name, DagModel.relative_fileloc)
            )
        }
    parsed = ParsedDags()
    bundle, file = files.get(dag_id, (None, None))
    if file:
        parsed = parse_dags(dag_id, bundle_name=bundle, file=file)
        if dag_id not in parsed.dags and parsed.errors:
            message = f"the file of Dag {dag_id!r} can't be imported:\n{parsed.listed_errors()}"
            raise UnreadableDagError(message)
    if dag_id not in parsed.dags:
        parsed = parse_dags(dag_id)
    if dag_id in parsed.dags:
        return outline(parsed.dags[dag_id]), "file"
    stored = SerializedDagModel.get_dag(dag_id) if dag_id in files else None
    if stored is not None:
        return outline(stored), "database"
    message = f"there is no Dag {dag_id!r}; {close_to(dag_id, {*parsed.dags, *files})}"
    if parsed.errors:
        message += f". It may be in a file that can't be imported:\n{parsed.listed_errors()}"
    raise UnreadableDagError(message)


def parse_dags(
    dag_id: str | None = None, *, bundle_name: str | None = None, file: str | None = None
) -> ParsedDags:
    """
    Parse Dag files as ``airflow tasks list`` does, but without writing to the database.

    :param dag_id: The Dag that is wanted, at which to stop; files may leave out what takes long for others.
    :param bundle_name: The only bundle to look in; None for all.
    :param file: The only file, by its path in the bundle; None for all.
    """
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager

    parsed = ParsedDags()
    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    for bundle in manager.get_all_dag_bundles():
        if bundle_name not in {None, bundle.name}:
            continue
        bundle.initialize()
        folder = bundle.path if file is None else bundle.path / file
        with _airflow_parsing_context_manager(dag_id=dag_id):
            bag = BundleDagBag(dag_folder=folder, bundle_path=bundle.path, bundle_name=bundle.name)
        parsed.errors |= bag.import_errors
        parsed.dags |= bag.dags
        if dag_id in bag.dags:
            break
    return parsed
