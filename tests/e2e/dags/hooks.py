"""The author's own hooks and callbacks, set at each level that Airflow has, beside the package's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump
from tests.e2e.fates import do

if TYPE_CHECKING:
    from airflow.sdk import Context


def note(what: str, context: Context) -> None:
    path = Path(os.environ["FANOUT_E2E_SCRATCH"], "hooks.txt")
    with path.open("a", encoding="utf-8") as notes:
        notes.write(f"{context['ti'].task_id} {what}\n")


def noting(what: str) -> Any:
    return lambda context: note(what, context)


def after(context: Context, result: Any) -> None:
    note(f"post_execute with {result!r}", context)


def failed_by(level: str) -> Any:
    return {"on_failure_callback": noting(f"on_failure_callback of the {level}")}


of_success: Any = {
    "on_execute_callback": noting("on_execute_callback"),
    "pre_execute": noting("pre_execute"),
    "post_execute": after,
}

with DAG("hooks", schedule=None, default_args=failed_by("Dag")):
    [
        FanOutGroup("by_dag", branch=do, items=["fails"]),
        FanOutGroup("by_group", branch=do, items=["fails"], default_args=failed_by("group")),
        FanOutGroup("by_operator", branch=do.override(**failed_by("operator")), items=["fails"]),
        FanOutGroup("by_success", branch=do, items=["fine"], default_args=of_success),
    ] >> FanInOperator(task_id="collect", task_id_prefix="by_", min_success=1, python_callable=dump)
