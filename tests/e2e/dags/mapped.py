"""Mapped groups: counts and items known at run time, every kind of branch, every fate."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.sdk import DAG, Param, task

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump
from tests.e2e.fates import act, collect, steps, tolerate

FATES = ["a", None, 0, "", "fails", "is skipped", "recovers", "b"]


@task
def list_fates() -> list[Any]:
    return FATES


@task
def name_fates() -> dict[str, Any]:
    return {"north": "a", "south": "fails", "east": None, "west": "is skipped"}


@task
def name_steps() -> dict[str, str]:
    return {"good": "good", "bad": "fails in transform", "none": "none", "idle": "is skipped in extract"}


@task
def list_none() -> list[Any]:
    return []


@task
def list_pairs() -> list[Any]:
    return [["k", "v"], ["l", "w"]]


@task
def broken() -> list[Any]:
    message = "no list"
    raise ValueError(message)


@task
def list_commands() -> list[dict[str, str]]:
    return [{"bash_command": "echo $PLACE"}, {"bash_command": "exit 1"}]


@task
def number(index: int, base: int = 0) -> int:
    return base + index


class Scale:
    """Whose text would be another at each parse."""

    factor = 10


def scaled(item: Any, scale: Scale, given: Any) -> Any:
    return [item * scale.factor, given[0], sorted(given[1])]


def poke(word: str) -> Any:
    from airflow.sdk.bases.sensor import PokeReturnValue

    return PokeReturnValue(is_done=True, xcom_value=word)


once: Any = {"retries": 1, "retry_delay": timedelta(milliseconds=100)}

params: Any = {"branches": Param(3, type="integer"), "place": "there"}

with DAG("mapped", schedule=None, max_active_tasks=32, params=params) as dag:
    fates = FanOutGroup("fates", branch=act, items=list_fates(), default_args=once)
    tolerate(fates)
    fates >> CountingFanIn(
        task_id="fates_by_prefix", task_id_prefix="fates.", min_success=1, python_callable=dump
    )

    tolerate(FanOutGroup("named", branch=act, items=name_fates(), stop_after_failures=3))
    tolerate(FanOutGroup("chains", branch=steps, items=name_steps()))
    fate_list = ["pushes and fails", "a", None, "b"]
    tolerate(FanOutGroup("pushed", branch=act, items=fate_list, mapped=True))
    collect(FanOutGroup("by_param", branch=number, count=dag.param("branches"), partial={"base": 10}))
    collect(FanOutGroup("pairs", branch=act, items=list_pairs()))

    for name, producer in {"none": list_none, "broken": broken}.items():
        group = FanOutGroup(f"of_{name}", branch=act, items=producer())
        collect(group)
        FanInOperator(task_id=f"tolerate_{name}", fan_out=group, min_success=1)

    here = functools.partial(BashOperator, env={"PLACE": "here"})
    tolerate(FanOutGroup("commands", branch=here, items=list_commands()))
    poking = functools.partial(PythonSensor, python_callable=poke, mode="reschedule")
    collect(FanOutGroup("sensors", branch=poking, items=[{"op_args": [n]} for n in "ab"], mapped=True))

    # What Airflow is given to store is not what the tasks get.
    chosen: Any = dag.param("branches")
    chosen_place: Any = dag.param("place")
    objects: Any = {"scale": Scale(), "given": [chosen, frozenset({2, 1})]}
    collect(FanOutGroup("stored", branch=scaled, items=[1, chosen], mapped=True, partial=objects))
    there = functools.partial(BashOperator, env={"PLACE": chosen_place})
    echo = {"bash_command": "echo $PLACE"}
    collect(FanOutGroup("stored_commands", branch=there, items=[echo], mapped=True))
