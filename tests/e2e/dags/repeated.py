"""A group whose runs are compared: each is told which branch to fail, and how long to take."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup


@task
def repeat(index: int, params: Any = None) -> int:
    time.sleep(params["seconds"])
    if index == params["broken"]:
        message = f"no answer on attempt {index}"
        raise TimeoutError(message)
    return index


with DAG("repeated", schedule=None, params={"seconds": 0.2, "broken": -1}):
    FanInOperator(
        task_id="collect", fan_out=FanOutGroup("repeats", branch=repeat, count=3), min_success_ratio=0.5
    )
