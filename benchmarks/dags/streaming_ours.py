"""Items of 1 KB, streamed through the fan-in, which tells its process's peak memory."""

from __future__ import annotations

import os
import resource
import sys
from typing import TYPE_CHECKING

from airflow.sdk import DAG, Param

from airflow_fanout import FanInOperator, FanOutGroup

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

BYTES_OF_AN_ITEM = int(os.environ["FANOUT_BENCHMARK_ITEM_BYTES"])
ITEMS_PER_TASK = int(os.environ["FANOUT_BENCHMARK_STREAMED_PER_TASK"])


def document(index: int) -> str:
    return f"{index:0{BYTES_OF_AN_ITEM}}"


def combine(results: FanInResults) -> dict[str, int]:
    streamed = sum(len(value) for _, value in results.items())
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"streamed_bytes": streamed, "peak_memory_bytes": peak}


with DAG("streaming_ours", schedule=None, params={"count": Param(1, type="integer")}) as dag:
    group = FanOutGroup("process", branch=document, count=dag.param("count"), items_per_task=ITEMS_PER_TASK)
    FanInOperator(task_id="combine", fan_out=group, python_callable=combine)
