"""Mapped tasks of plain Airflow, collected with this package; ``mapped_by_hand`` is the same without it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow.sdk import dag

from airflow_fanout import FanInOperator
from benchmarks.counting import push_requests, start_counting
from benchmarks.mapped_numbers import Number, push_values

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

NUMBERS = int(os.environ["FANOUT_BENCHMARK_NUMBERS"])


@dag(schedule=None)
def mapped_ours() -> None:
    def combine(results: FanInResults) -> int:
        return sum(results.values())

    numbers = Number.partial(task_id="number").expand(value=list(range(NUMBERS)))
    collect = FanInOperator(
        task_id="combine",
        task_id_prefix="number",
        python_callable=combine,
        pre_execute=start_counting,
        post_execute=push_requests,
    )
    numbers >> push_values("number", NUMBERS) >> collect
    numbers >> collect


mapped_ours()
