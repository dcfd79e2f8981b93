"""Every kind of branch: of several tasks, operators, sensors, deferrable ones, lists of functions, mixed."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, BaseOperator, TaskGroup, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump
from tests.e2e.fates import collect, do, steps, tolerate


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
    gate = do.override(task_id="gate")("fails")

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
    tolerate(several)

    tolerate(FanOutGroup("inside", branch=wide_inside, items=[[0, 1], [1, 2, 3]]))
    collect(FanOutGroup("prepared", branch=with_setup, items=["a", "b"]))

    here = functools.partial(BashOperator, env={"PLACE": "here"})
    texts = [{"bash_command": text} for text in ("echo $PLACE", "exit 1", "exit 99")]
    tolerate(FanOutGroup("commands", branch=here, items=texts))

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
        tolerate(FanOutGroup("pair", branch=steps, items=["good", "fails in transform"]))
        collect(FanOutGroup("lone", branch=[start, shout], count=2, partial={"text": fate}))

    each.expand(fate=["one", "two"])
