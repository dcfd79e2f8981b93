"""A branch that fails with a secret in its error, and one whose process dies."""

from __future__ import annotations

import os
import signal

from airflow.sdk import DAG, task
from airflow.sdk.log import mask_secret

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump


@task
def leak() -> None:
    password = "-".join(["open", "sesame", "4711"])
    mask_secret(password)
    message = f"login with {password} refused"
    raise ConnectionError(message)


@task
def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task
def survive() -> str:
    return "alive"


with DAG("secrets_and_signals", schedule=None):
    group = FanOutGroup("group", branch={"leak": leak, "die": die, "survive": survive})
    FanInOperator(task_id="tolerate", fan_out=group, min_success=1, python_callable=dump)
    FanInOperator(task_id="refuse", fan_out=group)
