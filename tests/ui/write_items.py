"""Writes runs of batches and mapped branches that never ran: their task instances and their XComs."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.utils.session import create_session
from sqlalchemy import insert, select
from sqlalchemy.exc import DBAPIError

from airflow_fanout.rules.records import RECORD_KEY, batch_key
from tests.support.hostile import BATCHES, BRANCHES, SIZE, cases, good_batch

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy.orm import Session

    XCom = tuple[str, int, str, Any]
    """Task id, map index, key and value."""

BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)


class Writer:
    """
    Writes runs like one that is there, which Airflow has made and never run.

    :param like: Id of the Dag, and of the run.
    """

    def __init__(self, session: Session, like: tuple[str, str]) -> None:
        self._session = session
        self._dag_id, run_id = like
        self._run = self._rows(DagRun, run_id)[0]
        self._instances = {row["task_id"]: row for row in self._rows(TaskInstance, run_id)}

    def _rows(self, model: Any, run_id: str) -> list[dict[str, Any]]:
        table = model.__table__
        where = table.c.dag_id == self._dag_id, table.c.run_id == run_id
        return [dict(row._mapping) for row in self._session.execute(select(table).where(*where))]

    def write(
        self, run_id: str, *, state: str, branches: str, mapped: Mapping[str, int], xcoms: Iterable[XCom]
    ) -> None:
        """
        Write a run.

        :param state: The run's state.
        :param branches: State of each instance of the mapped tasks; all others succeeded.
        :param mapped: Number of the instances of each mapped task.
        """
        run = {name: value for name, value in self._run.items() if name != "id"}
        times = {"queued_dttm": BEGAN, "start_date": BEGAN, "end_date": BEGAN + timedelta(seconds=9)}
        run |= {"run_id": run_id, "state": state, "start_date": BEGAN, "logical_date": None}
        own_id = self._session.scalar(insert(DagRun).values(run).returning(DagRun.id))
        instances = []
        for task_id, row in self._instances.items():
            for index in range(mapped[task_id]) if task_id in mapped else [-1]:
                own_state = branches if index >= 0 else "failed" if task_id == "collect_load" else "success"
                ran = {} if own_state == "scheduled" else {**times, "duration": 9.0, "try_number": 1}
                own = {"id": uuid4(), "run_id": run_id, "map_index": index, "state": own_state}
                instances.append({**row, **own, **ran})
        self._session.execute(insert(TaskInstance.__table__), instances)
        values = [
            {
                "dag_run_id": own_id,
                "dag_id": self._dag_id,
                "run_id": run_id,
                "task_id": task_id,
                "map_index": index,
                "key": key,
                "value": value,
            }
            for task_id, index, key, value in xcoms
        ]
        self._session.execute(insert(XComModel), values)


def write_many(writer: Writer, run_id: str, *, batches: int, size: int, branches: str) -> None:
    """
    Write a run that goes on, of which items are many.

    :param branches: State of the batches; if it is success, they have left records and values.
    """
    xcoms: list[XCom] = [
        ("list", -1, "return_value", []),
        ("docs.split", -1, "return_value", [[n * size, (n + 1) * size, 1] for n in range(batches)]),
    ]
    for number in range(batches):
        names = [f"document {number} {index}" for index in range(size)]
        xcoms.append(
            (
                "docs.split",
                -1,
                batch_key(number),
                {"items": [{"path": name} for name in names], "names": names},
            )
        )
    for number in range(batches if branches == "success" else 0):
        seconds = [round(0.5 + (number * size + index) % 9973 / 7919, 6) for index in range(size)]
        record = good_batch(
            number,
            start=number * size,
            statuses=("S" * 49 + "F") * (size // 50),
            errors={str(n): f"ValueError: {n} has no price" for n in range(49, size, 50)},
            seconds=seconds,
            cpu_seconds=[each / 2 for each in seconds],
        )
        xcoms += [("docs.each", number, RECORD_KEY, record), ("docs.each", number, "return_value", [])]
    mapped = {"docs.each": batches, "load.each": 0}
    writer.write(run_id, state="running", branches=branches, mapped=mapped, xcoms=xcoms)


def write_hostile(session: Session, writer: Writer, every: int) -> dict[str, str]:
    """Write some of the hostile cases, each as a run; return the titles of those that the database takes."""
    written = {}
    for number, case in enumerate(cases()):
        # The last ones are about a group as a whole.
        if number % every and not case.title[-1].isalpha():
            continue
        batches = {n: good_batch(n) for n in range(BATCHES)} | dict(case.batches)
        names = {n: {"items": [1] * SIZE, "names": None} for n in range(BATCHES)} | dict(case.names)
        xcoms: list[XCom] = [
            ("list", -1, "return_value", case.items),
            ("docs.split", -1, "return_value", case.cuts),
            *(("docs.split", -1, batch_key(n), value) for n, value in names.items()),
            *(("docs.each", n, RECORD_KEY, value) for n, value in batches.items()),
            *(("load.each", n, RECORD_KEY, value) for n, value in case.branches.items()),
            *(("docs.each", n, "return_value", 1) for n in range(BATCHES)),
            *(("load.each", n, "return_value", 1) for n in range(BRANCHES)),
        ]
        run_id = f"hostile_{number}"
        mapped = {"docs.each": BATCHES, "load.each": BRANCHES}
        try:
            with session.begin_nested():
                writer.write(run_id, state="failed", branches=case.state, mapped=mapped, xcoms=xcoms)
        except (DBAPIError, RecursionError, ValueError) as error:
            print(f"{case.title}: refused by the database: {type(error).__name__}", file=sys.stderr)
            continue
        written[run_id] = case.title
    return written


def main() -> None:
    """Write what standard input says: ``many``, ``hostile`` or other ``runs``, ``like`` one that is there."""
    given = json.loads(sys.stdin.read())
    with create_session() as session:
        writer = Writer(session, tuple(given["like"]))
        for many in given.get("many", ()):
            write_many(writer, **many)
        if "hostile" in given:
            print(json.dumps(write_hostile(session, writer, given["hostile"])))
        for run in given.get("runs", ()):
            writer.write(**run)


if __name__ == "__main__":
    main()
