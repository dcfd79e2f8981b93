"""Prefect, as its documentation maps a task over items; run by Prefect's own Python."""

from __future__ import annotations

import sys
import time

import prefect
from prefect import flow, task
from prefect.task_runners import ThreadPoolTaskRunner

from exchange import answer  # beside this file, for this package is not in the peer's environment


@task
def double(item: int) -> int:
    return 2 * item


@task
def wait(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


@task
def combine(results: list[float]) -> float:
    return sum(results)


@flow(task_runner=ThreadPoolTaskRunner())
def items(count: int) -> float:
    """Double so many items."""
    return combine(double.map(range(count)))


@flow(task_runner=ThreadPoolTaskRunner())
def waits(seconds: list[float]) -> float:
    """Wait, at the same time."""
    return combine(wait.map(seconds))


if __name__ == "__main__":
    answer(
        sys.argv[1:],
        version=prefect.__version__,
        how="a flow of mapped tasks, in threads of one process",
        items=items,
        waits=waits,
    )
