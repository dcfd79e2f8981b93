"""Fan-outs and fan-ins as decorators, as Airflow finds them by the provider: ``@task.fan_out``."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task, task_group

from airflow_fanout.decorators import fan_out

with DAG("taskflow", schedule=None):

    @task
    def load() -> str:
        return "text"

    @task
    def factor() -> int:
        return 10

    @task
    def numbers() -> list[int]:
        return [1, 2, 3]

    @task
    def numbers_by_name() -> dict[str, int]:
        return {"one": 1, "two": 2}

    @task
    def no_numbers() -> list[int]:
        return []

    @task
    def pairs() -> list[dict[str, int]]:
        return [{"number": 1}, {"by": 2, "number": 3}]

    @task.fan_in
    def collect(results: Any) -> dict[str, Any]:
        """Give back what came."""
        return dict(results)

    @task.fan_in
    def total(results: Any, times: int, plus: int = 0, ti: Any = None) -> dict[str, Any]:
        return {"total": sum(results.values()) * times + plus, "task": ti.task_id}

    @task.fan_in(min_success=2)
    def enough(results: Any) -> dict[str, Any]:
        return {
            "values": dict(results),
            "failed": {name: each.error for name, each in results.failed.items()},
        }

    @task.fan_out(count=2)
    def counted(text: str, index: int = -1) -> str:
        return f"{text} {index}"

    @task.fan_out
    def scaled(by: int = 1, number: int = 0) -> int:
        return by * number

    @task.fan_out(items_per_task=2, item_concurrency=2)
    def batched(text: str = "", number: int = 0) -> dict[str, Any]:
        return {"said": f"{text} {number}"}

    @task.fan_out(items_per_task=3, retries=0)
    async def awaited(number: int) -> int:
        return -number

    @task.fan_out(retries=0)
    def fragile(number: int) -> int:
        if number == 2:
            message = "two is one too many"
            raise ValueError(message)
        return number

    @fan_out(count=2)
    @task_group
    def steps(text: str) -> Any:
        @task
        def first(text: str) -> str:
            return text.upper()

        @task
        def second(text: str) -> str:
            return f"{text}!"

        return second(first(text))

    @fan_out
    @task_group
    def chained(text: str, number: int = 7) -> Any:
        @task
        def join(text: str, number: int) -> str:
            return f"{text}{number}"

        return join(text, number)

    collect(counted(load()))
    collect.override(task_id="collect_again")(counted("again"))
    total(scaled.partial(by=factor()).expand(number=[1, 2, 3]), factor(), plus=1)
    collect.override(task_id="collect_defaults")(scaled.override(group_id="defaults").expand(number=[7]))
    collect.override(task_id="collect_run_time_list")(
        scaled.override(group_id="run_time_list").expand(number=numbers())
    )
    collect.override(task_id="collect_run_time_mapping")(
        scaled.override(group_id="run_time_mapping").partial(by=2).expand(number=numbers_by_name())
    )
    collect.override(task_id="collect_batched")(batched.partial(text=load()).expand(number=numbers()))
    collect.override(task_id="collect_awaited")(awaited.expand(number=[1, 2]))
    collect.override(task_id="collect_product")(
        scaled.override(group_id="product").expand(by=numbers(), number=[5, 10])
    )
    collect.override(task_id="collect_batched_product")(
        batched.override(group_id="batched_product").expand(text=["{{ dag.dag_id }}"], number=numbers())
    )
    collect.override(task_id="collect_kwargs")(scaled.override(group_id="kwargs").expand_kwargs(pairs()))
    collect.override(task_id="collect_no_product")(
        scaled.override(group_id="no_product").expand(by=no_numbers(), number=[5, 10])
    )
    collect.override(task_id="collect_chained")(chained.expand(text=["a", "b"], number=numbers()))
    collect.override(task_id="collect_literal_chained")(
        chained.override(group_id="literal_chained", mapped=True).expand_kwargs([{"text": "a"}])
    )
    enough(fragile.expand(number=[1, 2, 3]))
    collect.override(task_id="collect_steps")(steps(load()))
