"""Branches that succeed at first, and fail or are gone when they are cleared; foreign tasks that do, too."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump


@task
def load(ti: Any = None) -> str:
    if ti.try_number > 1:
        message = "the source is gone"
        raise ValueError(message)
    return "loaded"


@task
def steady() -> str:
    return "steady"


@task
def broken() -> str:
    message = "always broken"
    raise ValueError(message)


@task
def echo(text: str) -> str:
    return text


@task
def flaky(ti: Any = None) -> str:
    if ti.try_number > 1:
        message = "not again"
        raise ValueError(message)
    return "once"


@task
def list_texts(ti: Any = None) -> list[str]:
    return ["first", "second", "third"] if ti.try_number == 1 else ["again"]


@task
def list_once(ti: Any = None) -> list[str]:
    if ti.try_number > 1:
        message = "no list any more"
        raise ValueError(message)
    return ["first", "second"]


with DAG("reruns", schedule=None):
    loaded = load()
    group = FanOutGroup(
        "group",
        branch={
            "steady": steady,
            "broken": broken,
            "flaky": flaky,
            "loaded": echo.partial(text=loaded),
            "marked": echo.partial(text=loaded),
        },
    )
    FanInOperator(task_id="collect", fan_out=group, min_success=1, python_callable=dump)

    FanInOperator(
        task_id="collect_native", task_id_prefix="native_", min_success=1, python_callable=dump
    ) << [
        echo.override(task_id="native_steady")(text="steady"),
        echo.override(task_id="native_shrinking").expand(text=list_texts()),
        echo.override(task_id="native_unlisted").expand(text=list_once()),
        echo.override(task_id="native_never")(text=broken.override(task_id="broken")()),
    ]
