"""Many items in a few tasks with this package; ``items_by_hand`` is the same without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import DAG, Param

from airflow_fanout import FanInOperator, FanOutGroup
from benchmarks.counting import push_requests, start_counting
from benchmarks.sizes import item_sizes, items_dag_id

if TYPE_CHECKING:
    from airflow_fanout import FanInResults


def double(index: int) -> int:
    return 2 * index


def combine(results: FanInResults) -> int:
    return sum(results.values())


for size in item_sizes():
    with DAG(
        items_dag_id(size.count, "ours"), schedule=None, params={"count": Param(size.count, type="integer")}
    ) as dag:
        FanInOperator(
            task_id="combine",
            fan_out=FanOutGroup(
                "process", branch=double, count=dag.param("count"), items_per_task=size.items_per_task
            ),
            python_callable=combine,
            pre_execute=start_counting,
            post_execute=push_requests,
        )
