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

EVERY = {"failed": 20, "retried": 7}
"""Which branches failed, and which had an earlier try: those whose place can be divided by this."""


def write(dag_id: str, run_id: str) -> None:
    """
    Write the round of a run whose Dag has one group and one fan-in, ``collect``.

    :param dag_id: Id of the Dag.
    :param run_id: Id of the run.
    """
    began = datetime.now(UTC) - timedelta(hours=1)
    with create_session() as session:
        run = session.scalars(select(DagRun).filter_by(dag_id=dag_id, run_id=run_id)).one()
        rows = session.execute(
            select(TaskInstance.id, TaskInstance.task_id, TaskInstance.map_index).filter_by(
                dag_id=dag_id, run_id=run_id
            )
        ).all()
        states: list[dict[str, Any]] = []
        records: list[dict[str, Any]] = []
        tries: list[dict[str, Any]] = []
        for own_id, task_id, map_index in rows:
            if task_id == "collect":
                states.append(_state(own_id, "success", began + timedelta(hours=1), 1.0, 1))
                continue
            place = map_index if map_index >= 0 else int(task_id.rpartition("_")[2])
            of_it = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id, "map_index": map_index}
            seconds = 5 + (place * 37 % 101) / 10
            start = began + timedelta(seconds=place // AT_ONCE * 20 + place % AT_ONCE / 10)
            state = "failed" if place % EVERY["failed"] == 0 else "success"
            number = 2 if place % EVERY["retried"] == 0 else 1
            if number > 1:
                again = start + timedelta(seconds=seconds / 2)
                before = _state(uuid4(), "failed", start, seconds / 2, 1)
                tries.append({**of_it, **before, "pool": "default_pool", "pool_slots": 1})
                start = again
            states.append(_state(own_id, state, start, seconds / number, number))
            record = {
                "state": state,
                "seconds": round(seconds / number - 0.2137 + place / 1e6, 6),
                "cpu_seconds": round(seconds / 3 + place / 1e6, 6),
                "peak_memory_bytes": 98_000_000 + 4096 * place,
                "cores": 2,
                **({"map_index": map_index} if map_index >= 0 else {}),
            }
            values: dict[str, Any] = {RECORD_KEY: record}
            if state == "failed":
                record["error"] = f"ValueError: row {place * 7919 % 100_003} of part {place:x} has no price"
            else:
                record["has_value"] = True
                values["return_value"] = place
            of_run = {**of_it, "dag_run_id": run.id}
            records += [{**of_run, "key": key, "value": value} for key, value in values.items()]
        for each in (states[start : start + 500] for start in range(0, len(states), 500)):
            session.execute(update(TaskInstance), each)
        session.execute(insert(XComModel), records)
        for row in tries:
            row["task_instance_id"] = row.pop("id")
        session.execute(insert(TaskInstanceHistory), tries)
        run.state, run.start_date, run.end_date = "success", began, began + timedelta(hours=1)


def _state(own_id: Any, state: str, start: datetime, seconds: float, number: int) -> dict[str, Any]:
    return {
        "id": own_id,
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
