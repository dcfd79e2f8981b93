"""The one place that reads runs from the metadata database."""

from __future__ import annotations

import json
from contextlib import suppress
from threading import Lock
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache, cached
from sqlalchemy import Text, case, cast, func, null, or_, select

from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.reports.branches import UnknownGroupError
from airflow_fanout.reports.runs import RunFacts, TaskRun
from airflow_fanout.reports.timing import TaskTry
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.names import SPLIT
from airflow_fanout.rules.outcomes import UP_FOR_RETRY, LostValue
from airflow_fanout.rules.records import (
    BATCH_KEY,
    PART_KEY,
    RECORD_KEY,
    RETURN_VALUE,
    SKIPPED_KEY,
    LostRecord,
    batch_key,
    bounds_in,
    names_in,
    read_record,
    skips_in,
    yielded_in,
)
from airflow_fanout.rules.wording import close_to
from airflow_fanout.serialization.outline import DagOutline, outline
from airflow_fanout.serialization.stored_values import lost_bodies, plain_json, values_lie_elsewhere

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence

    from airflow.models.dagrun import DagRun
    from airflow.serialization.definitions.dag import SerializedDAG
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from airflow_fanout.rules.outcomes import ValueState
    from airflow_fanout.rules.records import Bounds


ALL_TRIES = {"include_all_attempts": True}
"""Options of a query for earlier tries too, which Airflow hides from 3.4 on."""

CANDIDATES = 5  # runs that an error names
LONGEST_REFERENCE = 4096  # characters of where a value is stored
MOST_OUTLINES = 8  # of Dags that are kept
MOST_KEYS = 1000  # that one query names


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
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun

    runs = select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.run_after.desc(), DagRun.id.desc())
    wanted = runs.limit(1) if run_id is None else runs.where(DagRun.run_id == run_id)
    dag_run: DagRun | None = session.scalar(wanted)
    if dag_run is not None:
        return dag_run
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
        dag = _outline_then(dag_run, session=session) or outline(dag_of(dag_run, session=session))
    keys = {RETURN_VALUE, *(fan_in.key for fan_in in dag.fan_ins)}
    only = None
    if batch is not None:
        each = dag.groups[batch[0]].each if batch[0] in dag.groups else ()
        only = each[-1] if each else "", batch[1]
    task_runs = tuple(_task_runs(dag_run, keys, only, session=session))
    splits = [task.task_id for task in dag.tasks.values() if task.operator == "SplitOperator"]
    bounds = {
        task_id: cuts
        for (task_id, _), value in _xcoms(dag_run, RETURN_VALUE, task_ids=splits, session=session)
        if (cuts := bounds_in(value)) is not None
    }
    return RunFacts(
        dag_id=dag_run.dag_id,
        run_id=dag_run.run_id,
        state=str(dag_run.state),
        outline=dag,
        task_runs=task_runs,
        prefixes=_prefixes(dag_run, dag, session=session),
        bounds=bounds,
        batch_names=dict(_names_of_silent_batches(dag_run, dag, task_runs, bounds, only, session=session)),
        yielded=dict(_yielded(dag_run, dag, session=session)),
        skips={
            task_id: skips_in(pushed)
            for (task_id, _), pushed in _xcoms(dag_run, SKIPPED_KEY, session=session)
        },
    )


def dag_of(dag_run: DagRun, *, session: Session) -> SerializedDAG:
    """Read the Dag as cleared tasks run it now: the latest version, unless the bundle keeps versions."""
    from airflow.models.dagbag import DBDagBag

    dag = DBDagBag(load_op_links=False).get_dag_for_run(dag_run, session=session)
    if dag is None:
        message = f"The metadata database no longer has Dag {dag_run.dag_id!r} as it was for this run"
        raise UnknownDagError(message)
    return dag


def _outline_then(dag_run: DagRun, *, session: Session) -> DagOutline | None:
    """Read the Dag in the newest version that one of the run's tasks has; None if that is gone."""
    from airflow.models.dag_version import DagVersion
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.models.taskinstance import TaskInstance

    known = session.execute(
        select(SerializedDagModel.id, SerializedDagModel.dag_hash)
        .join(DagVersion, DagVersion.id == SerializedDagModel.dag_version_id)
        .join(TaskInstance, TaskInstance.dag_version_id == DagVersion.id)
        .where(*of_run(TaskInstance, dag_run))
        .order_by(DagVersion.version_number.desc())
        .limit(1)
    ).one_or_none()
    return None if known is None else _outline_of(*known, session=session)


