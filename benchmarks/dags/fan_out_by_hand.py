"""A fan-out and its fan-in in plain Airflow; ``fan_out_ours`` is the same with this package."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import TaskGroup, dag, task

from benchmarks.counting import push_requests, start_counting

BRANCHES = int(os.environ["FANOUT_BENCHMARK_BRANCHES"])


@dag(schedule=None)
def fan_out_by_hand() -> None:
    @task
    def process(index: int) -> int:
        return index

    @task(trigger_rule="all_done", pre_execute=start_counting, post_execute=push_requests)
    def combine(ti: Any = None) -> int:
        task_ids = [f"process.process_{index}" for index in range(BRANCHES)]
        return sum(ti.xcom_pull(task_ids=task_ids))

    with TaskGroup("process") as group:
        for index in range(BRANCHES):
            process.override(task_id=f"process_{index}")(index=index)
    group >> combine()


fan_out_by_hand()
