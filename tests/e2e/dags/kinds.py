"""Every kind of branch: of several tasks, operators, sensors, deferrable ones, lists of functions, mixed."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, TaskGroup, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump


def meet(fate: str, place: str, ti: Any) -> None:
    """Fail or skip where a branch's fate says so."""
    if fate == f"fails in {place}":
        message = f"broken in {place}, try {ti.try_number}"
        raise ValueError(message)
    if fate == f"is skipped in {place}":
        message = f"nothing to do in {place}"
        raise AirflowSkipException(message)


@task
def extract(fate: str, ti: Any = None) -> str:
    meet(fate, "extract", ti)
    return fate


@task(retries=1, retry_delay=timedelta(milliseconds=100))
def transform(fate: str, ti: Any = None) -> str:
    meet(fate, "transform", ti)
    return fate.upper()


@task
def load(fate: str, ti: Any = None) -> str | None:
    meet(fate.lower(), "load", ti)
    return None if fate == "NONE" else fate


@task_group
def steps(fate: str) -> Any:
    return load(transform(extract(fate)))


@task
def number(index: int) -> int:
    if index == 2:
        message = "no third"
        raise ValueError(message)
    return index


@task
def total(numbers: Any) -> int:
    result: int = sum(numbers)
    return result


@task_group
def wide_inside(indexes: list[int]) -> Any:
    return total(number.expand(index=indexes))


@task
def note(text: str) -> str:
    return text


@task_group
def with_setup(text: str) -> None:
    before, after = note.override(task_id="before")("before"), note.override(task_id="after")("after")
    work = note.override(task_id="work")(text)
    before >> work >> after.as_teardown(setups=before)


class Deferring(BaseOperator):
    """
    Waits a moment in the triggerer.

    Not too short a one: if a trigger fires before a busy scheduler has heard of the deferral, Airflow
    takes the task for killed.
    """

    def execute(self, context: Any) -> None:
        """Go away."""
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=10)), method_name="resume")

    def resume(self, context: Any, event: Any) -> str:
        """Come back."""
        return "resumed"


def poke(ti: Any) -> Any:
    from airflow.sdk.bases.sensor import PokeReturnValue

    return PokeReturnValue(is_done=True, xcom_value=f"sensed {ti.task_id}")


def start(text: str) -> str:
    return text


def shout(text: str, mark: str = "!") -> str:
    return text.upper() + mark


def sign(text: str, ti: Any) -> str:
    return f"{text} {ti.task_id}"


def plain(text: str) -> str:
    return f"plain {text}"


with DAG("kinds", schedule=None, max_active_tasks=32):
    gate = extract.override(task_id="gate")("fails in extract")

    several = FanOutGroup(
        "several",
        branch=steps,
        items={
            "good": "good",
            "none": "none",
            "first_fails": "fails in extract",
            "middle_fails": "fails in transform",
            "last_fails": "fails in load",
            "middle_skips": "is skipped in transform",
            "never_starts": gate,
        },
    )
    CountingFanIn(task_id="collect_several", fan_out=several, min_success=1, python_callable=dump)
    several >> FanInOperator(
        task_id="several_by_prefix", task_id_prefix="several.", min_success=1, python_callable=dump
    )

    inside = FanOutGroup("inside", branch=wide_inside, items=[[0, 1], [1, 2, 3]])
    FanInOperator(task_id="collect_inside", fan_out=inside, min_success=1, python_callable=dump)

    prepared = FanOutGroup("prepared", branch=with_setup, items=["a", "b"])
    FanInOperator(task_id="collect_prepared", fan_out=prepared)

    commands = FanOutGroup(
        "commands",
        branch=functools.partial(BashOperator, env={"PLACE": "here"}),
        items=[{"bash_command": "echo $PLACE"}, {"bash_command": "exit 1"}, {"bash_command": "exit 99"}],
    )
    FanInOperator(task_id="collect_commands", fan_out=commands, min_success=1, python_callable=dump)

    with TaskGroup("outer"):
        mixed = FanOutGroup(
            "mixed",
            branch={
                "plain": functools.partial(plain, "text"),
                "decorated": note.partial(text="decorated"),
                "steps": functools.partial(steps, "good"),
                "command": functools.partial(BashOperator, bash_command="echo command"),
                "pipe": [functools.partial(start, "piped"), functools.partial(shout, mark="?"), sign],
                "sensor": functools.partial(PythonSensor, python_callable=poke, mode="reschedule"),
                "deferred": Deferring,
            },
        )
        FanInOperator(task_id="collect", fan_out=mixed, python_callable=dump)

    @task_group
    def each(fate: str) -> None:
        pair = FanOutGroup("pair", branch=steps, items=["good", "fails in transform"])
        FanInOperator(task_id="collect", fan_out=pair, min_success=1, python_callable=dump)
        lone = FanOutGroup("lone", branch=[start, shout], count=2, partial={"text": fate})
        FanInOperator(task_id="collect_lone", fan_out=lone)

    each.expand(fate=["one", "two"])
