"""Verdicts of fan-ins over branches of every fate, over many with long names, and over none."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump
from tests.e2e.fates import act, do

NAMES = [f"document_{(number * 7) % 300}_of_the_archive_that_was_scanned_last_year" for number in range(300)]
"""Too long for a template field, and in no order that could be guessed."""

FATES = {0: "fails", 1: "is skipped", 150: "150", 298: "298", 299: "299"}


@task
def prepare() -> None:
    time.sleep(1)  # stands for work that a fan-in over nothing must not overtake


def fan_in(task_id: str, fan_out: FanOutGroup, **arguments: Any) -> FanInOperator:
    """A fan-in that would be tried three times if its verdict were worth a retry."""
    return FanInOperator(
        task_id=task_id, fan_out=fan_out, retries=2, retry_delay=timedelta(milliseconds=100), **arguments
    )


with DAG("policy", schedule=None):
    fates = {"one": "1", "two": "2", "leak": "leaks", "die": "dies", "idle": "is skipped"}
    mixed = FanOutGroup("mixed", branch=act, items=fates)
    fan_in("mixed_all", mixed)
    fan_in("mixed_2", mixed, min_success=2, python_callable=dump)
    fan_in("skips", FanOutGroup("skipped", branch=act, items=["is skipped"] * 2))

    # All but five wait for a task that fails: they end without a process of their own.
    closed = do.override(task_id="closed")("fails")
    items: dict[str, Any] = {name: FATES.get(place, closed) for place, name in enumerate(NAMES)}
    documents = FanOutGroup("documents", branch=act, items=items)
    fan_in("tolerate_many", documents, min_success=3, python_callable=dump)
    fan_in("refuse_many", documents)

    zero = FanOutGroup("zero", branch=act, items=[])
    prepare() >> zero
    # First in every queue, so that it would overtake `prepare` if anything let it.
    fan_in("zero_default", zero, priority_weight=1000, weight_rule="absolute")
    zero >> FanInOperator(task_id="zero_by_prefix", task_id_prefix="zero.", on_empty="skip")

    for fate in ("fails", "is skipped"):
        name = fate.replace(" ", "_")
        zero_after = FanOutGroup(f"zero_{name}", branch=act, items=[])
        do.override(task_id=f"before_zero_{name}")(fate) >> zero_after
        fan_in(f"zero_before_{name}", zero_after, min_success=1, on_empty="succeed")
        beside = do.override(task_id=f"beside_{name}")(fate)
        beside >> fan_in(f"collect_beside_{name}", mixed, min_success=1)
