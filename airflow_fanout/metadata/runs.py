"""The one place that reads runs from the metadata database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.metadata.limits import read_scheduling_limits
from airflow_fanout.reports.branches import chosen_group_runs
from airflow_fanout.reports.group_capacity import group_capacity
from airflow_fanout.reports.run_report import run_report
from airflow_fanout.reports.runs import RunFacts, TaskRun, TaskTry
from airflow_fanout.rules.capacity import Capacity
from airflow_fanout.rules.names import SPLIT
from airflow_fanout.rules.outcomes import LostValue
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE, LostRecord, batch_key
from airflow_fanout.rules.wording import close_to
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup
from airflow_fanout.serialization.outline import DagOutline, outline
from airflow_fanout.serialization.stored_values import deserialized, lost_bodies, values_lie_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from airflow.models.dagrun import DagRun
    from airflow.serialization.definitions.dag import SerializedDAG
    from sqlalchemy.orm import Session

    from airflow_fanout.reports.group_capacity import SchedulingLimits
    from airflow_fanout.reports.group_report import RunReport
    from airflow_fanout.reports.runs import GroupRun
    from airflow_fanout.rules.outcomes import ValueState


CANDIDATES = 5
"""Runs that an error names."""


class UnknownDagError(LookupError):
    """Raised when the database has no Dag of an id; its text is for people."""


class UnknownRunError(LookupError):
    """Raised when a Dag has no run of an id, or none at all; its text is for people."""


def find_run(dag_id: str, run_id: str | None, *, session: Session) -> DagRun:
    """
    Find a run.

    :param dag_id: Id of the Dag.
    :param run_id: Id of the run; None for the latest, as Airflow's UI has it: that with the latest
        ``run_after``.
    :param session: The database.
    :raises UnknownDagError: If there is no such Dag.
    :raises UnknownRunError: If it has no such run.
    """
    from airflow.models.dagrun import DagRun

    its = select(DagRun).where(DagRun.dag_id == dag_id).order_by(DagRun.run_after.desc(), DagRun.id.desc())
    wanted = its.limit(1) if run_id is None else its.where(DagRun.run_id == run_id)
    found: DagRun | None = session.scalar(wanted)
    if found is not None:
        return found
    _refuse_unknown_dag(dag_id, session=session)
    latest = session.scalars(its.limit(CANDIDATES)).all()
    if not latest:
        message = f"Dag {dag_id!r} has no run yet: airflow dags trigger {dag_id}"
        raise UnknownRunError(message)
    known = ", ".join(repr(run.run_id) for run in latest)
    message = f"Dag {dag_id!r} has no run {run_id!r}; the latest ones are {known}"
    raise UnknownRunError(message)


def _refuse_unknown_dag(dag_id: str, *, session: Session) -> None:
    from airflow.models.dag import DagModel

    known = list(session.scalars(select(DagModel.dag_id)))
    if dag_id in known:
        return
    message = f"There is no Dag {dag_id!r} in the metadata database; {close_to(dag_id, known)}"
    raise UnknownDagError(message)


def read_run(dag_run: DagRun, *, dag: DagOutline | None = None, session: Session) -> RunFacts:
    """
    Read all that is known of a run's branches: a number of queries that doesn't depend on theirs.

    :param dag_run: The run.
    :param dag: Its Dag; None for the Dag as it was when the run's last tasks were made.
    :param session: The database.
    :raises UnknownDagError: If the database no longer has the Dag as it was for the run.
    """
    if dag is None:
        dag = _outline_then(dag_run, session=session) or outline(dag_of(dag_run, session=session))
    keys = {RETURN_VALUE, *(fan_in.key for fan_in in dag.fan_ins)}
    task_runs = tuple(_task_runs(dag_run, keys, session=session))
    splits = {task.task_id for task in dag.tasks.values() if task.operator == "SplitOperator"}
    return RunFacts(
        dag_id=dag_run.dag_id,
        run_id=dag_run.run_id,
        state=str(dag_run.state),
        outline=dag,
        task_runs=task_runs,
        prefixes=_prefixes(dag_run, dag, session=session),
        bounds={
            task_id: [(first, stop) for first, stop in value]
            for (task_id, _), value in _xcoms(dag_run, RETURN_VALUE, task_ids=splits, session=session)
            if isinstance(value, list) and all(isinstance(bounds, list) for bounds in value)
        },
        batch_names=dict(_names_of_silent_batches(dag_run, dag, task_runs, session=session)),
    )


def dag_of(dag_run: DagRun, *, session: Session) -> SerializedDAG:
    """
    Read the Dag of a run, in the version in which its tasks run if they are cleared now.

    That is the latest one, unless the bundle has versions.

    :param dag_run: The run.
    :param session: The database.
    :raises UnknownDagError: If the database no longer has it.
    """
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

    serialized = session.scalar(
        select(SerializedDagModel)
        .join(DagVersion, DagVersion.id == SerializedDagModel.dag_version_id)
        .join(TaskInstance, TaskInstance.dag_version_id == DagVersion.id)
        .where(TaskInstance.dag_id == dag_run.dag_id, TaskInstance.run_id == dag_run.run_id)
        .order_by(DagVersion.version_number.desc())
        .limit(1)
    )
    if serialized is None:
        return None
    serialized.load_op_links = False
    return outline(serialized.dag)


def _task_runs(dag_run: DagRun, keys: Collection[str], *, session: Session) -> Iterator[TaskRun]:
    """Task instances with their records, and the state of the values that they pushed under some keys."""
    from airflow.models.taskinstance import TaskInstance

    records = dict(_xcoms(dag_run, RECORD_KEY, session=session))
    values = _value_states(dag_run, keys, session=session)
    earlier = _earlier_tries(dag_run, session=session)
    # Columns alone: thousands of instances are not made into objects.
    rows = session.execute(
        select(
            TaskInstance.task_id,
            TaskInstance.map_index,
            TaskInstance.state,
            TaskInstance.queued_dttm,
            TaskInstance.start_date,
            TaskInstance.end_date,
            TaskInstance.try_number,
            TaskInstance._rendered_map_index,  # noqa: SLF001 - its property has a default
            TaskInstance.hostname,
        )
        .where(TaskInstance.dag_id == dag_run.dag_id, TaskInstance.run_id == dag_run.run_id)
        .order_by(TaskInstance.task_id, TaskInstance.map_index)
    )
    for task_id, map_index, state, queued, started, ended, tries, name, hostname in rows:
        yield TaskRun(
            task_id=task_id,
            map_index=map_index,
            state=None if state is None else str(state),
            queued=queued,
            started=started,
            ended=ended,
            tries=tries,
            earlier=tuple(earlier.get((task_id, map_index), ())),
            rendered_name=None if name in {None, str(map_index)} else name,
            hostname=hostname or "",
            record=records.get((task_id, map_index)),
            values=values.get((task_id, map_index), {}),
        )


def _value_states(
    dag_run: DagRun, keys: Collection[str], *, session: Session
) -> dict[tuple[str, int], dict[str, ValueState]]:
    """Tell of each value whether it can be read; no value is read for that."""
    from airflow.models.xcom import XComModel

    are_elsewhere = values_lie_elsewhere()
    stored = [XComModel.value] if are_elsewhere else []
    rows = session.execute(
        select(XComModel.task_id, XComModel.map_index, XComModel.key, *stored).where(
            XComModel.dag_id == dag_run.dag_id, XComModel.run_id == dag_run.run_id, XComModel.key.in_(keys)
        )
    ).all()
    lost = set(lost_bodies(row.value for row in rows)) if are_elsewhere else set()
    states: dict[tuple[str, int], dict[str, ValueState]] = {}
    for row in rows:
        is_lost = are_elsewhere and isinstance(row.value, str) and row.value in lost
        state: ValueState = LostValue(row.value) if is_lost else "present"
        states.setdefault((row.task_id, row.map_index), {})[row.key] = state
    return states


def _earlier_tries(dag_run: DagRun, *, session: Session) -> dict[tuple[str, int], list[TaskTry]]:
    from airflow.models.taskinstancehistory import TaskInstanceHistory as History

    found: dict[tuple[str, int], list[TaskTry]] = {}
    rows = session.execute(
        select(
            History.task_id,
            History.map_index,
            History.try_number,
            History.state,
            History.queued_dttm,
            History.start_date,
            History.end_date,
        )
        .where(History.dag_id == dag_run.dag_id, History.run_id == dag_run.run_id)
        .order_by(History.try_number)
    )
    for task_id, map_index, number, state, queued, started, ended in rows:
        its = TaskTry(
            number=number,
            state=None if state is None else str(state),
            queued=queued,
            started=started,
            ended=ended,
        )
        found.setdefault((task_id, map_index), []).append(its)
    return found


def _xcoms(
    dag_run: DagRun, key: str, *, task_ids: Iterable[str] | None = None, session: Session
) -> Iterator[tuple[tuple[str, int], Any]]:
    from airflow.models.xcom import XComModel

    wanted = select(XComModel.task_id, XComModel.map_index, XComModel.value).where(
        XComModel.dag_id == dag_run.dag_id, XComModel.run_id == dag_run.run_id, XComModel.key == key
    )
    if task_ids is not None:
        wanted = wanted.where(XComModel.task_id.in_(task_ids))
    for row in session.execute(wanted):
        try:
            value = deserialized(row, f"What {row.task_id!r} pushed under {key!r}")
        except FileNotFoundError as gone:  # the body of an object-storage XCom
            value = LostRecord(str(gone))
        except UnreadableValueError as unreadable:
            if unreadable.is_of_storage:
                raise
            continue  # somebody else has pushed under a key of this package
        yield (row.task_id, row.map_index), value


def _prefixes(dag_run: DagRun, dag: DagOutline, *, session: Session) -> Mapping[str, str]:
    """Prefixes as rendered; Airflow keeps those of a Dag's last runs only."""
    from airflow.models.renderedtifields import RenderedTaskInstanceFields as Rendered

    templated = [fan_in.task_id for fan_in in dag.fan_ins if fan_in.is_templated]
    if not templated:
        return {}
    rows = session.execute(
        select(Rendered.task_id, Rendered.rendered_fields).where(
            Rendered.dag_id == dag_run.dag_id,
            Rendered.run_id == dag_run.run_id,
            Rendered.task_id.in_(templated),
        )
    )
    return {
        task_id: fields["task_id_prefix"]
        for task_id, fields in rows
        if isinstance(fields.get("task_id_prefix"), str)
    }


