"""``stop_after_failures``: what has not started is skipped; what was retried, cleared or resumed is not."""

from __future__ import annotations

import functools
import os
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, task, task_group
from airflow.sdk.execution_time.comms import CommsDecoder

from airflow_fanout import FanOutGroup
from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump
from tests.e2e.telling import TellingFanIn

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
PATIENCE = 120.0

sent: Counter[str] = Counter()
send = CommsDecoder.send


def counted(comms: CommsDecoder[Any, Any], msg: Any) -> Any:
    """Count what a task's process asks, from the moment when it has read this file."""
    sent[type(msg).__name__] += 1
    return send(comms, msg)


if CommsDecoder.send.__name__ != "counted":
    CommsDecoder.send = counted  # type: ignore[method-assign, assignment]


def push_requests(context: Any) -> None:
    """Runs after the hook of the group."""
    context["ti"].xcom_push("requests", dict(sent))


def half_fail(index: int) -> int:
    if index % 2:
        message = f"broken {index}"
        raise ValueError(message)
    return index


@task
def first(index: int) -> int:
    return half_fail(index)


@task
def second(index: int) -> int:
    return index


@task_group
def chain(index: int) -> Any:
    return second(first(index))


def fail_once(index: int, ti: Any) -> int:
    if ti.try_number == 1:
        message = f"broken {index} once"
        raise ValueError(message)
    return index


def mark(name: str) -> None:
    (SCRATCH / f"stops-{name}").touch()


def is_marked(name: str) -> bool:
    return (SCRATCH / f"stops-{name}").exists()


def poke() -> bool:
    mark("poked")
    return is_marked("failed")


class Deferring(BaseOperator):
    """Waits in the triggerer, again and again, until the failure has come; not too short, see ``kinds``."""

    def execute(self, context: Any) -> None:
        """Go away."""
        mark("deferred")
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=8)), method_name="resume")

    def resume(self, context: Any, event: Any) -> str:
        """Come back, or go away again."""
        if not is_marked("failed"):
            self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=8)), method_name="resume")
        return "resumed"


def fail_after_both_have_begun() -> None:
    give_up = time.monotonic() + PATIENCE
    while not (is_marked("poked") and is_marked("deferred")) and time.monotonic() < give_up:
        time.sleep(0.2)
    message = "broken while others wait"
    raise ValueError(message)


@task(trigger_rule="all_done")
def tell_that_it_failed() -> None:
    mark("failed")


def never() -> str:
    return "ran"


counts_requests: Any = {"pre_execute": push_requests}
before_all_others: Any = {"priority_weight": 1000, "weight_rule": "absolute"}
retries: Any = {"retries": 1, "retry_delay": timedelta(milliseconds=100)}

with DAG("stops", schedule=None, max_active_tasks=2):
    plain = FanOutGroup(
        "plain",
        branch=half_fail,
        count=20,
        stop_after_failures=3,
        default_args=counts_requests,
    )
    branches: Any = plain.children.values()
    for place, each in enumerate(branches):
        each.priority_weight = 20 - place  # among equals any could come first, and the first three fail
    CountingFanIn(
        task_id="collect_plain",
        fan_out=plain,
        min_success=1,
        count_skipped="success",
        python_callable=dump,
    )
    CountingFanIn(task_id="collect_ratio", fan_out=plain, min_success_ratio=0.9)

    chains = FanOutGroup("chains", branch=chain, count=8, stop_after_failures=1)
    TellingFanIn(task_id="collect_chains", fan_out=chains)

    retried = FanOutGroup(
        "retried",
        branch=fail_once,
        count=4,
        stop_after_failures=1,
        default_args=retries,
    )
    CountingFanIn(task_id="collect_retried", fan_out=retried)

    waiting = FanOutGroup(
        "waiting",
        branch={
            "sensor": functools.partial(
                PythonSensor, python_callable=poke, mode="reschedule", poke_interval=10
            ),
            "deferred": Deferring,
            "failing": fail_after_both_have_begun,
            "late": never,
        },
        stop_after_failures=1,
        default_args=before_all_others,
    )
    CountingFanIn(task_id="collect_waiting", fan_out=waiting, min_success=1, python_callable=dump)
    tasks = waiting.children
    with waiting:  # outside, the group and this task would each come after the other
        told = tell_that_it_failed()
    tasks["waiting.failing"] >> told >> tasks["waiting.late"]
