"""Batched groups: items of every origin, threads and event loops, failures, retries and stops."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Param, task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))


def note(group: str, item: Any) -> None:
    """Append to a file which item ran."""
    with (SCRATCH / f"batched-{group}").open("a") as file:
        file.write(f"{item}\n")


def act(fate: Any, ti: Any, group: str = "fates") -> Any:
    """Succeed, fail or skip as it is told."""
    note(group, fate)
    match fate:
        case "fails":
            message = f"broken on try {ti.try_number}"
            raise ValueError(message)
        case "fails for good":
            message = "no use"
            raise AirflowFailException(message)
        case "is skipped":
            message = "nothing to do"
            raise AirflowSkipException(message)
        case "recovers" if ti.try_number == 1:
            message = "not yet"
            raise ValueError(message)
        case "can't be stored":
            return object()
    return fate


FATES = ["a", None, 0, "", "fails", "is skipped", "recovers", "fails for good", "can't be stored", "b"]


@task
def list_fates() -> list[Any]:
    return FATES


@task
def name_fates() -> dict[str, Any]:
    return {"north": "a", "south": "fails", "east": None, "west": "is skipped", "mid": "b"}


@task
def list_none() -> list[Any]:
    return []


@task
def text() -> str:
    return "no list"


@task
def one_of_many(number: int) -> int:
    return number


def half(number: int) -> int:
    if number == 3:
        message = "odd"
        raise AirflowSkipException(message)
    return number * 10 // (number - 1)


def number(index: int, base: list[int]) -> int:
    base.append(index)  # each has a copy of its own
    return sum(base)


def meet(mark: str) -> str:
    """Wait until both have come: only what runs at the same time can meet."""
    here = SCRATCH / f"batched-meet-{mark}"
    here.touch()
    other = SCRATCH / f"batched-meet-{'b' if mark == 'a' else 'a'}"
    give_up = time.monotonic() + 60
    while not other.exists():
        if time.monotonic() > give_up:
            message = "the other has not come"
            raise TimeoutError(message)
        time.sleep(0.05)
    return mark


async def sleep(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds


def slow(item: int) -> int:
    note("slow", item)
    time.sleep(1)
    return item


def step(index: int, ti: Any) -> int:
    """A tenth of a second of work; the process is killed in the midst of its first try."""
    note("killed", index)
    time.sleep(0.1)
    if index == 120 and ti.try_number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


def step_and_die(index: int) -> int:
    time.sleep(0.1)
    return die(index, 80)


def die(index: int, last: int = 7) -> int:
    if index == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return index


def mostly(index: int) -> int:
    note("mostly", index)
    if index % 70 == 50:
        message = f"no {index}"
        raise ValueError(message)
    return index


def upper(document: str) -> str:
    return document.upper()


def words(document: str) -> int:
    return len(document.split())


def same(item: Any) -> Any:
    return item


def shown(results: FanInResults) -> list[str]:
    return list(map(repr, results.values()))


once: Any = {"retries": 1, "retry_delay": timedelta(milliseconds=100)}
twice: Any = {**once, "retries": 2}
timeout: Any = {"execution_timeout": timedelta(seconds=4)}


@task
def tell_two() -> int:
    return 2


PARAMS = {"branches": Param(5, type="integer"), "in_a_task": Param(2), "share": Param(0.4, type="number")}

with DAG("batched", schedule=None, max_active_tasks=32, params=PARAMS) as dag:
    fates = FanOutGroup("fates", branch=act, items=list_fates(), items_per_task=4, default_args=once)
    CountingFanIn(task_id="collect_fates", fan_out=fates, min_success=1, python_callable=dump)
    fates >> CountingFanIn(
        task_id="fates_by_prefix", task_id_prefix="fates.", min_success=1, python_callable=dump
    )

    named = FanOutGroup(
        "named", branch=functools.partial(act, group="named"), items=name_fates(), items_per_task=2
    )
    CountingFanIn(task_id="collect_named", fan_out=named, min_success=1, python_callable=dump)

    counted = FanOutGroup(
        "counted", branch=number, count=dag.param("branches"), partial={"base": [10]}, items_per_task=2
    )
    CountingFanIn(task_id="collect_counted", fan_out=counted)

    two = tell_two()
    told = FanOutGroup(
        "told",
        branch=functools.partial(act, group="told"),
        items=["a", "b", "fails", "fails", "c"],
        items_per_task=dag.param("in_a_task"),
        item_concurrency=two,
        stop_after_failures=two,
        max_concurrency=1,
    )
    CountingFanIn(task_id="collect_told", fan_out=told, min_success=two, min_success_ratio=dag.param("share"))

    literal = FanOutGroup(
        "literal", branch=same, items={"x": "1", "run": "{{ run_id }}", "z": 3}, items_per_task=2
    )
    CountingFanIn(task_id="collect_literal", fan_out=literal)

    meeting = FanOutGroup("meeting", branch=meet, items=["a", "b"], items_per_task=2, item_concurrency=2)
    CountingFanIn(task_id="collect_meeting", fan_out=meeting)

    sleeping = FanOutGroup("sleeping", branch=sleep, items=[0.5] * 40, items_per_task=40, item_concurrency=40)
    CountingFanIn(task_id="collect_sleeping", fan_out=sleeping, python_callable=dump)

    squashed = FanOutGroup(
        "squashed",
        branch={"upper": upper, "words": words, "piped": [upper, words]},
        partial={"document": "two words"},
        items_per_task=3,
    )
    CountingFanIn(task_id="collect_squashed", fan_out=squashed)

    late = FanOutGroup("late", branch=slow, items=range(20), items_per_task=20, default_args=timeout)
    CountingFanIn(task_id="collect_late", fan_out=late, min_success=1, python_callable=dump)

    stopped = FanOutGroup(
        "stopped",
        branch=functools.partial(act, group="stopped"),
        items=["a", "fails", "fails", "b", "c", "d"],
        items_per_task=6,
        stop_after_failures=2,
    )
    CountingFanIn(task_id="collect_stopped", fan_out=stopped, min_success=1, python_callable=dump)

    killed = FanOutGroup("killed", branch=step, count=200, items_per_task=200, default_args=once)
    CountingFanIn(task_id="collect_killed", fan_out=killed)

    dead = FanOutGroup("dead", branch=die, count=10, items_per_task=5)
    CountingFanIn(task_id="collect_dead", fan_out=dead, min_success=1, python_callable=dump)

    lost = FanOutGroup("lost", branch=step_and_die, count=100, items_per_task=100)
    CountingFanIn(task_id="collect_lost", fan_out=lost, min_success=1, python_callable=dump)

    thrice = FanOutGroup("thrice", branch=mostly, count=200, items_per_task=200, default_args=twice)
    CountingFanIn(task_id="collect_thrice", fan_out=thrice, min_success=1, python_callable=dump)

    none = FanOutGroup("none", branch=same, items=list_none(), items_per_task=2)
    FanInOperator(task_id="collect_none", fan_out=none)
    FanInOperator(task_id="tolerate_none", fan_out=none, min_success=1)

    no_list = FanOutGroup("no_list", branch=same, items=text(), items_per_task=2)
    FanInOperator(task_id="collect_no_list", fan_out=no_list, min_success=1)

    from_mapped = FanOutGroup(
        "from_mapped", branch=same, items=one_of_many.expand(number=[1, 2, 3]), items_per_task=2
    )
    FanInOperator(task_id="collect_from_mapped", fan_out=from_mapped)

    numbers = one_of_many.override(task_id="numbers").expand(number=[1, 2, 3, 4])
    made = FanOutGroup("made", branch=same, items=numbers.map(half), items_per_task=3)
    FanInOperator(task_id="collect_made", fan_out=made, min_success=1, python_callable=dump)

    pairs = numbers.map(str).zip(list_fates()).concat(numbers)
    paired = FanOutGroup("paired", branch=same, items=pairs, items_per_task=3)
    FanInOperator(task_id="collect_paired", fan_out=paired, python_callable=shown)
