"""2,000 branches of each mode that has a task for each; the tests write what became of them."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_fanout import FanInOperator, FanOutGroup


def number(index: int) -> int:
    return index


with DAG("tab_large", schedule=None, is_paused_upon_creation=True):
    FanInOperator(
        task_id="collect",
        fan_out=FanOutGroup("number", branch=number, count=2000, mapped=True),
        min_success=1,
    )

with DAG("tab_large_static", schedule=None, is_paused_upon_creation=True):
    FanInOperator(task_id="collect", fan_out=FanOutGroup("number", branch=number, count=2000), min_success=1)
