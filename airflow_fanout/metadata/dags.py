"""A Dag as its file makes it now, or as the database has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_fanout.rules.wording import close_to
from airflow_fanout.serialization.outline import outline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_fanout.serialization.outline import DagOutline


class UnreadableDagError(Exception):
    """Raised when a Dag can't be found, or its file can't be imported; its text is for people."""


def find_dag(dag_id: str) -> tuple[DagOutline, str]:
    """Find the fan-outs and fan-ins of a Dag, and where it is from: ``file`` or ``database``."""
    dag, source = load_dag(dag_id)
    return outline(dag), source


def load_dag(dag_id: str) -> tuple[Any, str]:
    """Find a Dag: in the file that had it last, else in any, else as it is in the database."""
    from airflow.models.dag import DagModel
    from airflow.models.serialized_dag import SerializedDagModel

    with create_session() as session:
        rows = session.execute(select(DagModel.dag_id, DagModel.bundle_name, DagModel.relative_fileloc))
        files = {known_id: (bundle_name, file) for known_id, bundle_name, file in rows}
    dags: dict[str, Any] = {}
    bundle_name, file = files.get(dag_id, (None, None))
    if file:
        dags, errors = parse_dags(dag_id, bundle_name=bundle_name, file=file)
        if dag_id not in dags and errors:
            raise UnreadableDagError(_with_errors(f"the file of Dag {dag_id!r} can't be imported", errors))
    if dag_id not in dags:
        dags, errors = parse_dags(dag_id)
    if dag_id in dags:
        return dags[dag_id], "file"
    if dag_id in files and (stored := SerializedDagModel.get_dag(dag_id)) is not None:
        return stored, "database"
    message = f"there is no Dag {dag_id!r}; {close_to(dag_id, {*dags, *files})}"
    if errors:
        message = _with_errors(f"{message}. It may be in a file that can't be imported", errors)
    raise UnreadableDagError(message)


def _with_errors(message: str, errors: Mapping[str, str]) -> str:
    return "\n".join([f"{message}:", *(f"{file}: {text.rstrip()}" for file, text in sorted(errors.items()))])


def parse_dags(
    dag_id: str | None = None, *, bundle_name: str | None = None, file: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """
    Parse Dag files as ``airflow tasks list`` does, without writing: Dags by id, and errors by path.

    :param dag_id: The Dag that is wanted, at which to stop; files may leave out what takes long for others.
    :param file: The only file, by its path in the bundle; None for all.
    """
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag
    from airflow.sdk.definitions._internal.dag_parsing_context import _airflow_parsing_context_manager

    dags: dict[str, Any] = {}
    errors: dict[str, str] = {}
    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    for bundle in manager.get_all_dag_bundles():
        if bundle_name not in {None, bundle.name}:
            continue
        bundle.initialize()
        folder = bundle.path if file is None else bundle.path / file
        with _airflow_parsing_context_manager(dag_id=dag_id):
            bag = BundleDagBag(dag_folder=folder, bundle_path=bundle.path, bundle_name=bundle.name)
        errors |= bag.import_errors
        dags |= bag.dags
        if dag_id in dags:
            break
    return dags, errors
