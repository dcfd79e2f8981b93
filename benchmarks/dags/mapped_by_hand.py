"""Mapped tasks collected in plain Airflow; ``mapped_ours`` is the same with this package."""

from __future__ import annotations

import os
from typing import Any

from airflow.sdk import dag, task

from benchmarks.counting import push_requests, start_counting
from benchmarks.mapped_numbers import Number, push_values

NUMBERS = int(os.environ["FANOUT_BENCHMARK_NUMBERS"])


@dag(schedule=None)
def mapped_by_hand() -> None:
    @task(trigger_rule="all_done", pre_execute=start_counting, post_execute=push_requests)
    def combine(ti: Any = None) -> int:
        return sum(ti.xcom_pull(task_ids="number"))

    numbers = Number.partial(task_id="number").expand(value=list(range(NUMBERS)))
    collect = combine()
    numbers >> push_values("number", NUMBERS) >> collect
    numbers >> collect


mapped_by_hand()
