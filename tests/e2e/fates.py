"""What branches of the test Dags are told to do, and the fan-ins that collect them."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import task, task_group
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.log import mask_secret

from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump

if TYPE_CHECKING:
    from airflow_fanout import FanOutGroup

__all__ = ["act", "collect", "do", "steps", "tolerate"]


def act(fate: Any, ti: Any) -> Any:
    """Return the fate, unless it tells otherwise; ``None`` and falsy values are values."""
    match fate:
        case "fails":
            message = f"broken on try {ti.try_number}"
            raise ValueError(message)
        case "pushes and fails":
            ti.xcom_push("return_value", "never a value")
            message = "after all"
            raise ValueError(message)
        case "recovers" if ti.try_number == 1:
            message = "not yet"
            raise ValueError(message)
        case "succeeds once" if ti.try_number > 1:
            message = "not again"
            raise ValueError(message)
        case "is skipped":
            message = "nothing to do"
            raise AirflowSkipException(message)
        case "leaks":
            password = "-".join(["open", "sesame", "4711"])
            mask_secret(password)
            message = f"login with {password} refused"
            raise ConnectionError(message)
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
    return fate


do: Any = task(act)


@task
def extract(fate: str, ti: Any = None) -> Any:
    return act(fate.removesuffix(" in extract"), ti)


@task(retries=1, retry_delay=timedelta(milliseconds=100))
def transform(fate: str, ti: Any = None) -> Any:
    return act(fate.removesuffix(" in transform"), ti).upper()


@task
def load(fate: str, ti: Any = None) -> Any:
    return None if fate == "NONE" else act("fails" if fate == "FAILS IN LOAD" else fate, ti)


@task_group
def steps(fate: str) -> Any:
    """A branch of three tasks; ``fails in transform`` tells which of them fails, or is skipped."""
    return load(transform(extract(fate)))


def collect(group: FanOutGroup, **arguments: Any) -> CountingFanIn:
    """Collect a group's values in a task ``collect_<group>``."""
    return CountingFanIn(task_id=f"collect_{group.label}", fan_out=group, **arguments)


def tolerate(group: FanOutGroup) -> CountingFanIn:
    """Collect all that is known of a group's branches, of which some fail."""
    return collect(group, min_success=1, python_callable=dump)
