"""The policy table: what a fan-in decides."""

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


with DAG("policy", schedule=None):
    mixed = FanOutGroup(
        "mixed",
        branch=branch,
        items={"one": "1", "two": "2", "three": "3", "broken": "fails", "idle": "is skipped"},
    )
    fan_in("mixed_all", mixed)
    fan_in("mixed_3", mixed, min_success=3)
    fan_in("mixed_4", mixed, min_success=4)
    fan_in("mixed_4_skipped_succeed", mixed, min_success=4, count_skipped="success")
    fan_in("mixed_3_skipped_fail", mixed, min_success_ratio=0.75, count_skipped="failure")
    fan_in("mixed_ratio", mixed, min_success_ratio=0.75)
    fan_in("mixed_both", mixed, min_success=3, min_success_ratio=0.75)
    fan_in("mixed_both_ratio_missed", mixed, min_success=3, min_success_ratio=0.76)
    fan_in("mixed_both_number_missed", mixed, min_success=4, min_success_ratio=0.75)

    skips = FanOutGroup("skips", branch=branch, items=["is skipped"] * 2)
    fan_in("skips_all", skips)
    fan_in("skips_exclude", skips, min_success=1)
    fan_in("skips_succeed", skips, min_success=2, count_skipped="success")
    fan_in("skips_fail", skips, min_success=1, count_skipped="failure")

    fails = task(branch)
    gate = fails.override(task_id="gate")("fails")
    quarter = FanOutGroup("quarter", branch=branch, items=[*"1234567", *[gate] * 18])
    fan_in("quarter_reached", quarter, min_success_ratio=0.28)
    fan_in("quarter_missed", quarter, min_success_ratio=0.281)

    @task
    def prepare() -> None:
        time.sleep(1)  # stands for work that a fan-in over nothing must not overtake

    zero = FanOutGroup("zero", branch=branch, count=0, partial={"fate": "never run"})
    no_items = FanOutGroup("no_items", branch=branch, items=[])
    prepare() >> [zero, no_items]
    # First in every queue, so that they would overtake `prepare` if anything let them.
    first: dict[str, Any] = {"priority_weight": 1000, "weight_rule": "absolute"}
    fan_in("zero_default", zero, **first)
    fan_in("zero_tolerant", zero, min_success=1)
    fan_in("zero_tolerant_succeed", zero, min_success=1, on_empty="succeed")
    fan_in("zero_fail", zero, on_empty="fail")
    fan_in("zero_skip", zero, on_empty="skip")
    fan_in("no_items_default", no_items, **first)
    no_items >> FanInOperator(task_id="no_items_by_prefix", task_id_prefix="no_items.", on_empty="skip")

    for fate in ("fails", "is skipped"):
        name = fate.replace(" ", "_")
        before = task(branch).override(task_id=f"before_zero_{name}")(fate)
        zero_after = FanOutGroup(f"zero_{name}", branch=branch, items=[])
        before >> zero_after
        fan_in(f"zero_before_{name}", zero_after, min_success=1, on_empty="succeed")

        beside = task(branch).override(task_id=f"beside_{name}")(fate)
        beside >> fan_in(f"collect_beside_{name}", mixed, min_success=1)
