"""Batches with items that end their process, take all memory or never end, and batches that are killed."""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Any

import psutil
from airflow.sdk import DAG, Connection, Variable, task

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump

GIGABYTE = 2**30

in_processes: Any = {"item_executor": "process", "items_per_task": 100, "item_concurrency": 4}


def note(name: str, text: object) -> None:
    with (Path(os.environ.get("FANOUT_E2E_SCRATCH", ".")) / f"bad_items-{name}").open("a") as file:
        file.write(f"{text}\n")


def take_all_memory() -> None:
    """Take what there is, under a limit of the item's own, which the next item is not to have."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + GIGABYTE, limits[1]))
    taken = []
    try:
        while True:
            taken.append(bytearray(GIGABYTE // 8))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def hang() -> None:
    while True:
        pass


FATES = {13: lambda: os._exit(3), 57: lambda: ctypes.string_at(0), 101: hang, 150: take_all_memory}


def meet_fate(index: int) -> int:
    note("ran", index)
    print(f"fate {index} in {os.getpid()}")
    FATES.get(index, lambda: None)()
    return index * index


@task
def store(ti: Any = None) -> None:
    for number in range(4):
        Variable.set(f"bad_items_{number}", f"variable {number}")
        ti.xcom_push(f"bad_items_{number}", f"xcom {number}")


def ask(index: int, ti: Any) -> int:
    """Ask 25 times, for what others ask for meanwhile."""
    for number in range(index, index + 8):
        name = f"bad_items_{number % 4}"
        assert Variable.get(name) == f"variable {number % 4}"
        assert Connection.get("bad_items").login == "who asks"
        assert ti.xcom_pull(task_ids="store", key=name) == f"xcom {number % 4}"
    assert Variable.get("bad_items_none", default=index) == index
    return os.getpid()


def never_end(index: int, run_id: str) -> None:
    server = psutil.Process(os.getppid())
    supervised = server.parent()
    assert supervised is not None
    note(f"pids-{run_id}", f"{os.getpid()} {server.pid} {supervised.pid} {supervised.ppid()}")
    hang()


with DAG("bad_items", schedule=None, catchup=False):
    fates = FanOutGroup("fates", branch=meet_fate, count=200, item_timeout=15, **in_processes)
    FanInOperator(task_id="collect_fates", fan_out=fates, min_success=196, python_callable=dump)

    asking = FanOutGroup("asking", branch=ask, count=40, **{**in_processes, "item_concurrency": 8})
    FanInOperator(task_id="collect_asking", fan_out=asking)
    store() >> asking

with DAG("bad_items_killed", schedule=None, catchup=False):
    endless = FanOutGroup("endless", branch=never_end, count=9, **{**in_processes, "item_concurrency": 3})
    FanInOperator(task_id="collect_endless", fan_out=endless)
