"""The author's own hooks and callbacks, set at each level that Airflow has, beside the package's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump

if TYPE_CHECKING:
    from airflow.sdk import Context


def note(what: str, context: Context) -> None:
    path = Path(os.environ["FANOUT_E2E_SCRATCH"], "hooks.txt")
    with path.open("a", encoding="utf-8") as notes:
        notes.write(f"{context['ti'].task_id} {what}\n")


def failed_by_dag(context: Context) -> None:
    note("on_failure_callback of the Dag", context)


def failed_by_group(context: Context) -> None:
    note("on_failure_callback of the group", context)


def failed_by_operator(context: Context) -> None:
    note("on_failure_callback of the operator", context)


def starting(context: Context) -> None:
    note("on_execute_callback", context)


def before(context: Context) -> None:
    note("pre_execute", context)


def after(context: Context, result: Any) -> None:
    note(f"post_execute with {result!r}", context)


@task
def succeed() -> str:
    return "fine"


@task
def fail() -> str:
    message = "out of order"
    raise ValueError(message)


of_group: Any = {
    "on_failure_callback": [failed_by_group]
}  # Any: mypy does not understand TaskGroup's converter
of_success: Any = {"on_execute_callback": starting, "pre_execute": before, "post_execute": after}

with DAG("hooks", schedule=None, default_args={"on_failure_callback": failed_by_dag}):
    [
        FanOutGroup("by_dag", branch=fail, count=1),
        FanOutGroup("by_group", branch=fail, count=1, default_args=of_group),
        FanOutGroup("by_operator", branch=fail.override(on_failure_callback=failed_by_operator), count=1),
        FanOutGroup("by_success", branch=succeed, count=1, default_args=of_success),
    ] >> FanInOperator(task_id="collect", task_id_prefix="by_", min_success=1, python_callable=dump)
