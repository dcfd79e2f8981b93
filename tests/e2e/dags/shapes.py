"""Groups after fan-ins and in groups; fan-outs and fan-ins as decorators, as Airflow finds them."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, TaskGroup, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.decorators import fan_out
from tests.e2e.fates import collect as collect_group
from tests.e2e.fates import do, steps


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
    is_six(number) >> do(number)


with DAG("shapes", schedule=None):

    @task
    def factor() -> int:
        return 10

    @task
    def numbers() -> dict[str, int]:
        return {"one": 1, "two": 2}

    @task.fan_in
    def collect(results: Any) -> dict[str, Any]:
        """Give back what came."""
        return dict(results)

    @task.fan_in
    def total(results: Any, times: int = 1, run: str = "", ti: Any = None) -> list[Any]:
        return [sum(results.values()) * times, run, ti.task_id]

    @task.fan_out(count=2)
    def counted(text: Any, index: int = -1) -> str:
        return f"{text} {index}"

    @task.fan_out
    def scaled(by: int = 1, number: int = 0) -> int:
        return by * number

    @task.fan_out(items_per_task=2, item_concurrency=2)
    async def batched(text: str = "", number: int = 0) -> dict[str, Any]:
        return {"said": f"{text} {number}"}

    stepwise = fan_out(count=2)(steps)

    first = total(scaled.partial(by=factor()).expand(number=[1, 2, 3]), factor(), run="{{ run_id }}")
    collect(counted(first))
    collect.override(task_id="collect_again")(counted("again"))
    collect.override(task_id="collect_run_time")(
        scaled.override(group_id="run_time").partial(by=2).expand(number=numbers())
    )
    collect.override(task_id="collect_batched")(batched.partial(text="text").expand(number=numbers()))
    collect.override(task_id="collect_steps")(stepwise("step"))

    with TaskGroup("outer"):
        inner = FanOutGroup("inner", branch=scaled.function, items=[4, 5], partial={"by": factor()})
        FanInOperator(task_id="collect", fan_out=inner)

    collect_group(FanOutGroup("mapped_skips", branch=by_exception, items=["5", "6", "7"], mapped=True))
    collect_group(FanOutGroup("static_skips", branch=by_short_circuit, items=[5, 6, 7]))
    by_short_circuit.override(group_id="native_skips").expand(number=[5, 6, 7])
