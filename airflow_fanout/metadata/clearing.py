"""Clears what a plan names in the metadata database; for CLI and UI, never on a worker."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, tuple_, update

from airflow_fanout.metadata.runs import find_run, outline_of, read_run
from airflow_fanout.reports.rerun import plan_rerun

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

    from airflow_fanout.reports.rerun import RerunPlan
    from airflow_fanout.reports.runs import TaskRun


__all__ = ["Clearing", "clear", "find_plan"]

AT_ONCE = 500
"""Task instances that one query asks for."""


@dataclass(frozen=True, kw_only=True)
class Clearing:
    """
    What came of a plan.

    :param cleared: The task instances that were cleared.
    :param changed: Those whose state was another one by then, and that were left alone.
    :param is_paused: Whether the Dag is paused, so that nothing of it runs.
    """

    cleared: tuple[TaskRun, ...]
    changed: tuple[TaskRun, ...]
    is_paused: bool


def find_plan(
    dag_id: str,
    run_id: str,
    *,
    group_ids: Collection[str] | None = None,
    downstream: bool = True,
    whole_branches: bool = False,
    session: Session,
) -> RerunPlan:
    """
    Find out what has to be cleared in a run; nothing is changed.

    :param dag_id: Id of the Dag.
    :param run_id: Id of the run.
    :param group_ids: Groups to look at; None for all.
    :param downstream: Whether to clear what comes after the fan-ins, too.
    :param whole_branches: Whether to clear what succeeded in branches that aren't a success, too.
    :param session: The database.
    :raises UnknownDagError: If there is no such Dag.
    :raises UnknownRunError: If it has no such run.
    :raises UnknownGroupError: If the run has no such group.
    """
    dag_run = find_run(dag_id, run_id, session=session)
    facts = read_run(dag_run, dag=outline_of(dag_run, session=session), session=session)
    plan = plan_rerun(facts, group_ids=group_ids, downstream=downstream, whole_branches=whole_branches)
    has_batches = any(group.is_batched and group.branches for group in plan.groups)
    if has_batches and find_spec("airflow.models.task_state_store") is None:
        note = "This Airflow keeps no state of tasks (3.3 does): batches run all of their items again"
        plan = replace(plan, notes=(*plan.notes, note))
    return plan


def clear(plan: RerunPlan, *, causes: bool, session: Session) -> Clearing:
    """
    Clear exactly what a plan names, as long as it is in the state that the plan knows.

    One query for 500 instances, beside the four that Airflow makes for each of them. Nothing is committed.

    :param plan: The plan.
    :param causes: Whether to clear the causes, too.
    :param session: The database.
    :raises UnknownRunError: If the run is no longer there.
    """
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import clear_task_instances
    from airflow.utils.state import DagRunState

    dag_run = find_run(plan.dag_id, plan.run_id, session=session)
    # The scheduler leaves a run alone that somebody else has locked. SQLite locks by writing, and only so.
    session.execute(update(DagRun).where(DagRun.id == dag_run.id).values(updated_at=datetime.now(UTC)))
    session.refresh(dag_run)
    options: dict[str, Any] = {
        "run_on_latest_version": _runs_on_latest_version(plan.dag_id, session=session),
        "prevent_running_task": True,
    }
    # Batches go on where they ended. An Airflow that asks whether to forget that is told not to.
    if "keep_task_state" in inspect.signature(clear_task_instances).parameters:
        options["keep_task_state"] = True
    planned = plan.with_causes if causes else plan.task_runs
    cleared: list[TaskRun] = []
    changed: list[TaskRun] = []
    for start in range(0, len(planned), AT_ONCE):
        some = {(each.task_id, each.map_index): each for each in planned[start : start + AT_ONCE]}
        found = {(ti.task_id, ti.map_index): ti for ti in _locked(plan, list(some), session=session)}
        same = {key: ti for key, ti in found.items() if ti.state == some[key].state}
        if same:
            # The run is queued once.
            state: Any = False if cleared else DagRunState.QUEUED
            clear_task_instances(list(same.values()), session, dag_run_state=state, **options)
        cleared += [each for key, each in some.items() if key in same]
        changed += [each for key, each in some.items() if key not in same]
        session.flush()
        for ti in found.values():
            session.expunge(ti)  # for each instance Airflow goes through all that the session holds
    return Clearing(
        cleared=tuple(cleared),
        changed=tuple(changed),
        is_paused=bool(dag_run.dag_model.is_paused),
    )


def _locked(plan: RerunPlan, keys: Sequence[tuple[str, int]], *, session: Session) -> Iterable[TaskInstance]:
    from airflow.models.taskinstance import TaskInstance

    of_these = (
        TaskInstance.dag_id == plan.dag_id,
        TaskInstance.run_id == plan.run_id,
        tuple_(TaskInstance.task_id, TaskInstance.map_index).in_(keys),
    )
    return session.scalars(
        select(TaskInstance).where(*of_these).with_for_update(of=TaskInstance),
        execution_options={"populate_existing": True},
    )


def _runs_on_latest_version(dag_id: str, *, session: Session) -> bool:
    """Whether what is cleared runs as the Dag is now; the Dag says, or the configuration, as in the UI."""
    from airflow.configuration import conf
    from airflow.models.serialized_dag import SerializedDagModel

    dag = SerializedDagModel.get_dag(dag_id, session=session)
    own: bool | None = getattr(dag, "rerun_with_latest_version", None)  # 3.2 has neither
    return conf.getboolean("core", "rerun_with_latest_version", fallback=False) if own is None else own
