"""Writes finished instances of a mapped task into the metadata database: thousands, without running them."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

__all__ = ["FinishedInstances"]

RETURN_VALUE, RECORD_KEY = "return_value", "fan_out_branch"
"""XCom keys, as the package has them; importing them from there would import Airflow into this process."""


class FinishedInstances:
    """
    Instances of a mapped task that are to have succeeded without having run.

    Each has returned its map index, and recorded what the branches of this package record.

    :param engine: Reaches the metadata database.
    :param dag_id: The Dag.
    :param run_id: Its run.
    :param task_id: The mapped task, whose instances wait for a slot that will never be free.
    """

    def __init__(self, engine: sa.Engine, *, dag_id: str, run_id: str, task_id: str) -> None:
        self._engine = engine
        self._of = {"dag_id": dag_id, "run_id": run_id, "task_id": task_id}
        metadata = sa.MetaData()
        self._instances, self._xcoms, self._runs = (
            sa.Table(name, metadata, autoload_with=engine, resolve_fks=False)
            for name in ("task_instance", "xcom", "dag_run")
        )

    def count(self) -> int:
        """Count the instances that the scheduler has made."""
        with self._engine.connect() as connection:
            counted = sa.select(sa.func.count()).where(*self._ours, self._instances.c.map_index >= 0)
            return int(connection.execute(counted).scalar_one())

    def push(self, count: int) -> None:
        """Write what so many instances have pushed."""
        runs = self._runs.c
        of_run = sa.select(runs.id).where(
            runs.dag_id == self._of["dag_id"], runs.run_id == self._of["run_id"]
        )
        with self._engine.begin() as connection:
            shared = {
                **self._of,
                "dag_run_id": connection.execute(of_run).scalar_one(),
                "timestamp": datetime.now(UTC),
                "dag_result": False,
            }
            rows = [
                {**shared, "map_index": index, "key": key, "value": value}
                for index in range(count)
                for key, value in (
                    (RETURN_VALUE, index),
                    (RECORD_KEY, {"state": "success", "has_value": True, "map_index": index}),
                )
            ]
            connection.execute(sa.insert(self._xcoms), rows)

    def finish(self) -> int:
        """
        Let those succeed that have not; to be repeated, for a scheduler may be about to write their states.

        :return: Number of those that had not.
        """
        now = datetime.now(UTC)
        finished = (
            sa.update(self._instances)
            .where(*self._ours, self._instances.c.state.is_distinct_from("success"))
            .values(
                state="success", start_date=now, end_date=now, duration=0.0, queued_dttm=now, try_number=1
            )
        )
        with self._engine.begin() as connection:
            return connection.execute(finished).rowcount

    @property
    def _ours(self) -> list[sa.ColumnElement[bool]]:
        return [self._instances.c[name] == value for name, value in self._of.items()]
