"""Many items by hand: in tasks that each loop over a range, and in an instance of a mapped task each."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param, task

from benchmarks.counting import push_requests, start_counting
from benchmarks.sizes import FIXED_LOOPS, INSTANCES, LOOPS, ItemSize, item_sizes, items_dag_id, ranges


@task
def cut(count: Any, items_per_task: int) -> list[list[int]]:
    return ranges(ItemSize(count=count, items_per_task=items_per_task))


@task
def process(bounds: list[int]) -> list[int]:
    return [2 * index for index in range(*bounds)]


@task(pre_execute=start_counting, post_execute=push_requests)
def combine(parts: Any) -> int:
    return sum(sum(part) for part in parts)


@task
def double(index: int) -> int:
    return 2 * index


@task(task_id="combine", pre_execute=start_counting, post_execute=push_requests)
def combine_doubled(doubled: Any) -> int:
    return sum(doubled)


for size in item_sizes():
    params = {"count": Param(size.count, type="integer")}
    with DAG(items_dag_id(size.count, LOOPS), schedule=None, params=params) as dag:
        combine(process.expand(bounds=cut(dag.param("count"), size.items_per_task)))
    with DAG(items_dag_id(size.count, FIXED_LOOPS), schedule=None):
        combine(process.expand(bounds=ranges(size)))

smallest = min(size.count for size in item_sizes())
with DAG(items_dag_id(smallest, INSTANCES), schedule=None):
    combine_doubled(double.expand(index=list(range(smallest))))
