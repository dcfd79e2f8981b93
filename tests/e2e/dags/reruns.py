"""Branches that succeed at first, and fail or are gone when they are cleared; foreign tasks that do, too."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump
from tests.e2e.fates import act, do


@task
def list_texts(ti: Any = None) -> list[str]:
    return ["first", "second", "third"] if ti.try_number == 1 else ["again"]


@task
def list_once(ti: Any = None) -> list[str]:
    act("succeeds once", ti)
    return ["first", "second"]


with DAG("reruns", schedule=None):
    loaded = do.override(task_id="load")("succeeds once")
    group = FanOutGroup(
        "group",
        branch={
            "steady": do.partial(fate="steady"),
            "broken": do.partial(fate="fails"),
            "flaky": do.partial(fate="succeeds once"),
            "loaded": do.partial(fate=loaded),
            "marked": do.partial(fate=loaded),
        },
    )
    FanInOperator(task_id="collect", fan_out=group, min_success=1, python_callable=dump)

    FanInOperator(
        task_id="collect_native", task_id_prefix="native_", min_success=1, python_callable=dump
    ) << [
        do.override(task_id="native_steady")("steady"),
        do.override(task_id="native_shrinking").expand(fate=list_texts()),
        do.override(task_id="native_unlisted").expand(fate=list_once()),
        do.override(task_id="native_never")(do.override(task_id="broken")("fails")),
    ]
