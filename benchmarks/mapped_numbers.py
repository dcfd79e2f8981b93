"""Mapped tasks that cost no process each, and what gives them their values; for the benchmarks' Dags."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import task

__all__ = ["Number", "push_values"]


class Number(EmptyOperator):
    """
    Succeeds without a process of its own, so that hundreds of instances are soon there.

    :param value: What tells the instances apart.
    """

    def __init__(self, *, value: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value


@task
def push_values(task_id: str, count: int, ti: Any = None) -> None:
    """Push for each instance of a mapped task what it would have returned: its map index."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import SetXCom

    for index in range(count):
        task_runner.SUPERVISOR_COMMS.send(
            SetXCom(
                key="return_value",
                value=index,
                dag_id=ti.dag_id,
                run_id=ti.run_id,
                task_id=task_id,
                map_index=index,
            )
        )
