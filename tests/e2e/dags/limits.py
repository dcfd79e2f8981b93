"""Groups that wait, each held back by something else; two Dags, as one limit is the Dag's."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import DAG, task

from airflow_fanout import FanOutGroup

SECONDS = 3.0
LONGER = 6.0
"""For ten tasks at once, which two cores take some seconds to start."""


def wait(seconds: float) -> None:
    time.sleep(seconds)  # as long as others take to start: what is tested is how many wait at a time


def wait_a_while() -> None:
    wait(SECONDS)


@task(max_active_tis_per_dagrun=2)
def wait_in_twos(seconds: float) -> None:
    wait(seconds)


with DAG("limits", schedule=None, max_active_tasks=50):
    two: Any = {"pool": "e2e_two"}
    two_of_five: Any = {"pool": "e2e_five", "pool_slots": 2}
    held_back = [
        FanOutGroup("pool", branch=wait_a_while, count=4, default_args=two),
        FanOutGroup("pool_slots", branch=wait_a_while, count=4, default_args=two_of_five),
        FanOutGroup("mapped", items=[SECONDS] * 4, branch=wait, mapped=True, max_concurrency=2),
        FanOutGroup(
            "batched",
            items=[SECONDS] * 8,
            branch=wait,
            items_per_task=2,
            item_concurrency=2,
            max_concurrency=2,
        ),
    ]
    few = [
        FanOutGroup("few", branch=wait_a_while, count=3),
        FanOutGroup("instances", items=[SECONDS] * 4, branch=wait_in_twos, mapped=True),
    ]
    many = FanOutGroup("many", count=12, branch=wait, partial={"seconds": LONGER})
    for group in few:
        held_back >> group >> many

with DAG("limits_of_the_dag", schedule=None, max_active_tasks=3):
    FanOutGroup("work", branch=wait_a_while, count=5)
