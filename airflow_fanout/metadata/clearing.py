"""Clears what a plan names in the metadata database."""

from __future__ import annotations

import inspect
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, tuple_, update
from sqlalchemy.exc import OperationalError

from airflow_fanout.metadata.run_rows import of_run
from airflow_fanout.metadata.runs import dag_of, find_run, read_run
from airflow_fanout.reports.rerun import Clearing, fingerprint, plan_rerun
from airflow_fanout.rules.records import NO_REUSE
from airflow_fanout.serialization.outline import outline

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

    from airflow_fanout.reports.rerun import RerunPlan
    from airflow_fanout.reports.runs import TaskRun


PAGE = 500  # task instances that one query asks for


class PlanChangedError(Exception):
    """Raised when a run is no longer as it was when its plan was shown; nothing was cleared."""


def find_plan(
    dag_id: str,
    run_id: str,
    *,
    group_ids: Collection[str] | None = None,
    downstream: bool = True,
    whole_branches: bool = False,
    no_reuse: bool = False,
    session: Session,
) -> RerunPlan:
    """Find out what has to be cleared in a run, as :func:`plan_rerun` does."""
    dag_run = find_run(dag_id, run_id, session=session)
    dag = dag_of(dag_run, session=session)
    plan = plan_rerun(
        read_run(dag_run, dag=outline(dag), session=session),
        group_ids=group_ids,
        downstream=downstream,
        whole_branches=whole_branches,
        no_reuse=no_reuse,
        setups_and_teardowns=partial(setups_and_teardowns, dag),
    )
    has_batches = not plan.no_reuse and any(
        group.run.batches is not None and group.branches for group in plan.groups
    )
    if has_batches and find_spec("airflow.models.task_state_store") is None:
        note = "Batches run all of their items again: only from 3.3 on does Airflow keep which have ended"
        plan = replace(plan, notes=(*plan.notes, note))
    return plan


def setups_and_teardowns(dag: Any, task_id: str) -> Collection[str]:
    """Ids of the setups and teardowns that Airflow clears with a task."""
    task = dag.get_task(task_id)
    if task.is_setup or task.is_teardown:
        return ()
    return {other.task_id for other in task.get_upstreams_only_setups_and_teardowns()}


def clear_as_shown(
    dag_id: str,
    run_id: str,
    shown: str,
    *,
    group_ids: Collection[str] | None,
    causes: bool,
    session: Session,
) -> tuple[RerunPlan, Clearing]:
    """
    Clear all that a plan named, or nothing; of several who do it at the same time one does. Commit nothing.

    :param shown: Fingerprint of the plan that was shown.
    :raises PlanChangedError: If it is not the plan that there is now, or somebody else is about to change the
        run. The session has to be rolled back.
    """
    try:
        _lock(dag_id, run_id, session=session)
    except OperationalError as error:
        if session.get_bind().dialect.name != "sqlite":  # which waits only so long for whoever writes
            raise
        message = "Somebody else is writing to the database"
        raise PlanChangedError(message) from error
    plan = find_plan(dag_id, run_id, group_ids=group_ids, session=session)
    if fingerprint(plan) != shown:
        message = "The run has changed in the meantime"
        raise PlanChangedError(message)
    done = clear(plan, causes=causes, session=session)
    if done.changed:
        message = f"{len(done.changed):,} of its task instances have changed in the meantime"
        raise PlanChangedError(message)
    return plan, done


def _lock(dag_id: str, run_id: str, *, session: Session) -> DagRun:
    """Keep the scheduler, and others who clear, from a run until the session commits."""
    from airflow.models.dagrun import DagRun

    dag_run = find_run(dag_id, run_id, session=session)
    # The scheduler leaves a run alone that somebody else has locked. SQLite locks by writing, and only so.
    session.execute(update(DagRun).where(DagRun.id == dag_run.id).values(updated_at=datetime.now(UTC)))
    session.refresh(dag_run)
    return dag_run


def clear(plan: RerunPlan, *, causes: bool, session: Session) -> Clearing:
    """
    Clear what a plan names, as long as it is in the state and the try that the plan knows; commit nothing.

    :raises UnknownRunError: If the run is no longer there.
    """
    from airflow.models.taskinstance import clear_task_instances
    from airflow.utils.state import DagRunState

    dag_run = _lock(plan.dag_id, plan.run_id, session=session)
    clear_instances = partial(
        clear_task_instances,
        session=session,
        run_on_latest_version=_runs_on_latest_version(plan.dag_id, session=session),
        prevent_running_task=True,
    )
    # Batches go on where they ended. An Airflow that asks whether to forget that is told not to.
    if "keep_task_state" in inspect.signature(clear_task_instances).parameters:
        clear_instances = partial(clear_instances, keep_task_state=True)
    planned = plan.with_causes if causes else plan.task_runs
    cleared: list[TaskRun] = []
    for start in range(0, len(planned), PAGE):
        page = {task_run.key: task_run for task_run in planned[start : start + PAGE]}
        locked = {(ti.task_id, ti.map_index): ti for ti in _locked(dag_run, page, session=session)}
        unchanged = {
            key: ti
            for key, ti in locked.items()
            if (ti.state, ti.try_number) == (page[key].state, page[key].tries)
        }
        if unchanged:
            state: Any = False if cleared else DagRunState.QUEUED  # the run is queued once
            clear_instances(list(unchanged.values()), dag_run_state=state)
        cleared += [task_run for key, task_run in page.items() if key in unchanged]
        session.flush()
        for ti in locked.values():
            session.expunge(ti)  # for each instance Airflow goes through all that the session holds
    if cleared and plan.no_reuse:
        told = (dag_run.conf or {}).get(NO_REUSE) or ()
        dag_run.conf = {**(dag_run.conf or {}), NO_REUSE: sorted({*told, *plan.no_reuse})}
    keys = {task_run.key for task_run in cleared}
    changed = tuple(task_run for task_run in planned if task_run.key not in keys)
    return Clearing(cleared=tuple(cleared), changed=changed, is_paused=bool(dag_run.dag_model.is_paused))


def _locked(
    dag_run: DagRun, keys: Collection[tuple[str, int]], *, session: Session
) -> Iterable[TaskInstance]:
    from airflow.models.taskinstance import TaskInstance

    instances = select(TaskInstance).where(
        *of_run(TaskInstance, dag_run), tuple_(TaskInstance.task_id, TaskInstance.map_index).in_(keys)
    )
    options = {"populate_existing": True}
    return session.scalars(instances.with_for_update(of=TaskInstance), execution_options=options)


def _runs_on_latest_version(dag_id: str, *, session: Session) -> bool:
    """Whether what is cleared runs as the Dag is now; the Dag says, or the configuration, as in the UI."""
    from airflow.configuration import conf
    from airflow.models.serialized_dag import SerializedDagModel

    dag = SerializedDagModel.get_dag(dag_id, session=session)
    own: bool | None = getattr(dag, "rerun_with_latest_version", None)  # 3.2 has neither
    return conf.getboolean("core", "rerun_with_latest_version", fallback=False) if own is None else own