@cached(LRUCache(maxsize=MOST_OUTLINES), key=lambda own_id, dag_hash, **_: (own_id, dag_hash), lock=Lock())
def _outline_of(own_id: Any, _: str, *, session: Session) -> DagOutline | None:
    """Read a Dag as it was serialized, which of one of thousands of tasks takes half a second."""
    from airflow.models.serialized_dag import SerializedDagModel

    serialized = session.get(SerializedDagModel, own_id)
    if serialized is None:
        return None
    serialized.load_op_links = False
    return outline(serialized.dag)


def of_run(
    model: Any, dag_run: DagRun, only: tuple[str, int] | None = None
) -> tuple[ColumnElement[bool], ...]:
    """Conditions that choose a model's rows of one run, or of one of its task instances."""
    conditions = model.dag_id == dag_run.dag_id, model.run_id == dag_run.run_id
    return conditions if only is None else (*conditions, model.task_id == only[0], model.map_index == only[1])


def _tries(model: Any) -> tuple[Any, ...]:
    """Columns of tries, alone: thousands of them are not made into objects."""
    times = model.queued_dttm, model.start_date, model.end_date
    return model.task_id, model.map_index, model.state, *times, model.try_number


def _task_runs(
    dag_run: DagRun, keys: Collection[str], only: tuple[str, int] | None, *, session: Session
) -> Iterator[TaskRun]:
    """Task instances, or one, with their records, and the state of the values pushed under some keys."""
    from airflow.models.taskinstance import TaskInstance

    records = dict(_records_of_waiting(dag_run, only, session=session))
    records |= dict(_xcoms(dag_run, RECORD_KEY, only=only, session=session))
    are_numbered_ahead = bool(_archive()[1])  # from Airflow 3.4 on, while an instance waits
    values = _value_states(dag_run, keys, only, session=session)
    earlier = _earlier_tries(dag_run, only, session=session)
    columns = *_tries(TaskInstance), TaskInstance.hostname
    order = TaskInstance.task_id, TaskInstance.map_index
    rows: Iterable[Any] = session.execute(
        select(*columns).where(*of_run(TaskInstance, dag_run, only)).order_by(*order)
    )
    for task_id, map_index, state, queued, started, ended, tries, hostname in rows:
        record = records.pop((task_id, map_index), None)
        yield TaskRun(
            task_id=task_id,
            map_index=map_index,
            state=None if state is None else str(state),
            queued=queued,
            started=started,
            ended=ended,
            tries=tries - (are_numbered_ahead and tries > 0 and state in {None, UP_FOR_RETRY}),
            earlier=tuple(earlier.get((task_id, map_index), ())),
            hostname=hostname or "",
            record=record if isinstance(record, LostRecord) else read_record(record),
            values=values.get((task_id, map_index), {}),
        )


def _value_states(
    dag_run: DagRun, keys: Collection[str], only: tuple[str, int] | None, *, session: Session
) -> dict[tuple[str, int], dict[str, ValueState]]:
    """Tell of each value whether it can be read; no value is read for that."""
    from airflow.models.xcom import XComModel

    are_elsewhere = values_lie_elsewhere()
    stored = case((func.length(_text(XComModel.value)) <= LONGEST_REFERENCE, _text(XComModel.value)))
    columns = XComModel.task_id, XComModel.map_index, XComModel.key, stored if are_elsewhere else null()
    is_wanted = or_(XComModel.key.in_(keys), XComModel.key.startswith(PART_KEY, autoescape=True))
    wanted = select(*columns).where(*of_run(XComModel, dag_run, only), is_wanted)
    rows = [(*row[:3], _reference(row[3])) for row in session.execute(wanted)]
    lost = set(lost_bodies(reference for *_, reference in rows))
    states: dict[tuple[str, int], dict[str, ValueState]] = {}
    for task_id, map_index, key, reference in rows:
        state: ValueState = LostValue(reference) if reference in lost else "present"
        states.setdefault((task_id, map_index), {})[key] = state
    return states