def _names_of_silent_batches(
    dag_run: DagRun, dag: DagOutline, task_runs: Iterable[TaskRun], *, session: Session
) -> Iterator[tuple[tuple[str, int], list[str]]]:
    """Names of the items of the batches that have left no record, where they came with the items."""
    silent: dict[str, list[int]] = {}
    of = {g.each[-1]: g.prefix + SPLIT for g in dag.groups.values() if g.mode == "batched" and not g.names}
    for each in task_runs:
        if each.task_id in of and each.map_index >= 0 and each.batch_record is None:
            silent.setdefault(of[each.task_id], []).append(each.map_index)
    for split, numbers in silent.items():
        for number in numbers:
            for _, value in _xcoms(dag_run, batch_key(number), task_ids=[split], session=session):
                names = value.get("names") if isinstance(value, dict) else None
                if names is not None:
                    yield (split, number), [str(name) for name in names]


def read_report(
    dag_id: str,
    run_id: str | None,
    *,
    group_id: str | None = None,
    surroundings: SchedulingLimits | None = None,
    session: Session,
) -> RunReport:
    """
    Read the report of a run.

    :param dag_id: Id of the Dag.
    :param run_id: Id of the run; None for the latest.
    :param group_id: Id of the only group to report on, or of the fan-in of what has no group; None for all.
    :param surroundings: What is outside of the Dag, if it has been read: Celery's workers take a second to
        answer.
    :param session: The metadata database.
    :raises UnknownDagError: If there is no such Dag.
    :raises UnknownRunError: If it has no such run.
    :raises UnknownGroupError: If the run has no such group.
    """
    facts = read_run(find_run(dag_id, run_id, session=session), session=session)
    runs = chosen_group_runs(facts, None if group_id is None else [group_id])
    capacity_of = capacities(facts, surroundings or read_scheduling_limits())
    return run_report(facts, runs, now=datetime.now(UTC), capacity_of=capacity_of)


