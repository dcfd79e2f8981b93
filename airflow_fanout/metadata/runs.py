"""Runs of a Dag as the metadata database has them, read as values: one, or the last ones."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache, cached
from sqlalchemy import func, select

from airflow_fanout.metadata.run_rows import (
    MOST_KEYS,
    as_text,
    cut_before,
    names_of_silent_batches,
    of_run,
    of_runs,
    rendered_prefixes,
    task_runs,
    xcoms,
    yielded_items,
)
from airflow_fanout.reports.branches import UnknownGroupError
from airflow_fanout.reports.runs import RunFacts
from airflow_fanout.reports.timing import seconds_between
from airflow_fanout.rules.names import SPLIT
from airflow_fanout.rules.records import (
    RECORD_KEY,
    RETURN_VALUE,
    REUSE_KEY,
    SKIPPED_KEY,
    bounds_in,
    read_reuse,
    skips_in,
)
from airflow_fanout.rules.wording import close_to
from airflow_fanout.serialization.outline import DagOutline, outline

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence

    from airflow.models.dagrun import DagRun
    from airflow.serialization.definitions.dag import SerializedDAG
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from airflow_fanout.rules.records import Bounds, ReuseRecord


CANDIDATES = 5  # runs that an error names
ENDED = ("success", "failed")  # states of runs that nothing more becomes of
MOST_OUTLINES = 8  # of Dags that are kept
RUNS_AT_ONCE = 10  # that are read together
RECORDS_AT_ONCE = 32 * 1024 * 1024  # characters of records


class UnknownDagError(LookupError):
    """
    Raised when the database has no Dag of an id; its text is for people.

    :param message: What is the matter.
    :param known: Ids of all Dags, among which those like the wanted one are looked for when the text is read:
        of thousands that takes a second.
    """

    def __init__(self, message: str, dag_id: str = "", known: Sequence[str] | None = None) -> None:
        super().__init__(message)
        self.dag_id, self.known = dag_id, known

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.known is None else f"{message}; {close_to(self.dag_id, self.known)}"


class UnknownRunError(LookupError):
    """Raised when a Dag has no run of an id, or none at all; its text is for people."""


NOT_FOUND = (UnknownDagError, UnknownGroupError, UnknownRunError)


def find_run(dag_id: str, run_id: str | None, *, session: Session) -> DagRun:
    """
    Find a run; without an id the latest, as Airflow's UI has it: that with the latest ``run_after``.

    :raises UnknownDagError: If there is no such Dag.
    :raises UnknownRunError: If it has no such run.
    """
    found = find_runs(dag_id, 1, run_id=run_id, session=session)
    return found[0]


def find_runs(dag_id: str, number: int, *, run_id: str | None = None, session: Session) -> list[DagRun]:
    """
    Find the latest runs of a Dag, the latest first, or that of an id; errors are those of :func:`find_run`.

    :return: At least one.
    """
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun

    runs = select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.run_after.desc(), DagRun.id.desc())
    wanted = runs.limit(number) if run_id is None else runs.where(DagRun.run_id == run_id)
    found = list(session.scalars(wanted))
    if found:
        return found
    dag_ids = list(session.scalars(select(DagModel.dag_id)))
    if dag_id not in dag_ids:
        message = f"There is no Dag {dag_id!r} in the metadata database"
        raise UnknownDagError(message, dag_id, dag_ids)
    latest = ", ".join(repr(run.run_id) for run in session.scalars(runs.limit(CANDIDATES)))
    message = f"Dag {dag_id!r} has no run yet: airflow dags trigger {dag_id}"
    if latest:
        message = f"Dag {dag_id!r} has no run {run_id!r}; the latest ones are {latest}"
    raise UnknownRunError(message)


def read_run(
    dag_run: DagRun,
    *,
    dag: DagOutline | None = None,
    batch: tuple[str, int] | None = None,
    session: Session,
) -> RunFacts:
    """
    Read all that is known of a run's branches: a number of queries that doesn't depend on theirs.

    :param dag: Its Dag; None for the Dag as it was when the run's last tasks were made.
    :param batch: Group and number of the only batch to read; None for all.
    :raises UnknownDagError: If the database no longer has the Dag as it was for the run.
    """
    if dag is None:
        dags = _outlines_then(dag_run.dag_id, [dag_run.run_id], session=session)
        dag = dags.get(dag_run.run_id) or outline(dag_of(dag_run, session=session))
    only = None
    if batch is not None:
        each = dag.groups[batch[0]].each if batch[0] in dag.groups else ()
        only = each[-1] if each else "", batch[1]
    (facts,) = _facts([dag_run], {dag_run.run_id: dag}, only, session=session)
    if batch is not None or facts.state in ENDED:
        return facts
    return replace(facts, earlier_walls=_earlier_walls(dag_run, dag, session=session))


def read_runs(dag_runs: Sequence[DagRun], *, session: Session) -> Iterator[RunFacts]:
    """
    Read all that is known of some runs of a Dag, one after another.

    Ten are read at once, or fewer where their records are large: the number of queries depends on that of the
    runs divided by ten, and on how many versions of the Dag these ran. Runs whose Dag the database no longer
    has as it was are left out.
    """
    for chunk in _chunks(dag_runs, session=session):
        dags = _outlines_then(chunk[0].dag_id, [run.run_id for run in chunk], session=session)
        for dag_run in chunk:
            if dag_run.run_id not in dags:
                with suppress(UnknownDagError):
                    dags[dag_run.run_id] = outline(dag_of(dag_run, session=session))
        readable = [run for run in chunk if run.run_id in dags]
        if readable:
            yield from _facts(readable, dags, None, session=session)


def _chunks(dag_runs: Sequence[DagRun], *, session: Session) -> Iterator[list[DagRun]]:
    """Divide runs into such as are read at once."""
    from airflow.models.xcom import XComModel

    if not dag_runs:
        return
    size = func.sum(func.length(as_text(XComModel.value)))
    wanted = select(XComModel.run_id, size).where(*of_runs(XComModel, dag_runs), XComModel.key == RECORD_KEY)
    rows = session.execute(wanted.group_by(XComModel.run_id))
    sizes = {run_id: int(characters or 0) for run_id, characters in rows}
    chunk: list[DagRun] = []
    characters = 0
    for dag_run in dag_runs:
        own = sizes.get(dag_run.run_id, 0)
        if chunk and (len(chunk) == RUNS_AT_ONCE or characters + own > RECORDS_AT_ONCE):
            yield chunk
            chunk, characters = [], 0
        chunk.append(dag_run)
        characters += own
    yield chunk


def _facts(
    dag_runs: Sequence[DagRun],
    dags: Mapping[str, DagOutline],
    only: tuple[str, int] | None,
    *,
    session: Session,
) -> list[RunFacts]:
    """Read some runs of one Dag, with its outline for each of them."""
    outlines = [dags[run.run_id] for run in dag_runs]
    keys = {RETURN_VALUE, *(fan_in.key for dag in outlines for fan_in in dag.fan_ins)}
    found = task_runs(dag_runs, keys, only, session=session)
    splits = {task.task_id for dag in outlines for task in dag.tasks.values() if task.is_split}
    bounds: dict[str, dict[str, Sequence[Bounds]]] = defaultdict(dict)
    for (run_id, task_id, _), value in xcoms(dag_runs, RETURN_VALUE, task_ids=splits, session=session):
        if (cuts := bounds_in(value)) is not None:
            bounds[run_id][task_id] = cuts
    reusing = {group.prefix + SPLIT for dag in outlines for group in dag.groups.values() if group.reuses}
    reuse: dict[str, dict[str, ReuseRecord]] = defaultdict(dict)
    pushed_of_reuse = xcoms(dag_runs, REUSE_KEY, task_ids=reusing, session=session) if reusing else ()
    for (run_id, task_id, _), value in pushed_of_reuse:
        if (record := read_reuse(value)) is not None:
            reuse[run_id][task_id] = record
    skips: dict[str, dict[str, Any]] = defaultdict(dict)
    for (run_id, task_id, _), pushed in xcoms(dag_runs, SKIPPED_KEY, session=session):
        skips[run_id][task_id] = skips_in(pushed)
    prefixes = rendered_prefixes(dag_runs, outlines, session=session)
    cut_groups = [
        cut_before(dag, found[dag_run.run_id]) for dag_run, dag in zip(dag_runs, outlines, strict=True)
    ]
    yielded = yielded_items(dag_runs, outlines, cut_groups, session=session)
    return [
        RunFacts(
            dag_id=dag_run.dag_id,
            run_id=dag_run.run_id,
            state=str(dag_run.state),
            outline=dag,
            task_runs=tuple(found[dag_run.run_id]),
            prefixes=prefixes[dag_run.run_id],
            bounds=bounds[dag_run.run_id],
            batch_names=dict(
                names_of_silent_batches(
                    dag_run, dag, found[dag_run.run_id], bounds[dag_run.run_id], only, session=session
                )
            ),
            yielded=yielded[dag_run.run_id],
            cut_before=again,
            reuse=reuse[dag_run.run_id],
            skips=skips[dag_run.run_id],
        )
        for dag_run, dag, again in zip(dag_runs, outlines, cut_groups, strict=True)
    ]


def dag_of(dag_run: DagRun, *, session: Session) -> SerializedDAG:
    """Read the Dag as cleared tasks run it now: the latest version, unless the bundle keeps versions."""
    from airflow.models.dagbag import DBDagBag

    dag = DBDagBag(load_op_links=False).get_dag_for_run(dag_run, session=session)
    if dag is None:
        message = f"The metadata database no longer has Dag {dag_run.dag_id!r} as it was for this run"
        raise UnknownDagError(message)
    return dag


def _outlines_then(dag_id: str, run_ids: Sequence[str], *, session: Session) -> dict[str, DagOutline]:
    """Read the Dag in the newest version that one of each run's tasks has, by run; without what is gone."""
    from airflow.models.dag_version import DagVersion
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import TaskInstance

    known = session.execute(
        select(TaskInstance.run_id, SerializedDagModel.id, SerializedDagModel.dag_hash)
        .join(DagVersion, DagVersion.id == TaskInstance.dag_version_id)
        .join(SerializedDagModel, SerializedDagModel.dag_version_id == DagVersion.id)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(run_ids))
        .group_by(
            TaskInstance.run_id, SerializedDagModel.id, SerializedDagModel.dag_hash, DagVersion.version_number
        )
        .order_by(DagVersion.version_number)
    )
    newest = {run_id: (own_id, dag_hash) for run_id, own_id, dag_hash in known}
    outlines = {run_id: _outline_of(*version, session=session) for run_id, version in newest.items()}
    return {run_id: found for run_id, found in outlines.items() if found is not None}


