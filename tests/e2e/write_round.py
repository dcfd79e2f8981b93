"""Writes what became of a run that never ran; in a process that knows the metadata database alone."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_fanout.rules.records import RECORD_KEY

if TYPE_CHECKING:
    from collections.abc import Mapping


def write(dag_id: str, run_id: str, states: Mapping[str, str]) -> None:
    """
    Write the states, the values and the records that branches leave; each returns its index.

    :param states: State of each task instance that was no success, by ``task_id`` or ``task_id[map_index]``.
    """
    now = datetime.now(UTC)
    with create_session() as session:
        of_run: dict[str, Any] = {"dag_id": dag_id, "run_id": run_id}
        for ti in session.scalars(select(TaskInstance).filter_by(**of_run)).all():
            name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
            ti.state = states.get(name, "success")
            ti.queued_dttm = ti.start_date = ti.end_date = now
            ti.try_number = 0 if ti.state == "upstream_failed" else 1
            if ti.state == "success":
                place = ti.map_index if ti.map_index >= 0 else int(ti.task_id.rpartition("_")[2])
                record = {"state": "success", "has_value": True}
                if ti.map_index >= 0:
                    record |= {"map_index": ti.map_index}
                for key, value in (("return_value", place), (RECORD_KEY, record)):
                    XComModel.set(
                        key,
                        value,
                        task_id=ti.task_id,
                        map_index=ti.map_index,
                        **of_run,
                        serialize=False,  # a worker has done that
                        session=session,
                    )
        run = session.scalars(select(DagRun).filter_by(**of_run)).one()
        run.state, run.start_date, run.end_date = "failed", now, now


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2], json.loads(sys.stdin.read()))
