"""A batched group that calls a service at a rate: with retries of items, and a batch that is killed."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from airflow.sdk import DAG

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
AGAIN: Any = {"retries": 1, "retry_delay": timedelta(milliseconds=100)}
SIZE, BATCHES, PER_SECOND, TASKS = 24, 8, 8, 2


def call(index: int, ti: Any) -> int:
    """Call the service, which is too busy for some first calls; after one the process is killed."""
    address = (SCRATCH / "rated-service").read_text()
    with urlopen(f"{address}/{ti.map_index}/{ti.try_number}/{index}", timeout=30) as answer:
        status = answer.read().decode()
    if index == 3 * SIZE + 16 and ti.try_number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if status != "here you are":
        message = f"the service says: {status}"
        raise ConnectionError(message)
    return index


with DAG("rated", schedule=None, max_active_tasks=32) as dag:
    rated = FanOutGroup(
        "rated",
        branch=call,
        count=BATCHES * SIZE,
        items_per_task=SIZE,
        max_concurrency=TASKS,
        item_concurrency=3,
        items_per_second=PER_SECOND,
        item_retries=2,
        item_retry_delay=timedelta(seconds=0.2),
        default_args=AGAIN,
    )
    FanInOperator(task_id="collect", fan_out=rated, python_callable=dump)
