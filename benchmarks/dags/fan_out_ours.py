"""A fan-out and its fan-in with this package; ``fan_out_by_hand`` is the same without it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow.sdk import dag, task

from airflow_fanout import FanInOperator, FanOutGroup
from benchmarks.counting import push_requests, start_counting

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

BRANCHES = int(os.environ["FANOUT_BENCHMARK_BRANCHES"])


@dag(schedule=None)
def fan_out_ours() -> None:
    @task
    def process(index: int) -> int:
        return index

    def combine(results: FanInResults) -> int:
        return sum(results.values())

    group = FanOutGroup("process", branch=process, count=BRANCHES)
    FanInOperator(
        task_id="combine",
        fan_out=group,
        python_callable=combine,
        pre_execute=start_counting,
        post_execute=push_requests,
    )


fan_out_ours()