def _reference(text: str | None) -> str | None:
    """Read a value that may be where a value is stored; None of any other."""
    return json.loads(text) if text is not None and text.startswith('"') else None


def _earlier_tries(
    dag_run: DagRun, only: tuple[str, int] | None, *, session: Session
) -> dict[tuple[str, int], list[TaskTry]]:
    model, options = _archive()
    wanted = select(*_tries(model)).where(*of_run(model, dag_run, only), *options)
    tries: dict[tuple[str, int], list[TaskTry]] = {}
    rows = session.execute(wanted.order_by(model.try_number), execution_options=ALL_TRIES)
    for task_id, map_index, status, queued, started, ended, number in rows:
        state = None if status is None else str(status)
        task_try = TaskTry(number=number, state=state, queued=queued, started=started, ended=ended)
        tries.setdefault((task_id, map_index), []).append(task_try)
    return tries


def _archive() -> tuple[Any, list[ColumnElement[bool]]]:
    """Model of earlier tries, and what chooses them: from Airflow 3.4 on each is a task instance."""
    from airflow.models.taskinstance import TaskInstance

    if hasattr(TaskInstance, "working_set"):
        return TaskInstance, [TaskInstance.working_set.is_(None)]
    from airflow.models.taskinstancehistory import TaskInstanceHistory

    return TaskInstanceHistory, []


def _records_of_waiting(
    dag_run: DagRun, only: tuple[str, int] | None, *, session: Session
) -> Iterator[tuple[tuple[str, int], Any]]:
    """Records of what waits for its retry: from Airflow 3.4 on they stay with the try that left them."""
    from airflow.models.xcom import XComModel

    model, archived = _archive()
    if not archived:
        return
    wanted = (
        select(model.task_id, model.map_index, _text(XComModel.value))
        .join(XComModel, XComModel.task_instance_id == model.id)
        .where(
            *of_run(model, dag_run, only), *archived, XComModel.key == RECORD_KEY, model.state == UP_FOR_RETRY
        )
        .order_by(model.try_number)
    )
    for task_id, map_index, text in session.execute(wanted, execution_options=ALL_TRIES):
        with suppress(FileNotFoundError, UnreadableValueError):
            yield (task_id, map_index), _read(text, f"The record of {task_id!r}")


def _xcoms(
    dag_run: DagRun,
    key: str,
    *,
    task_ids: Iterable[str] | None = None,
    only: tuple[str, int] | None = None,
    session: Session,
) -> Iterator[tuple[tuple[str, int], Any]]:
    """What tasks pushed under a key, as plain JSON, of which no object is made."""
    from airflow.models.xcom import XComModel

    columns = select(XComModel.task_id, XComModel.map_index, _text(XComModel.value))
    wanted = columns.where(*of_run(XComModel, dag_run, only), XComModel.key == key)
    if task_ids is not None:
        wanted = wanted.where(XComModel.task_id.in_(task_ids))
    for task_id, map_index, text in session.execute(wanted):
        try:
            value = _read(text, f"What {task_id!r} pushed under {key!r}")
        except FileNotFoundError as gone:  # the body of an object-storage XCom
            value = LostRecord(str(gone))
        except UnreadableValueError as unreadable:
            if unreadable.is_of_storage:
                raise
            continue  # somebody else has pushed under a key of this package
        yield (task_id, map_index), value


def _text(column: Any) -> ColumnElement[str | None]:
    """
    Choose a value as JSON that is not read yet.

    Else one that Python can't read, nested a thousand times or a number of 5,000 digits, takes all along.
    """
    return cast(column, Text)


def _read(text: str | None, what: str) -> Any:
    """Read a value as plain JSON; errors are those of ``plain_json``."""
    try:
        value = None if text is None else json.loads(text)
    except (RecursionError, ValueError) as cause:
        raise UnreadableValueError(what, cause=cause) from cause
    return plain_json(SimpleNamespace(value=value), what)


