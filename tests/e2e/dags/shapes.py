"""Groups after fan-ins, in groups, in mapped groups, and a wide one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, TaskGroup, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.counting import CountingFanIn

if TYPE_CHECKING:
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    from airflow_fanout import FanInResults


@task
def add(number: int, index: int) -> int:
    return number + index


def total(results: FanInResults) -> int:
    return sum(results.values())


def describe(results: FanInResults, factor: int, run: str, ti: RuntimeTaskInstance) -> dict[str, Any]:
    scaled = {name: value * factor for name, value in results.items()}
    return {"scaled": scaled, "run": run, "task": ti.task_id}


@task
def only_six(word: str) -> str:
    if word != "6":
        raise AirflowSkipException(word)
    return word


@task
def join(words: list[str]) -> str:
    return "+".join(words)


@task_group
def by_exception(word: Any) -> Any:
    echo = BashOperator(task_id="echo", bash_command="echo $WORD", env={"WORD": word})
    return join([only_six(word), echo.output, word])


@task.short_circuit(ignore_downstream_trigger_rules=False)
def is_six(number: int) -> bool:
    return number == 6


@task_group
def by_short_circuit(number: int) -> None:
    is_six(number) >> add(number, 0)


with DAG("shapes", schedule=None):
    first = FanOutGroup("first", branch=add, count=2, partial={"number": 10})
    first_total = FanInOperator(task_id="first_total", fan_out=first, python_callable=total)
    second = FanOutGroup("second", branch=add, count=2, partial={"number": first_total.output})
    FanInOperator(task_id="second_total", fan_out=second, python_callable=total)

    FanInOperator(
        task_id="described",
        fan_out=second,
        python_callable=describe,
        op_kwargs={"factor": first_total.output, "run": "{{ run_id }}"},
    )

    with TaskGroup("outer"):
        inner = FanOutGroup("inner", branch=add, count=2, partial={"number": 100})
        FanInOperator(task_id="collect", fan_out=inner)

    @task_group
    def each(number: int) -> None:
        pair = FanOutGroup("pair", branch=add, count=2, partial={"number": number})
        FanInOperator(task_id="collect", fan_out=pair)

    each.expand(number=[1000, 2000])

    mapped = FanOutGroup("mapped_skips", branch=by_exception, items=["5", "6", "7"], mapped=True)
    static = FanOutGroup("static_skips", branch=by_short_circuit, items=[5, 6, 7])
    for group in (mapped, static):
        FanInOperator(task_id=f"{group.group_id}_collected", fan_out=group)
    by_short_circuit.override(group_id="native_skips").expand(number=[5, 6, 7])

    wide = FanOutGroup("wide", branch=add, count=30, partial={"number": 0})
    CountingFanIn(task_id="collect_wide", fan_out=wide)
