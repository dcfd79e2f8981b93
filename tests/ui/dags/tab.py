"""What the tab shows: groups of every mode, failures, retries, names and errors that are not nice."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup

SCRATCH = Path(os.environ.get("FANOUT_UI_SCRATCH", "."))

HOSTILE = "<script>document.title='gone'</script><img src=x onerror=\"document.title='gone'\"> '\"&"
RIGHT_TO_LEFT = "\u202egnp.exe"
LONG = "long " * 2000


@task(retries=1, retry_delay=timedelta(seconds=1))
def visit(index: int, ti=None) -> int:  # type: ignore[no-untyped-def]
    time.sleep(0.2 * (index % 4))
    if index == 1 and ti.try_number == 1:
        message = "not yet"
        raise ConnectionError(message)
    if index == 2:
        raise ValueError(HOSTILE)
    if index == 3:
        raise ValueError(RIGHT_TO_LEFT + LONG)
    if index == 5:
        message = "nothing to do"
        raise AirflowSkipException(message)
    return index


@task
def read(name: str) -> str:
    if "script" in name:
        raise ValueError(name)
    return name


@task
def list_names() -> dict[str, str]:
    names = [HOSTILE, RIGHT_TO_LEFT, LONG[:240], "ordinary"]
    return {name: name for name in names}


def square(item: int) -> int:
    if item % 500 == 7:
        message = f"{item} is no good"
        raise ValueError(message)
    time.sleep(0.0005)
    return item * item


@task
def wait(index: int, until: str) -> int:
    while index >= 2 and not (SCRATCH / until).exists():
        time.sleep(0.1)
    return index


@task
def publish() -> None: ...


with DAG("tab", schedule=None):
    visits = FanOutGroup("visit", branch=visit, count=12)
    FanInOperator(task_id="visited", fan_out=visits, min_success=6) >> publish()
    FanInOperator(
        task_id="read_all", fan_out=FanOutGroup("read", branch=read, items=list_names()), min_success=1
    )
    squares = FanOutGroup(
        "square",
        branch=square,
        items=list(range(2000)),
        items_per_task=250,
        item_concurrency=4,
        item_retries=1,
        item_retry_delay=0,
    )
    FanInOperator(task_id="squared", fan_out=squares, min_success_ratio=0.9)

with DAG("tab_failed", schedule=None):
    failing = FanOutGroup("visit", branch=visit.override(retries=0), count=6)
    FanInOperator(task_id="visited", fan_out=failing) >> publish()

with DAG("tab_slow", schedule=None):
    slow = FanOutGroup("wait", branch=wait, count=4, partial={"until": "{{ run_id }}"})
    FanInOperator(task_id="collect", fan_out=slow)

with DAG("tab_plain", schedule=None):
    publish()
