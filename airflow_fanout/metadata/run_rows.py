"""Rows of task instances and XComs of some runs of a Dag; each kind is read by one query for all of them."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Text, case, cast, func, null, or_, select

from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.reports.runs import TaskRun
from airflow_fanout.reports.timing import TaskTry
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.names import SPLIT
from airflow_fanout.rules.outcomes import UP_FOR_RETRY, LostValue
from airflow_fanout.rules.records import (
    BATCH_KEY,
    PART_KEY,
    RECORD_KEY,
    RETURN_VALUE,
    LostRecord,
    batch_key,
    names_in,
    read_record,
    yielded_in,
)
from airflow_fanout.serialization.stored_values import lost_bodies, plain_json, values_lie_elsewhere

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from airflow.models.dagrun import DagRun
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from airflow_fanout.rules.outcomes import ValueState
    from airflow_fanout.rules.records import Bounds
    from airflow_fanout.serialization.outline import DagOutline

    Instance = tuple[str, str, int]
    """Ids of a run and a task, and a map index."""


ALL_TRIES = {"include_all_attempts": True}
"""Options of a query for earlier tries too, which Airflow hides from 3.4 on."""

LONGEST_REFERENCE = 4096  # characters of where a value is stored
MOST_KEYS = 1000  # that one query names


def of_run(model: Any, dag_run: DagRun) -> tuple[ColumnElement[bool], ...]:
    """Conditions that choose a model's rows of one run."""
    return of_runs(model, [dag_run])


def of_runs(
    model: Any, dag_runs: Sequence[DagRun], only: tuple[str, int] | None = None
) -> tuple[ColumnElement[bool], ...]:
    """Conditions that choose a model's rows of some runs of a Dag, or of one of their task instances."""
    run_ids = [run.run_id for run in dag_runs]
    conditions = model.dag_id == dag_runs[0].dag_id, model.run_id.in_(run_ids)
    return conditions if only is None else (*conditions, model.task_id == only[0], model.map_index == only[1])


def _instance(model: Any) -> tuple[Any, ...]:
    return model.run_id, model.task_id, model.map_index


def _tries(model: Any) -> tuple[Any, ...]:
    """Columns of tries, alone: thousands of them are not made into objects."""
    times = model.queued_dttm, model.start_date, model.end_date
    return model.run_id, model.task_id, model.map_index, model.state, *times, model.try_number


def task_runs(
    dag_runs: Sequence[DagRun], keys: Collection[str], only: tuple[str, int] | None, *, session: Session
) -> dict[str, list[TaskRun]]:
    """
    Task instances by run, or one of each, with their records, and the state of values under some keys.

    :param keys: XCom keys of these values.
    """
    from airflow.models.taskinstance import TaskInstance

    records = dict(_records_of_waiting(dag_runs, only, session=session))
    records |= dict(xcoms(dag_runs, RECORD_KEY, only=only, session=session))
    are_numbered_ahead = bool(_archive()[1])  # from Airflow 3.4 on, while an instance waits
    values = _value_states(dag_runs, keys, only, session=session)
    earlier = _earlier_tries(dag_runs, only, session=session)
    found: dict[str, list[TaskRun]] = defaultdict(list)
    columns = *_tries(TaskInstance), TaskInstance.hostname
    order = TaskInstance.task_id, TaskInstance.map_index
    rows: Iterable[Any] = session.execute(
        select(*columns).where(*of_runs(TaskInstance, dag_runs, only)).order_by(*order)
    )
    for run_id, task_id, map_index, state, queued, started, ended, tries, hostname in rows:
        instance = run_id, task_id, map_index
        record = records.pop(instance, None)
        found[run_id].append(
            TaskRun(
                task_id=task_id,
                map_index=map_index,
                state=None if state is None else str(state),
                queued=queued,
                started=started,
                ended=ended,
                tries=tries - (are_numbered_ahead and tries > 0 and state in {None, UP_FOR_RETRY}),
                earlier=tuple(earlier.get(instance, ())),
                hostname=hostname or "",
                record=record if isinstance(record, LostRecord) else read_record(record),
                values=values.get(instance, {}),
            )
        )
    return found


