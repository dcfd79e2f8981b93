"""Groups whose branches and fan-ins wait until a test lets them go: whatever it breaks, it breaks it then."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump
from tests.support.celery_airflow import hostname

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
HELD_ITEMS = {20: "items", 39: "last item"}
"""Items of a batch of 40 that wait, and at which stage."""


def hold(run_id: str, stage: str, name: str) -> None:
    """Say where this process has come to, and wait until the test lets it go on."""
    arrivals = SCRATCH / run_id / stage
    arrivals.mkdir(parents=True, exist_ok=True)
    unfinished = SCRATCH / run_id / f"{stage}-{name}"
    unfinished.write_text(f"{hostname()} {os.getpid()}")
    unfinished.rename(arrivals / name)
    give_up = time.monotonic() + 300
    while not (SCRATCH / run_id / f"{stage}.go").exists():
        if time.monotonic() > give_up:
            message = f"the test has not let {name} go"
            raise TimeoutError(message)
        time.sleep(0.1)


def branch(run_id: str, ti: Any) -> str:
    hold(run_id, "branches", ti.task_id)
    return f"{ti.task_id} on try {ti.try_number}"


def item(index: int, run_id: str, ti: Any) -> int:
    """Work for a while; two items of a batch wait on the way."""
    with (SCRATCH / run_id / "items-run").open("a") as file:
        file.write(f"{index}\n")
    if index in HELD_ITEMS:
        hold(run_id, HELD_ITEMS[index], ti.task_id)
    time.sleep(0.25 if index > 20 else 0.05)
    return index * index


def read_when_told(results: FanInResults, run_id: str) -> Any:
    """Read the values only now: before, a fan-in has read no more than states."""
    hold(run_id, "fan-in", "collect")
    return dump(results)


def on_both_workers(group_id: str) -> dict[str, Any]:
    """Eight branches, those with even numbers on one worker and those with odd ones on the other."""
    queues = ("worker-1", "worker-2") * 4
    return {f"{group_id}_{n}": task(branch).override(queue=queue) for n, queue in enumerate(queues)}


once: Any = {"retries": 1, "retry_delay": timedelta(milliseconds=100)}
once_on_worker_1: Any = {**once, "queue": "worker-1"}

with DAG("faults_tries", schedule=None, max_active_tasks=32):
    retried = FanOutGroup("retried", branch=on_both_workers("retried"), default_args=once)
    FanInOperator(task_id="collect_retried", fan_out=retried, python_callable=dump)

    final = FanOutGroup("final", branch=on_both_workers("final"))
    FanInOperator(task_id="tolerate_final", fan_out=final, min_success=1, python_callable=dump)
    FanInOperator(task_id="refuse_final", fan_out=final)

    resumed = FanOutGroup("resumed", branch=item, count=40, items_per_task=40, default_args=once_on_worker_1)
    FanInOperator(task_id="collect_resumed", fan_out=resumed, python_callable=dump)

# No retries: what is to survive has to survive as it is.
with DAG("faults_held", schedule=None, max_active_tasks=32):
    held = FanOutGroup("held", branch=branch, count=8)
    FanInOperator(task_id="collect", fan_out=held, python_callable=read_when_told)

with DAG("faults_saving", schedule=None, max_active_tasks=32):
    saving = FanOutGroup("saving", branch=item, count=40, items_per_task=40, default_args=once)
    FanInOperator(task_id="collect", fan_out=saving, python_callable=dump)

with DAG("faults_queued", schedule=None, max_active_tasks=32):
    queued = FanOutGroup("queued", branch=branch, count=12)
    FanInOperator(task_id="collect", fan_out=queued, python_callable=dump)
