"""More branches than a page of Airflow's own clear holds; the tests write the first round themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup

if TYPE_CHECKING:
    from airflow_fanout import FanInResults


def number(index: int) -> int:
    return index


def total(results: FanInResults) -> int:
    return sum(results.values())


@task
def add(static: int, mapped: int) -> int:
    return static + mapped


with DAG("rerun_many", schedule=None, is_paused_upon_creation=True):
    of_120 = FanOutGroup("static", branch=number, count=120)
    of_300 = FanOutGroup("mapped", branch=number, count=300, mapped=True)
    add(
        FanInOperator(task_id="collect_static", fan_out=of_120, python_callable=total).output,
        FanInOperator(task_id="collect_mapped", fan_out=of_300, python_callable=total).output,
    )
