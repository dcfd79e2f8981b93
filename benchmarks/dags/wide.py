"""A mapped group whose instances never run, because their pool is closed, collected with and without us."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from airflow.sdk import dag, task

from airflow_fanout import FanInOperator, FanOutGroup
from benchmarks.counting import push_requests, start_counting

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

INSTANCES = int(os.environ["FANOUT_BENCHMARK_INSTANCES"])
IN_POOL: Any = {"pool": os.environ["FANOUT_BENCHMARK_POOL"]}


@dag(schedule=None)
def wide() -> None:
    def process(index: int) -> int:
        return index

    def combine(results: FanInResults) -> int:
        return sum(results.values())

    @task(trigger_rule="all_done", pre_execute=start_counting, post_execute=push_requests)
    def combine_by_hand(ti: Any = None) -> int:
        return sum(ti.xcom_pull(task_ids="process.each"))

    group = FanOutGroup("process", branch=process, count=INSTANCES, mapped=True, default_args=IN_POOL)
    FanInOperator(
        task_id="combine",
        fan_out=group,
        python_callable=combine,
        pre_execute=start_counting,
        post_execute=push_requests,
    )
    group >> combine_by_hand()


wide()
