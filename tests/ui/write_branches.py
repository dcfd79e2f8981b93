"""Writes what became of a run of thousands of branches that never ran: times, tries, errors, values."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import insert, select, update

from airflow_fanout.rules.records import RECORD_KEY

AT_ONCE = 32
"""Branches that ran at one moment."""

FAILED, RETRIED = 20, 7
"""Which branches failed, and which had an earlier try: those whose index can be divided by this."""


def write(dag_id: str, run_id: str) -> None:
    """Write the round of a run whose Dag has one group and one fan-in, ``collect``."""
    began = datetime.now(UTC) - timedelta(hours=1)
    with create_session() as session:
        run = session.scalars(select(DagRun).filter_by(dag_id=dag_id, run_id=run_id)).one()
        columns = (TaskInstance.id, TaskInstance.task_id, TaskInstance.map_index)
        rows = session.execute(select(*columns).filter_by(dag_id=dag_id, run_id=run_id)).all()
        updates, values, tries = [], [], []
        for own_id, task_id, map_index in rows:
            if task_id == "collect":
                updates.append({"id": own_id, **_state("success", began + timedelta(hours=1), 1.0, 1)})
                continue
            index = map_index if map_index >= 0 else int(task_id.rpartition("_")[2])
            key = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
            state = "failed" if index % FAILED == 0 else "success"
            number = 2 if index % RETRIED == 0 else 1
            seconds = (5 + (index * 37 % 101) / 10) / number
            start = began + timedelta(seconds=index // AT_ONCE * 20 + index % AT_ONCE / 10)
            if number > 1:
                before = {"task_instance_id": uuid4(), "pool": "default_pool", "pool_slots": 1}
                tries.append({**key, **before, **_state("failed", start, seconds, 1)})
                start += timedelta(seconds=seconds)
            updates.append({"id": own_id, **_state(state, start, seconds, number)})
            xcoms: dict[str, Any] = {RECORD_KEY: _record(index, map_index, state, seconds)}
            if state == "success":
                xcoms["return_value"] = index
            values += [{**key, "dag_run_id": run.id, "key": k, "value": value} for k, value in xcoms.items()]
        session.execute(update(TaskInstance), updates)
        session.execute(insert(XComModel), values)
        session.execute(insert(TaskInstanceHistory), tries)
        run.state, run.start_date, run.end_date = "success", began, began + timedelta(hours=1)


def _record(index: int, map_index: int, state: str, seconds: float) -> dict[str, Any]:
    error = {"error": f"ValueError: row {index * 7919 % 100_003} of part 0x{index:x} has no price"}
    return {
        "state": state,
        "seconds": round(seconds - 0.2137 + index / 1e6, 6),
        "cpu_seconds": round(seconds / 3 + index / 1e6, 6),
        "peak_memory_bytes": 98_000_000 + 4096 * index,
        "cores": 2,
        **(error if state == "failed" else {"has_value": True}),
        **({"map_index": map_index} if map_index >= 0 else {}),
    }


def _state(state: str, start: datetime, seconds: float, number: int) -> dict[str, Any]:
    return {
        "state": state,
        "queued_dttm": start - timedelta(milliseconds=1234),
        "start_date": start,
        "end_date": start + timedelta(seconds=seconds),
        "duration": seconds,
        "try_number": number,
        "hostname": "worker-7f9c4d6b58-x2v9k",
    }


if __name__ == "__main__":
    write(*sys.argv[1:])
