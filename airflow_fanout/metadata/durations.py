"""How long the tasks of a Dag took in its last runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def read_durations(dag_id: str, runs: int, *, session: Session) -> tuple[int, dict[str, list[float]]]:
    """
    Read the seconds that each task took where it succeeded, in the last runs that have ended; two queries.

    A mapped task takes from the begin of its first instance to the end of its last.

    :param runs: Number of runs at most.
    :return: The number of runs there are, and seconds by task.
    """
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance

    run_ids = list(
        session.scalars(
            select(DagRun.run_id)
            .where(DagRun.dag_id == dag_id, DagRun.state.in_(["success", "failed"]))
            .order_by(DagRun.run_after.desc(), DagRun.id.desc())
            .limit(runs)
        )
    )
    started, ended = func.min(TaskInstance.start_date), func.max(TaskInstance.end_date)
    rows = session.execute(
        select(TaskInstance.task_id, started, ended)
        .where(
            TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(run_ids), TaskInstance.state == "success"
        )
        .group_by(TaskInstance.task_id, TaskInstance.run_id)
    )
    durations: dict[str, list[float]] = {}
    for task_id, start, end in rows:
        if start is not None and end is not None:
            durations.setdefault(task_id, []).append((end - start).total_seconds())
    return len(run_ids), durations