def _value_states(
    dag_runs: Sequence[DagRun], keys: Collection[str], only: tuple[str, int] | None, *, session: Session
) -> dict[Instance, dict[str, ValueState]]:
    """Tell of each value whether it can be read; no value is read for that."""
    from airflow.models.xcom import XComModel

    are_elsewhere = values_lie_elsewhere()
    stored = case((func.length(as_text(XComModel.value)) <= LONGEST_REFERENCE, as_text(XComModel.value)))
    columns = *_instance(XComModel), XComModel.key, stored if are_elsewhere else null()
    is_wanted = or_(XComModel.key.in_(keys), XComModel.key.startswith(PART_KEY, autoescape=True))
    wanted = select(*columns).where(*of_runs(XComModel, dag_runs, only), is_wanted)
    rows = [(*row[:4], _reference(row[4])) for row in session.execute(wanted)]
    lost = set(lost_bodies(reference for *_, reference in rows))
    states: dict[Instance, dict[str, ValueState]] = {}
    for *instance, key, reference in rows:
        state: ValueState = LostValue(reference) if reference in lost else "present"
        run_id, task_id, map_index = instance
        states.setdefault((run_id, task_id, map_index), {})[key] = state
    return states


def _reference(text: str | None) -> str | None:
    """Read a value that may be where a value is stored; None of any other."""
    return json.loads(text) if text is not None and text.startswith('"') else None


def _earlier_tries(
    dag_runs: Sequence[DagRun], only: tuple[str, int] | None, *, session: Session
) -> dict[Instance, list[TaskTry]]:
    model, options = _archive()
    wanted = select(*_tries(model)).where(*of_runs(model, dag_runs, only), *options)
    tries: dict[Instance, list[TaskTry]] = {}
    rows = session.execute(wanted.order_by(model.try_number), execution_options=ALL_TRIES)
    for run_id, task_id, map_index, status, queued, started, ended, number in rows:
        state = None if status is None else str(status)
        task_try = TaskTry(number=number, state=state, queued=queued, started=started, ended=ended)
        tries.setdefault((run_id, task_id, map_index), []).append(task_try)
    return tries


def _archive() -> tuple[Any, list[ColumnElement[bool]]]:
    """Model of earlier tries, and what chooses them: from Airflow 3.4 on each is a task instance."""
    from airflow.models.taskinstance import TaskInstance

    if hasattr(TaskInstance, "working_set"):
        return TaskInstance, [TaskInstance.working_set.is_(None)]
    from airflow.models.taskinstancehistory import TaskInstanceHistory

    return TaskInstanceHistory, []


def _records_of_waiting(
    dag_runs: Sequence[DagRun], only: tuple[str, int] | None, *, session: Session
) -> Iterator[tuple[Instance, Any]]:
    """Records of what waits for its retry: from Airflow 3.4 on they stay with the try that left them."""
    from airflow.models.xcom import XComModel

    model, archived = _archive()
    if not archived:
        return
    wanted = (
        select(*_instance(model), as_text(XComModel.value))
        .join(XComModel, XComModel.task_instance_id == model.id)
        .where(
            *of_runs(model, dag_runs, only),
            *archived,
            XComModel.key == RECORD_KEY,
            model.state == UP_FOR_RETRY,
        )
        .order_by(model.try_number)
    )
    rows: Iterable[Any] = session.execute(wanted, execution_options=ALL_TRIES)
    for run_id, task_id, map_index, text in rows:
        with suppress(FileNotFoundError, UnreadableValueError):
            yield (run_id, task_id, map_index), _read(text, f"The record of {task_id!r}")


def xcoms(
    dag_runs: Sequence[DagRun],
    key: str,
    *,
    task_ids: Iterable[str] | None = None,
    only: tuple[str, int] | None = None,
    session: Session,
) -> Iterator[tuple[Instance, Any]]:
    """What tasks pushed under a key, as plain JSON, of which no object is made."""
    from airflow.models.xcom import XComModel

    columns = select(*_instance(XComModel), as_text(XComModel.value))
    wanted = columns.where(*of_runs(XComModel, dag_runs, only), XComModel.key == key)
    if task_ids is not None:
        wanted = wanted.where(XComModel.task_id.in_(task_ids))
    rows: Iterable[Any] = session.execute(wanted)
    for run_id, task_id, map_index, text in rows:
        try:
            value = _read(text, f"What {task_id!r} pushed under {key!r}")
        except FileNotFoundError as gone:  # the body of an object-storage XCom
            value = LostRecord(str(gone))
        except UnreadableValueError as unreadable:
            if unreadable.is_of_storage:
                raise
            continue  # somebody else has pushed under a key of this package
        yield (run_id, task_id, map_index), value


