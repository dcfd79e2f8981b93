"""Reads what mapped tasks returned in one and the same task: with this package, and as Airflow does."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from airflow.sdk import dag, task

from benchmarks.mapped_numbers import Number, push_values
from benchmarks.pairs import alternated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NUMBERS = int(os.environ["FANOUT_BENCHMARK_NUMBERS"])
PAIRS = int(os.environ["FANOUT_BENCHMARK_READINGS"])


def seconds_to_sum(values: Callable[[], Iterable[int]]) -> float:
    began = time.perf_counter()
    total = sum(values())
    seconds = time.perf_counter() - began
    if total != sum(range(NUMBERS)):
        message = f"expected the numbers below {NUMBERS}, found others, which add up to {total}"
        raise ValueError(message)
    return seconds


@dag(schedule=None)
def reading() -> None:
    @task(trigger_rule="all_done")
    def combine(values: Any, ti: Any = None) -> list[list[float]]:
        from airflow_fanout.execution_time.ledger import collect
        from airflow_fanout.execution_time.results import FanInResults
        from airflow_fanout.execution_time.wiring import Source
        from airflow_fanout.execution_time.xcom import RunReader
        from airflow_fanout.rules.outcomes import BranchTasks
        from airflow_fanout.rules.records import RETURN_VALUE

        def accounted_for() -> Iterable[int]:
            """All that a fan-in asks: states and counts too, which the lazy sequence leaves out."""
            reader = RunReader(ti)
            source = Source(
                name="number", tasks=BranchTasks(task_ids=("number",), is_ours=False), is_mapped=True
            )
            return FanInResults(collect(reader, reader.states(), [source], RETURN_VALUE)).values()

        pairs = alternated(
            PAIRS, lambda: seconds_to_sum(accounted_for), lambda: seconds_to_sum(lambda: values)
        )
        return [[*pair] for pair in pairs]

    numbers = Number.partial(task_id="number").expand(value=list(range(NUMBERS)))
    numbers >> push_values("number", NUMBERS) >> combine(numbers.output)


reading()