def _prefixes(dag_run: DagRun, dag: DagOutline, *, session: Session) -> Mapping[str, str]:
    """Prefixes as rendered; Airflow keeps those of a Dag's last runs only."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered

    templated = [fan_in.task_id for fan_in in dag.fan_ins if fan_in.is_templated]
    if not templated:
        return {}
    columns = select(Rendered.task_id, Rendered.rendered_fields)
    rows = session.execute(columns.where(*of_run(Rendered, dag_run), Rendered.task_id.in_(templated)))
    prefixes = {task_id: fields.get("task_id_prefix") for task_id, fields in rows}
    return {task_id: prefix for task_id, prefix in prefixes.items() if isinstance(prefix, str)}


def _names_of_silent_batches(
    dag_run: DagRun,
    dag: DagOutline,
    task_runs: Iterable[TaskRun],
    bounds: Mapping[str, Sequence[Bounds]],
    only: tuple[str, int] | None,
    *,
    session: Session,
) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """
    Names of the items of the batches that left no record of them, where they came with the items.

    From the database names come alone, without the items. From object storage they don't, so that those of
    batches that have not ended are not read.
    """
    from airflow.models.xcom import XComModel

    told = {run.key: run.batch_record.cut for run in task_runs if run.batch_record is not None}
    waiting: set[tuple[str, int]] = set()
    if values_lie_elsewhere():
        waiting = {run.key for run in task_runs if run.state not in FINISHED}
    for group in dag.groups.values():
        split_id = group.prefix + SPLIT
        if group.mode != "batched" or group.names is not None:
            continue
        silent = {
            batch_key(number): number
            for number, cut in enumerate(bounds.get(split_id, ()))
            for instance in [(group.each[-1], number)]
            if told.get(instance) != cut and instance not in waiting and only in {None, instance}
        }
        if silent and not values_lie_elsewhere():
            keys: ColumnElement[bool] = XComModel.key.in_(silent)
            if len(silent) > MOST_KEYS:
                keys = XComModel.key.startswith(BATCH_KEY, autoescape=True)
            columns = select(XComModel.key, *_names_and_rest(XComModel.value, session=session))
            conditions = *of_run(XComModel, dag_run), XComModel.task_id == split_id, keys
            for key, part, whole in session.execute(columns.where(*conditions)):
                with suppress(UnreadableValueError):
                    what = f"What {split_id!r} pushed under {key!r}"
                    value = {"names": _read(part, what)} if whole is None else _read(whole, what)
                    if key in silent and (names := names_in(value)) is not None:
                        yield (split_id, silent[key]), names
            continue
        for key, number in silent.items():
            for _, value in _xcoms(dag_run, key, task_ids=[split_id], session=session):
                if (names := names_in(value)) is not None:
                    yield (split_id, number), names


def _names_and_rest(value: Any, *, session: Session) -> tuple[Any, Any]:
    """Choose the names in a value; SQLite can't take apart what has a NaN, of which the whole is chosen."""
    if session.get_bind().dialect.name != "sqlite":
        return _text(value["names"]), null()
    is_json = func.json_valid(_text(value)) == 1
    return case((is_json, _text(value["names"]))), case((~is_json, _text(value)))


def _yielded(
    dag_run: DagRun, dag: DagOutline, *, session: Session
) -> Iterator[tuple[str, Sequence[str] | int]]:
    """Names, or number, of mapped branches that are known only at run time, by group."""
    for group in dag.groups.values():
        if group.items_from is not None:
            for _, value in _xcoms(dag_run, RETURN_VALUE, task_ids=[group.items_from], session=session):
                if (yielded := yielded_in(value)) is not None:
                    yield group.group_id, yielded


def ended_version(dag_id: str, run_id: str, *, session: Session) -> Hashable | None:
    """Tell what a report of a run that has ended is made of; it is another when that changes. None before."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel

    dag_run = find_run(dag_id, run_id, session=session)
    if str(dag_run.state) not in {"success", "failed"}:
        return None
    instances = select(func.count(), func.max(TaskInstance.updated_at)).where(*of_run(TaskInstance, dag_run))
    xcoms = select(func.count(), func.max(XComModel.timestamp)).where(*of_run(XComModel, dag_run))
    counted = (*session.execute(instances).one(), *session.execute(xcoms).one())
    return dag_run.id, dag_run.updated_at, counted
