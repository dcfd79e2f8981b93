"""Branches and items that do next to nothing, in sizes that are told: what is left is overhead."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from airflow.sdk import DAG, get_parsing_context

from airflow_fanout import FanInOperator, FanOutGroup
from benchmarks.sizes import item_sizes, items_dag_id

if TYPE_CHECKING:
    from airflow_fanout import FanInResults


def double(index: int) -> int:
    return 2 * index


def combine(results: FanInResults) -> int:
    return sum(results.values())


def is_wanted(dag_id: str) -> bool:
    """Whether a Dag has to be made: a task needs its own alone, and a wide one takes its time."""
    return get_parsing_context().dag_id in {None, dag_id}


for count in map(int, os.environ["FANOUT_BENCHMARK_BRANCH_COUNTS"].split(",")):
    for mode in ("static", "mapped"):
        dag_id = f"throughput_{mode}_{count}"
        if not is_wanted(dag_id):
            continue
        with DAG(dag_id, schedule=None):
            FanInOperator(
                task_id="combine",
                fan_out=FanOutGroup("process", branch=double, count=count, mapped=mode == "mapped"),
                python_callable=combine,
            )

for size in item_sizes():
    dag_id = items_dag_id(size.count, "throughput")
    if not is_wanted(dag_id):
        continue
    with DAG(dag_id, schedule=None):
        FanInOperator(
            task_id="combine",
            fan_out=FanOutGroup(
                "process", branch=double, count=size.count, items_per_task=size.items_per_task
            ),
            python_callable=combine,
        )