def capacities(facts: RunFacts, surroundings: SchedulingLimits) -> Callable[[GroupRun, int], Capacity | None]:
    """
    Make what tells how many branches, or batches, can run at once, as things are now.

    :param facts: The run.
    :param surroundings: What is outside of its Dag.
    """

    def capacity_of(run: GroupRun, count: int) -> Capacity | None:
        group = _by_prefix(facts, run) if run.group is None else run.group
        if group is None:
            return None
        declared = sum(branch.state != "removed" for branch in run.branches)
        found = group_capacity(facts.outline, group, surroundings, declared=declared).tasks
        if found.effective >= count:
            return Capacity(declared=count, effective=count, limit=None)
        return Capacity(declared=count, effective=found.effective, limit=found.limit)

    return capacity_of


def _by_prefix(facts: RunFacts, run: GroupRun) -> DeclaredGroup | None:
    """Take what a prefix brings together for a group; None if some of several tasks have their own limits."""
    its = [branch for branch in run.branches if branch.state != "removed"]
    task_ids = list(dict.fromkeys(each.task_id for branch in its for each in branch.task_runs))
    if len(task_ids) == 1:  # perhaps mapped
        return DeclaredGroup(group_id=run.title, prefix="", mode="mapped", each=tuple(task_ids))
    tasks = [facts.outline.tasks[task_id] for task_id in task_ids]
    if any({task.max_active_tis_per_dag, task.max_active_tis_per_dagrun} != {None} for task in tasks):
        return None
    branches = (
        DeclaredBranch(name=branch.name, index=index, task_ids=(branch.task_runs[0].task_id,))
        for index, branch in enumerate(its)
    )
    return DeclaredGroup(group_id=run.title, prefix="", branches=tuple(branches))