def as_text(column: Any) -> ColumnElement[str | None]:
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


def rendered_prefixes(
    dag_runs: Sequence[DagRun], dags: Sequence[DagOutline], *, session: Session
) -> Mapping[str, dict[str, str]]:
    """Prefixes as rendered, by run and fan-in; Airflow keeps those of a Dag's last runs only."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered

    prefixes: dict[str, dict[str, str]] = defaultdict(dict)
    templated = {fan_in.task_id for dag in dags for fan_in in dag.fan_ins if fan_in.is_templated}
    if not templated:
        return prefixes
    columns = select(Rendered.run_id, Rendered.task_id, Rendered.rendered_fields)
    rows = session.execute(columns.where(*of_runs(Rendered, dag_runs), Rendered.task_id.in_(templated)))
    for run_id, task_id, fields in rows:
        if isinstance(prefix := fields.get("task_id_prefix"), str):
            prefixes[run_id][task_id] = prefix
    return prefixes


def names_of_silent_batches(
    dag_run: DagRun,
    dag: DagOutline,
    instances: Iterable[TaskRun],
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

    records = {run.key: run.batch_record for run in instances}
    told = {key: record.cut for key, record in records.items() if record is not None and record.knows_names}
    waiting: set[tuple[str, int]] = set()
    if values_lie_elsewhere():
        waiting = {run.key for run in instances if run.state not in FINISHED}
    for group in dag.groups.values():
        split_id = group.prefix + SPLIT
        if group.mode != "batched" or (group.names is not None and not group.reuses):
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
            for _, value in xcoms([dag_run], key, task_ids=[split_id], session=session):
                if (names := names_in(value)) is not None:
                    yield (split_id, number), names


def _names_and_rest(value: Any, *, session: Session) -> tuple[Any, Any]:
    """Choose the names in a value; SQLite can't take apart what has a NaN, of which the whole is chosen."""
    if session.get_bind().dialect.name != "sqlite":
        return as_text(value["names"]), null()
    is_json = func.json_valid(as_text(value)) == 1
    return case((is_json, as_text(value["names"]))), case((~is_json, as_text(value)))


def cut_before(dag: DagOutline, task_runs: Iterable[TaskRun]) -> frozenset[str]:
    """Groups whose items' task has run again since ``split`` has run."""
    last: dict[str, datetime] = {}
    for run in task_runs:
        if run.started is not None:
            last[run.task_id] = max(run.started, last.get(run.task_id, run.started))
    return frozenset(
        group.group_id
        for group in dag.groups.values()
        if (cut := last.get(group.prefix + SPLIT)) is not None
        and any(last.get(task_id, cut) > cut for task_id in group.cut_from)
    )


def yielded_items(
    dag_runs: Sequence[DagRun],
    dags: Sequence[DagOutline],
    cut_groups: Sequence[Collection[str]],
    *,
    session: Session,
) -> Mapping[str, dict[str, Sequence[str] | int]]:
    """
    Names, or number, of branches that are known only at run time, by run and group.

    Of batched ones only where they aren't those that were cut: items are not read else.

    :param cut_groups: Groups, of each run, whose items' task has run again since.
    """
    yielded: dict[str, dict[str, Sequence[str] | int]] = defaultdict(dict)
    sources: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for dag_run, dag, again in zip(dag_runs, dags, cut_groups, strict=True):
        for group in dag.groups.values():
            if group.items_from is not None and (group.mode != "batched" or group.group_id in again):
                sources[group.items_from].add((dag_run.run_id, group.group_id))
    if sources:
        for (run_id, task_id, _), value in xcoms(dag_runs, RETURN_VALUE, task_ids=sources, session=session):
            if (items := yielded_in(value)) is not None:
                for group_id in [group_id for of, group_id in sources[task_id] if of == run_id]:
                    yielded[run_id][group_id] = items
    return yielded
