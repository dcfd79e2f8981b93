"""Mapped groups: counts and items known at run time, every kind of branch, every fate."""

from __future__ import annotations

import functools
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.sdk import DAG, Param, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump


def act(fate: Any, ti: Any) -> Any:
    """Succeed, fail or skip as it is told; ``None`` and falsy values are values."""
    match fate:
        case "fails":
            message = f"broken on try {ti.try_number}"
            raise ValueError(message)
        case "is skipped":
            message = "nothing to do"
            raise AirflowSkipException(message)
        case "recovers" if ti.try_number == 1:
            message = "not yet"
            raise ValueError(message)
        case "pushes and fails":
            ti.xcom_push("return_value", "never a value")
            message = "after all"
            raise ValueError(message)
    return fate


FATES = ["a", None, 0, "", "fails", "is skipped", "recovers", "b"]


@task
def list_fates() -> list[Any]:
    return FATES


@task
def name_fates() -> dict[str, Any]:
    return {"north": "a", "south": "fails", "east": None, "west": "is skipped"}


@task
def list_none() -> list[Any]:
    return []


@task
def list_one() -> list[Any]:
    return ["only"]


@task
def list_pairs() -> list[Any]:
    return [["k", "v"], ["l", "w"]]


@task
def count_three() -> int:
    return 3


@task
def broken() -> list[Any]:
    message = "no list"
    raise ValueError(message)


@task
def number(index: int, base: int = 0) -> int:
    return base + index


@task
def same(base: int) -> int:
    return base


@task
def first(fate: Any, ti: Any = None) -> Any:
    return act(fate, ti)


@task
def second(fate: Any) -> str:
    return f"done {fate}"


@task_group
def chain(fate: Any) -> Any:
    return second(first(fate))


class Scale:
    """Whose text would be another at each parse."""

    factor = 10


def scaled(item: Any, scale: Scale, given: Any) -> Any:
    return [item * scale.factor, given[0], sorted(given[1])]


@task
def total(numbers: frozenset[int]) -> int:
    return sum(numbers)


@task_group
def sums(numbers: Any) -> Any:
    return total(numbers)


def poke(word: str) -> Any:
    from airflow.sdk.bases.sensor import PokeReturnValue

    return PokeReturnValue(is_done=True, xcom_value=word)


once: Any = {"retries": 1, "retry_delay": timedelta(milliseconds=100)}

params: Any = {"branches": Param(3, type="integer"), "place": "there"}

with DAG("mapped", schedule=None, max_active_tasks=32, params=params) as dag:
    fates = FanOutGroup("fates", branch=act, items=list_fates(), default_args=once)
    CountingFanIn(task_id="collect_fates", fan_out=fates, min_success=1, python_callable=dump)
    fates >> CountingFanIn(
        task_id="fates_by_prefix", task_id_prefix="fates.", min_success=1, python_callable=dump
    )

    named = FanOutGroup("named", branch=act, items=name_fates(), stop_after_failures=3)
    CountingFanIn(task_id="collect_named", fan_out=named, min_success=1, python_callable=dump)

    by_param = FanOutGroup("by_param", branch=number, count=dag.param("branches"), partial={"base": 10})
    CountingFanIn(task_id="collect_by_param", fan_out=by_param)

    counted = FanOutGroup("counted", branch=same, count=count_three(), partial={"base": 7})
    CountingFanIn(task_id="collect_counted", fan_out=counted)

    literal = FanOutGroup(
        "literal", branch=act, items={"x": "1", "y": "fails", "z": "3"}, mapped=True, max_concurrency=2
    )
    CountingFanIn(task_id="collect_literal", fan_out=literal, min_success=1, python_callable=dump)

    pairs = FanOutGroup("pairs", branch=act, items=list_pairs())
    CountingFanIn(task_id="collect_pairs", fan_out=pairs)

    for name, producer in {"none": list_none, "one": list_one, "broken": broken}.items():
        group = FanOutGroup(f"of_{name}", branch=act, items=producer())
        FanInOperator(task_id=f"collect_{name}", fan_out=group)
        FanInOperator(task_id=f"tolerate_{name}", fan_out=group, min_success=1)

    no_chains = FanOutGroup("no_chains", branch=chain, items=list_none.override(task_id="list_no_chains")())
    FanInOperator(task_id="collect_no_chains", fan_out=no_chains)

    chains = FanOutGroup("chains", branch=chain, items=["good", "fails", "is skipped"], mapped=True)
    CountingFanIn(task_id="collect_chains", fan_out=chains, min_success=1, python_callable=dump)

    at_run_time = FanOutGroup("at_run_time", branch=chain, items=name_fates.override(task_id="name_more")())
    CountingFanIn(task_id="collect_at_run_time", fan_out=at_run_time, min_success=1, python_callable=dump)

    @task
    def list_commands() -> list[dict[str, str]]:
        return [{"bash_command": "echo $PLACE"}, {"bash_command": "exit 1"}]

    commands = FanOutGroup(
        "commands",
        branch=functools.partial(BashOperator, env={"PLACE": "here"}),
        items=list_commands(),
    )
    CountingFanIn(task_id="collect_commands", fan_out=commands, min_success=1, python_callable=dump)

    # What Airflow is given to store is not what the tasks get.
    chosen: Any = dag.param("branches")
    chosen_place: Any = dag.param("place")
    objects: Any = {"scale": Scale(), "given": [chosen, frozenset({2, 1})]}
    stored = FanOutGroup("stored", branch=scaled, items=[1, chosen], mapped=True, partial=objects)
    CountingFanIn(task_id="collect_stored", fan_out=stored)
    stored_batch = FanOutGroup("stored_batch", branch=scaled, items=[1], items_per_task=1, partial=objects)
    CountingFanIn(task_id="collect_stored_batch", fan_out=stored_batch)
    stored_sums = FanOutGroup("stored_sums", branch=sums, items=[{1, 2}, frozenset({3, 4})], mapped=True)
    CountingFanIn(task_id="collect_stored_sums", fan_out=stored_sums)
    stored_commands = FanOutGroup(
        "stored_commands",
        branch=functools.partial(BashOperator, env={"PLACE": chosen_place}),
        items=[{"bash_command": "echo $PLACE"}],
        mapped=True,
    )
    CountingFanIn(task_id="collect_stored_commands", fan_out=stored_commands)

    sensors = FanOutGroup(
        "sensors",
        branch=functools.partial(PythonSensor, python_callable=poke, mode="reschedule"),
        items=[{"op_args": ["one"]}, {"op_args": ["two"]}],
        mapped=True,
    )
    CountingFanIn(task_id="collect_sensors", fan_out=sensors)

    pushed = FanOutGroup("pushed", branch=act, items=["pushes and fails", "a", None, "b"], mapped=True)
    CountingFanIn(task_id="collect_pushed", fan_out=pushed, min_success=1, python_callable=dump)