@cached(LRUCache(maxsize=MOST_OUTLINES), key=lambda own_id, dag_hash, **_: (own_id, dag_hash), lock=Lock())
def _outline_of(own_id: Any, _: str, *, session: Session) -> DagOutline | None:
    """Read a Dag as it was serialized, which of one of thousands of tasks takes half a second."""
    from airflow.models.serialized_dag import SerializedDagModel

    serialized = session.get(SerializedDagModel, own_id)
    if serialized is None:
        return None
    serialized.load_op_links = False
    return outline(serialized.dag)


def _earlier_walls(dag_run: DagRun, dag: DagOutline, *, session: Session) -> dict[str, list[float]]:
    """
    Seconds from the first queued to the last end of each group in the last runs before, the newest first.

    One query for each group, and one for the runs.
    """
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

    before = (
        select(DagRun.run_id)
        .where(DagRun.dag_id == dag_run.dag_id, DagRun.state.in_(ENDED), DagRun.run_id != dag_run.run_id)
        .order_by(DagRun.run_after.desc(), DagRun.id.desc())
        .limit(RUNS_AT_ONCE)
    )
    run_ids = list(session.scalars(before))
    walls: dict[str, list[float]] = {}
    for group in dag.groups.values() if run_ids else ():
        own: ColumnElement[bool] = TaskInstance.task_id.in_(group.all_task_ids[:MOST_KEYS])
        if group.prefix:
            own = TaskInstance.task_id.startswith(group.prefix, autoescape=True)
        wanted = (
            select(TaskInstance.run_id, func.min(TaskInstance.queued_dttm), func.max(TaskInstance.end_date))
            .where(TaskInstance.dag_id == dag_run.dag_id, TaskInstance.run_id.in_(run_ids), own)
            .where(TaskInstance.task_id != group.prefix + SPLIT, TaskInstance.queued_dttm.is_not(None))
            .group_by(TaskInstance.run_id)
        )
        spans = {run_id: seconds_between(*span) for run_id, *span in session.execute(wanted)}
        walls[group.group_id] = [wall for run_id in run_ids if (wall := spans.get(run_id)) is not None]
    return walls


def ended_version(dag_id: str, run_id: str, *, session: Session) -> Hashable | None:
    """Tell what a report of a run that has ended is made of; it is another when that changes. None before."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel

    dag_run = find_run(dag_id, run_id, session=session)
    if str(dag_run.state) not in ENDED:
        return None
    instances = select(func.count(), func.max(TaskInstance.updated_at)).where(*of_run(TaskInstance, dag_run))
    xcoms = select(func.count(), func.max(XComModel.timestamp)).where(*of_run(XComModel, dag_run))
    counted = (*session.execute(instances).one(), *session.execute(xcoms).one())
    return dag_run.id, dag_run.updated_at, counted
