"""Branches that wait: eight alike, then three that differ."""

from __future__ import annotations

import functools
import time

from airflow.sdk import DAG

from airflow_fanout import FanInOperator, FanOutGroup


def wait(seconds: float) -> float:
    time.sleep(seconds)  # stands for a call to a service
    return seconds


with DAG("timing", schedule=None):
    eight = FanOutGroup("eight", branch=wait, count=8, partial={"seconds": 3.0})
    three = FanOutGroup(
        "three",
        branch={
            "summary": functools.partial(wait, 3.5),
            "topics": functools.partial(wait, 3.0),
            "sentiment": functools.partial(wait, 3.0),
        },
    )
    FanInOperator(task_id="collect_eight", fan_out=eight) >> three
    FanInOperator(task_id="collect_three", fan_out=three)
