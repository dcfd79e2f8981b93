"""Twelve branches with different fates, and three fan-ins that look at them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump


@task(retries=1, retry_delay=timedelta(milliseconds=100))
def process_step(index: int, ti: Any = None) -> Any:
    if index != 11:
        ti.xcom_push("score", None if index == 10 else index * 10)
    match index:
        case 1:
            return None
        case 2:
            return 0
        case 3:
            return ""
        case 4:
            ti.xcom_push("return_value", "too early")
            message = f"broken on try {ti.try_number}"
            raise ValueError(message)
        case 5:
            raise AirflowSkipException
        case 6 if ti.try_number == 1:
            message = "not yet"
            raise ConnectionError(message)
        case _:
            return f"value of {index}, try {ti.try_number}"


with DAG("identity", schedule=None):
    process = FanOutGroup("process", branch=process_step, count=12)
    CountingFanIn(task_id="combine", fan_out=process, min_success=10, python_callable=dump)
    FanInOperator(task_id="values", fan_out=process, min_success=1)
    FanInOperator(task_id="scores", fan_out=process, min_success=1, key="score", python_callable=dump)
