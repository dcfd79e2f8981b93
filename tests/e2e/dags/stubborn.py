"""Batches whose items would keep a task from ending, and values that no XCom takes."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, Variable, task
from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump

FOR_EVER = 100


class SpeechlessError(Exception):
    """Ends whoever asks what it says."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


def note(group: str, text: object) -> None:
    with (Path(os.environ.get("FANOUT_E2E_SCRATCH", ".")) / f"stubborn-{group}").open("a") as file:
        file.write(f"{text}\n")


@task
def load() -> int:
    return 1


async def leave() -> None:
    raise SystemExit(3)


async def ask(index: int, ti: Any) -> int:
    """Ask Airflow in every way, some of which are given up, while others do."""
    with suppress(TimeoutError):
        await asyncio.wait_for(ti.axcom_pull(task_ids="load"), 0.005 if index % 3 else 60)
    await asyncio.sleep(0)
    Variable.get("on the loop", default=None)
    await asyncio.to_thread(Variable.get, "in a thread", default=None)
    if index == 100:
        raise SpeechlessError
    if index == 200:
        await asyncio.gather(leave())
    value: int = await ti.axcom_pull(task_ids="load")
    return value + index


async def ask_once(ti: Any) -> int:
    return await ask(0, ti)


def ask_plainly(ti: Any) -> Any:
    return ti.xcom_pull(task_ids="load")


async def leave_a_thread(index: int) -> int:
    with suppress(TimeoutError):
        await asyncio.wait_for(asyncio.to_thread(time.sleep, FOR_EVER), 0.1)
    return index


async def wait_in_a_thread(index: int) -> None:
    note("wait_in_a_thread", time.time())
    await asyncio.to_thread(time.sleep, FOR_EVER)


async def swallow_cancellation(index: int) -> None:
    note("swallow_cancellation", time.time())
    end = time.monotonic() + FOR_EVER
    while time.monotonic() < end:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(1)


def swallow_the_timeout(index: int) -> None:
    note("swallow_the_timeout", time.time())
    end = time.monotonic() + FOR_EVER
    while time.monotonic() < end:
        with suppress(AirflowTaskTimeout):
            time.sleep(1)


async def terminate(index: int) -> int:
    """Get the signal of whoever ends a task, as often as he likes."""
    if index == 3:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(FOR_EVER)
    return index


REFUSED = {
    "nan": {"loss": [math.nan]},
    "infinity": {math.inf: 1},
    "large": [2**64],
    "surrogate": {"a": {"\ud800": 1}},
    "object": {"m": object()},
    "zero": ["a\0"],
}


def refused(name: str) -> Any:
    return REFUSED.get(name, name)


@task
def list_items() -> list[str]:
    return ["a", "b", "fails"]


def work_on(item: str) -> str:
    note("saved", item)
    if item == "fails":
        raise ValueError(item)
    return item


timeout: Any = {"execution_timeout": timedelta(seconds=3)}
at_once: Any = {"items_per_task": 20, "item_concurrency": 20}

with DAG("stubborn", schedule=None, max_active_tasks=32) as dag:
    loaded = load()
    asking = FanOutGroup("asking", branch=ask, count=300, items_per_task=300, item_concurrency=40)
    both: Any = {f"n{index}": ask_plainly if index % 2 else ask_once for index in range(60)}
    mixed = FanOutGroup("mixed", branch=both, **at_once)
    loaded >> [asking, mixed]
    leaving = FanOutGroup("leaving", branch=leave_a_thread, count=20, **at_once)
    terminated = FanOutGroup("terminated", branch=terminate, count=20, items_per_task=20)
    groups = [asking, mixed, leaving, terminated]
    groups += [
        FanOutGroup(branch.__name__, branch=branch, count=20, default_args=timeout, **at_once)
        for branch in (wait_in_a_thread, swallow_cancellation)
    ]
    groups.append(
        FanOutGroup(
            "swallow_the_timeout",
            branch=swallow_the_timeout,
            count=20,
            items_per_task=20,
            default_args=timeout,
        )
    )
    once: Any = {"retries": 1, "retry_delay": timedelta(milliseconds=100)}
    for mode in ({}, {"mapped": True}, {"items_per_task": 9}):
        group_id = "_".join(["refused", *mode])
        given: Any = {"items": {name: name for name in ["a", *REFUSED, "b"]}, "default_args": once, **mode}
        groups.append(FanOutGroup(group_id, branch=refused, **given))
    groups.append(FanOutGroup("saved", branch=work_on, items=list_items(), items_per_task=9))
    for group in groups:
        FanInOperator(task_id=f"collect_{group.group_id}", fan_out=group, min_success=0, python_callable=dump)
