"""Batches and mapped branches over items known at run time; the tests write what became of them."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup


@task(task_id="list")
def list_items() -> list[Any]:
    return []


def handle(item: Any) -> Any:
    return item


def dag_of(dag_id: str, size: int) -> None:
    with DAG(dag_id, schedule=None, is_paused_upon_creation=True):
        items = list_items()
        docs = FanOutGroup("docs", branch=handle, items=items, items_per_task=size)
        FanInOperator(task_id="collect_docs", fan_out=docs)
        FanInOperator(task_id="collect_load", fan_out=FanOutGroup("load", branch=handle, items=items))


dag_of("tab_items", 4)
dag_of("tab_many_items", 500)
dag_of("tab_waiting", 200)
