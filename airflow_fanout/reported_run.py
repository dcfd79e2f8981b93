"""A run in the metadata database -> its report; for CLI and UI, never on a worker."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_fanout.branch_runs import chosen_group_runs
from airflow_fanout.capacity import Capacity
from airflow_fanout.declaration import DeclaredBranch, DeclaredGroup
from airflow_fanout.group_capacity import group_capacity
from airflow_fanout.metadata import find_run, read_run
from airflow_fanout.run_report import run_report
from airflow_fanout.surroundings import read_surroundings

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.orm import Session

    from airflow_fanout.group_capacity import Surroundings
    from airflow_fanout.report_shapes import RunReport
    from airflow_fanout.run_facts import GroupRun, RunFacts

__all__ = ["capacities", "read_report"]


def read_report(
    dag_id: str,
    run_id: str | None,
    *,
    group_id: str | None = None,
    surroundings: Surroundings | None = None,
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
    capacity_of = capacities(facts, surroundings or read_surroundings())
    return run_report(facts, runs, now=datetime.now(UTC), capacity_of=capacity_of)


def capacities(facts: RunFacts, surroundings: Surroundings) -> Callable[[GroupRun, int], Capacity | None]:
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
        found = group_capacity(facts.outline, group, surroundings, declared=declared)
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
