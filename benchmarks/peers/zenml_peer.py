"""ZenML, as its documentation maps a step in a dynamic pipeline; run by ZenML's own Python."""

from __future__ import annotations

import sys
import time

import zenml
from zenml import pipeline, step

from exchange import answer  # beside this file, for this package is not in the peer's environment


@step
def split(values: list[float]) -> list[float]:
    return values


@step
def double(item: float) -> float:
    return 2 * item


@step
def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@step
def combine(results: list[float]) -> float:
    return sum(results)


@pipeline(dynamic=True, enable_cache=False)
def items(values: list[float]) -> float:
    """Double the items."""
    return combine(double.map(item=split(values)))


@pipeline(dynamic=True, enable_cache=False)
def waits(values: list[float]) -> float:
    """Wait, at the same time."""
    return combine(wait.map(seconds=split(values)))


def run(its, values: list[float]) -> float:
    found = its(values)
    return found.steps["combine"].output.load()


if __name__ == "__main__":
    answer(
        sys.argv[1:],
        version=zenml.__version__,
        how="a dynamic pipeline on the local orchestrator, in threads of one process",
        items=lambda count: run(items, [float(each) for each in range(count)]),
        waits=lambda seconds: run(waits, seconds),
    )
