"""Groups of every mode whose figures ``airflow fanout report`` is compared with: failures, retries, steps."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup


@task
def wait(index: int) -> int:
    time.sleep(0.3 * (index + 1))
    return index


@task
def list_regions() -> dict[str, float]:
    return {"eu": 0.2, "us": 1.4, "apac": 0.1}


@task
def load(seconds: float) -> float:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return seconds


@task
def list_places() -> list[int]:
    return list(range(25))


def visit(place: int) -> int:
    time.sleep(0.01 * (place % 3))
    if place == 7:
        message = "nobody is there"
        raise ValueError(message)
    if place == 12:
        message = "closed"
        raise AirflowSkipException(message)
    return place


@task(retries=1, retry_delay=timedelta(seconds=5))
def flaky(index: int, ti: Any = None) -> int:
    if index == 1 and ti.try_number == 1:
        message = "not yet"
        raise ValueError(message)
    time.sleep(0.2)
    return index


@task
def brittle(index: int) -> int:
    time.sleep(0.1)
    if index == 2:
        message = "no such file"
        raise ValueError(message)
    return index


@task
def read(item: str) -> str:
    time.sleep(0.2)
    return item


@task
def write(text: str) -> str:
    time.sleep(0.1)
    return text.upper()


@task_group
def copied(item: str) -> Any:
    return write(read(item))


with DAG("reported", schedule=None):
    FanInOperator(task_id="waited", fan_out=FanOutGroup("waits", branch=wait, count=3))
    FanInOperator(task_id="loaded", fan_out=FanOutGroup("loads", branch=load, items=list_regions()))
    FanInOperator(
        task_id="visited",
        fan_out=FanOutGroup("visits", branch=visit, items=list_places(), items_per_task=10),
        min_success=20,
    )
    FanInOperator(task_id="retried", fan_out=FanOutGroup("retries", branch=flaky, count=2))
    FanInOperator(task_id="partly", fan_out=FanOutGroup("parts", branch=brittle, count=4), min_success=3)
    FanInOperator(task_id="stepped", fan_out=FanOutGroup("steps", branch=copied, items=["a", "b"]))
    # Of a Dag's own tasks a prefix makes a group that is called after the fan-in.
    reads = [read.override(task_id=f"own_{each}")(each) for each in "xy"]
    reads >> FanInOperator(task_id="owned", task_id_prefix="own_")

with DAG("unfanned", schedule=None):
    list_places()
