"""Branches that end in unusual ways: skipped after a failure, without ``post_execute``, marked by hand."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync
from airflow.sdk import DAG, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump

if TYPE_CHECKING:
    from collections.abc import Callable


def collect(group: FanOutGroup, *, by_prefix: bool = False) -> None:
    """Add a fan-in, and another one that finds the branches by their prefix."""
    arguments: Any = {"min_success": 0, "python_callable": dump}
    FanInOperator(task_id=f"collect_{group.group_id}", fan_out=group, **arguments)
    if by_prefix:
        task_id, prefix = f"prefix_{group.group_id}", f"{group.group_id}."
        group >> FanInOperator(task_id=task_id, task_id_prefix=prefix, **arguments)


@task
def fails(text: str) -> str:
    if text == "bad":
        message = "told to"
        raise ValueError(message)
    return text


@task
def skips(text: str) -> str:
    if text == "bad":
        message = "nothing to do"
        raise AirflowSkipException(message)
    return text


@task
def passes(text: str) -> str:
    return text


def last(text: str) -> str:
    return f"end of {text}"


def skips_itself(text: str) -> str:
    if text == "bad":
        message = "nothing to end"
        raise AirflowSkipException(message)
    return last(text)


def branch_of(rule: str, *, deep: bool = False, end: Callable[[str], str] = last) -> Any:
    """A branch whose last task comes after one that fails and one that is skipped, if it is ``bad``."""

    @task_group
    def steps(text: str) -> Any:
        failing: Any = fails(text)
        before = [skips(text), passes(failing) if deep else failing]
        ending: Any = task(task_id="last", trigger_rule=rule)(end)(text)
        before >> ending
        return ending

    return steps


BRANCHES = {
    "none_skipped": branch_of("none_skipped"),
    "one_success": branch_of("all_done_min_one_success"),
    "deep": branch_of("none_skipped", deep=True),
    "itself": branch_of("all_done", end=skips_itself),
    "saved": branch_of("all_done"),
}
ITEMS = {"bad": "bad", "good": "good"}


@task
def tell_items() -> dict[str, str]:
    return ITEMS


with DAG("endings", schedule=None):
    for rule, branch in BRANCHES.items():
        collect(FanOutGroup(f"static_{rule}", branch=branch, items=ITEMS), by_prefix=True)
        collect(FanOutGroup(f"mapped_{rule}", branch=branch, items=ITEMS, mapped=True), by_prefix=True)
    collect(FanOutGroup("told", branch=BRANCHES["none_skipped"], items=tell_items()))


with DAG("endings_child", schedule=None, max_active_runs=32):

    @task
    def child(dag_run: Any = None) -> None:
        if dag_run.conf.get("fails"):
            message = "the child is told to fail"
            raise ValueError(message)

    child()

trigger = functools.partial(TriggerDagRunOperator, trigger_dag_id="endings_child", poke_interval=1)
WAITING: dict[str, dict[str, Any]] = {
    "trigger": {},
    "wait": {"wait_for_completion": True},
    "defer": {"wait_for_completion": True, "deferrable": True},
}
MODES: dict[str, dict[str, Any]] = {"static": {}, "mapped": {"mapped": True}}
LONG_AGO = "2020-01-01T00:00:00+00:00"

with DAG("endings_triggers", schedule=None, max_active_tasks=6):
    for mode, mapped in MODES.items():
        for way, waiting in WAITING.items():
            group_id = f"{way}_{mode}"
            confs = [{"conf": {"by": f"{group_id}_{index}", "fails": False}} for index in range(2)]
            if waiting:
                confs[1]["conf"]["fails"] = True
            declared = functools.partial(trigger, **waiting)
            collect(FanOutGroup(group_id, branch=declared, items=confs, **mapped), by_prefix=True)
        sensor = functools.partial(DateTimeSensorAsync, end_from_trigger=True)
        moments = [{"target_time": LONG_AGO}] * 2
        collect(FanOutGroup(f"sensor_{mode}", branch=sensor, items=moments, **mapped), by_prefix=True)
    started = functools.partial(DateTimeSensorAsync, end_from_trigger=True, start_from_trigger=True)
    collect(FanOutGroup("started", branch=started, items=[{"target_time": LONG_AGO}]))

    foreign: list[Any] = [
        trigger(task_id="foreign_trigger", conf={"by": "foreign_trigger"}),
        trigger(task_id="foreign_wait", conf={"by": "foreign_wait"}, wait_for_completion=True),
        DateTimeSensorAsync(task_id="foreign_sensor", target_time=LONG_AGO, end_from_trigger=True),
        TriggerDagRunOperator.partial(task_id="foreign_mapped", trigger_dag_id="endings_child").expand(
            conf=[{"by": "foreign_mapped[0]"}, {"by": "foreign_mapped[1]"}]
        ),
    ]
    foreign >> FanInOperator(
        task_id="collect_foreign", task_id_prefix="foreign_", min_success=0, python_callable=dump
    )


@task
def broken() -> str:
    message = "always broken"
    raise ValueError(message)


@task
def echo(text: str) -> str:
    return text


@task
def joined(text: str, end: str) -> str:
    return text + end


@task_group
def two_steps(text: str) -> Any:
    return passes(fails(text))


with DAG("endings_marked", schedule=None):
    source: Any = broken()
    echoes = {"never": echo.partial(text=source), "other": echo.partial(text="other")}
    collect(FanOutGroup("static", branch=echoes))
    collect(FanOutGroup("mapped", branch=joined, items=ITEMS, partial={"end": source}, mapped=True))
    collect(FanOutGroup("steps", branch=two_steps, items=ITEMS, mapped=True))
    [
        broken.override(task_id="foreign_failed")(),
        echo.override(task_id="foreign_never")(text=source),
        echo.override(task_id="foreign_good")(text="good"),
    ] >> FanInOperator(
        task_id="collect_foreign", task_id_prefix="foreign_", min_success=0, python_callable=dump
    )
