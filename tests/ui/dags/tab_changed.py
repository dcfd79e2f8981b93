"""A Dag whose file a test changes after a run."""

from __future__ import annotations

from airflow.sdk import DAG

from airflow_fanout import FanInOperator, FanOutGroup

LABEL, COUNT = "early", 3


def number(index: int) -> int:
    return index


with DAG("tab_changed", schedule=None):
    FanInOperator(task_id="collect", fan_out=FanOutGroup(LABEL, branch=number, count=COUNT))
