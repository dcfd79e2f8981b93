"""Verdicts of fan-ins."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup


def branch(fate: str) -> str:
    match fate:
        case "fails":
            message = "out of order"
            raise ValueError(message)
        case "is skipped":
            message = "nothing to do"
            raise AirflowSkipException(message)
    return fate


def fan_in(task_id: str, fan_out: FanOutGroup, **arguments: Any) -> FanInOperator:
    """A fan-in that would be tried three times if its verdict were worth a retry."""
    return FanInOperator(
        task_id=task_id, fan_out=fan_out, retries=2, retry_delay=timedelta(milliseconds=100), **arguments
    )


@task
def prepare() -> None:
    time.sleep(1)  # stands for work that a fan-in over nothing must not overtake


with DAG("policy", schedule=None):
    mixed = FanOutGroup(
        "mixed",
        branch=branch,
        items={"one": "1", "two": "2", "three": "3", "broken": "fails", "idle": "is skipped"},
    )
    fan_in("mixed_all", mixed)
    fan_in("mixed_3", mixed, min_success=3)
    fan_in("mixed_skipped_fail", mixed, min_success_ratio=0.75, count_skipped="failure")

    fan_in("skips", FanOutGroup("skipped", branch=branch, items=["is skipped"] * 2))

    zero = FanOutGroup("zero", branch=branch, items=[])
    prepare() >> zero
    # First in every queue, so that it would overtake `prepare` if anything let it.
    fan_in("zero_default", zero, priority_weight=1000, weight_rule="absolute")
    fan_in("zero_tolerant", zero, min_success=1)
    zero >> FanInOperator(task_id="zero_by_prefix", task_id_prefix="zero.", on_empty="skip")

    for fate in ("fails", "is skipped"):
        name = fate.replace(" ", "_")
        before = task(branch).override(task_id=f"before_zero_{name}")(fate)
        zero_after = FanOutGroup(f"zero_{name}", branch=branch, items=[])
        before >> zero_after
        fan_in(f"zero_before_{name}", zero_after, min_success=1, on_empty="succeed")

        beside = task(branch).override(task_id=f"beside_{name}")(fate)
        beside >> fan_in(f"collect_beside_{name}", mixed, min_success=1)
