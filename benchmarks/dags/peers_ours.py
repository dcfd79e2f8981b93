"""What the peers run, with this package: items in instances and in batches, and branches that wait."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from airflow.sdk import DAG

from airflow_fanout import FanInOperator, FanOutGroup

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

TASKS = 8


def double(index: int) -> int:
    return 2 * index


def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def combine(results: FanInResults) -> float:
    total: float = sum(results.values())
    return total


for count in map(int, os.environ["FANOUT_BENCHMARK_PEER_ITEMS"].split(",")):
    for mode, more in (
        ("mapped", {"mapped": True}),
        ("batched", {"items_per_task": -(-count // TASKS)}),
        ("together", {"items_per_task": count}),
    ):
        with DAG(f"peers_{mode}_{count}", schedule=None):
            FanInOperator(
                task_id="combine",
                fan_out=FanOutGroup("process", branch=double, count=count, **more),
                python_callable=combine,
            )

seconds = [float(each) for each in os.environ["FANOUT_BENCHMARK_PEER_WAITS"].split(",")]
in_one_task = {"items_per_task": len(seconds), "item_concurrency": len(seconds)}
for mode, more in (("mapped", {"mapped": True}), ("batched", {}), ("together", in_one_task)):
    with DAG(f"peers_waits_{mode}", schedule=None):
        FanInOperator(
            task_id="combine",
            fan_out=FanOutGroup("wait", branch=wait, items=seconds, **more),
            python_callable=combine,
        )
