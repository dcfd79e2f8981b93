"""Rebuild what a fan-in got from the metadata database alone; runs in a process that has no Dag file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_fanout.serialization.declaration import DeclaredFanIn


def rebuild(dag_id: str, run_id: str, fan_in_id: str) -> list[dict[str, Any]]:
    """Return name, state and value of every branch, in declared order."""
    with create_session() as session:
        run = session.scalars(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)).one()
        version = run.created_dag_version_id
        serialized = session.scalars(
            select(SerializedDagModel).where(SerializedDagModel.dag_version_id == version)
        ).one()
        fan_in: Any = serialized.dag.get_task(fan_in_id)
        declared = DeclaredFanIn.from_json(fan_in.declared_fan_in)
        if declared.group is None:
            message = f"{fan_in_id} describes no group"
            raise ValueError(message)
        ledger = []
        for branch in declared.group.branches:
            of_branch = {"dag_id": dag_id, "run_id": run_id, "task_id": branch.last_task_id}
            state = session.scalars(select(TaskInstance.state).filter_by(**of_branch)).one()
            pushed = session.scalars(select(XComModel).filter_by(**of_branch, key=declared.key)).one_or_none()
            ledger.append({"name": branch.name, "state": state, "value": pushed and pushed.value})
        return ledger


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(
        json.dumps(rebuild(*sys.argv[2:])), encoding="utf-8"
    )  # Airflow logs to stdout.
