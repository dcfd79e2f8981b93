"""``python -m benchmarks.throughput``: branches and items per second, and where the time goes."""

from __future__ import annotations

import statistics
import sys
from argparse import ArgumentParser
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.database import metadata_database
from benchmarks.machine import machine_facts
from benchmarks.scheduled import wall_seconds
from benchmarks.sizes import SIZES, ItemSize, as_text, expected_sum, items_dag_id
from benchmarks.twins import DAGS, FAN_IN
from tests.support.airflow import ControlledAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BRANCHES = (10, 100, 1_000)
ITEMS = (1_000, 10_000, 100_000, 1_000_000)
TASKS = 8
RUN_TIMEOUT = 1800
"""Seconds after which a run is given up."""

WIDTH = 150


@dataclass(frozen=True, kw_only=True)
class Load:
    """
    CPU seconds, up to a moment.

    :param scheduler: Of the scheduler itself.
    :param api_server: Of the API server.
    :param dag_processor: Of the Dag processor.
    :param tasks: Of all that the executor started: supervisors and tasks.
    """

    scheduler: float
    api_server: float
    dag_processor: float
    tasks: float

    def since(self, before: Load) -> Load:
        """
        CPU seconds since another moment.

        :param before: That moment.
        """
        return Load(
            scheduler=self.scheduler - before.scheduler,
            api_server=self.api_server - before.api_server,
            dag_processor=self.dag_processor - before.dag_processor,
            tasks=self.tasks - before.tasks,
        )


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """
    One run.

    :param mode: How the branches ran.
    :param count: Number of branches, or items.
    :param tasks: Number of tasks that they ran in.
    :param wall: Seconds from the first queued task to the last end of one.
    :param queued: Median seconds that a task waited for its start.
    :param ran: Median seconds from a task's start to its end.
    :param fan_in: Seconds from the fan-in's start to its end.
    :param load: CPU seconds of the run.
    """

    mode: str
    count: int
    tasks: int
    wall: float
    queued: float
    ran: float
    fan_in: float
    load: Load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run each size once, and show what it took."""
    parser = ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__)
    parser.add_argument("--most-branches", type=int, default=max(BRANCHES), help="(default: %(default)s)")
    parser.add_argument("--most-items", type=int, default=max(ITEMS), help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    branches = [count for count in BRANCHES if count <= options.most_branches]
    items = [count for count in ITEMS if count <= options.most_items]
    progress = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    found: list[Throughput] = []
    for each in _measure(branches, items):
        progress.print(f"{each.mode}, {each.count:,}: {each}")
        found.append(each)
    _show(found)
    return 0


def _measure(branches: Sequence[int], items: Sequence[int]) -> Iterator[Throughput]:
    sizes = [ItemSize(count=count, items_per_task=-(-count // TASKS)) for count in items]
    env = {
        "FANOUT_BENCHMARK_BRANCH_COUNTS": ",".join(map(str, branches)),
        SIZES: as_text(sizes),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    with (
        metadata_database() as database_url,
        ControlledAirflow(database_url=database_url, dag_files=[DAGS / "throughput.py"], env=env) as airflow,
    ):
        first = f"throughput_static_{branches[0]}"
        airflow.wait_for_dag(first)
        _run(airflow, "warm-up", first, branches[0], branches[0])
        for size in sizes:
            yield _run(airflow, "batched", items_dag_id(size.count, "throughput"), size.count, size.tasks)
        for count in branches:
            for mode in ("mapped", "static"):
                yield _run(airflow, mode, f"throughput_{mode}_{count}", count, count)


def _run(airflow: ControlledAirflow, mode: str, dag_id: str, count: int, tasks: int) -> Throughput:
    airflow.wait_for_dag(dag_id)
    before = _load(airflow)
    run_id = airflow.trigger(dag_id)
    state = airflow.wait_for_run(dag_id, run_id, timeout=RUN_TIMEOUT)
    load = _load(airflow).since(before)
    value = airflow.xcom(dag_id, run_id, FAN_IN) if state == "success" else None
    if value != expected_sum(count):
        message = f"{dag_id}: expected {expected_sum(count)} from a successful run, found {value!r}, {state}"
        raise RuntimeError(message)
    instances = airflow.task_instances(dag_id, run_id)
    (fan_in,) = (each for each in instances if each["task_id"] == FAN_IN)
    others = [each for each in instances if each["task_id"] != FAN_IN]
    return Throughput(
        mode=mode,
        count=count,
        tasks=tasks,
        wall=wall_seconds(instances),
        queued=statistics.median(_between(each, "queued_when", "start_date") for each in others),
        ran=statistics.median(_between(each, "start_date", "end_date") for each in others),
        fan_in=_between(fan_in, "start_date", "end_date"),
        load=load,
    )


def _between(instance: dict[str, Any], first: str, last: str) -> float:
    return (datetime.fromisoformat(instance[last]) - datetime.fromisoformat(instance[first])).total_seconds()


def _load(airflow: ControlledAirflow) -> Load:
    return Load(
        scheduler=_own(airflow.processes["scheduler"].pid),
        api_server=_own(airflow.processes["api-server"].pid) + _below(airflow.processes["api-server"].pid),
        dag_processor=_own(airflow.processes["dag-processor"].pid)
        + _below(airflow.processes["dag-processor"].pid),
        tasks=_below(airflow.processes["scheduler"].pid),
    )


def _own(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _below(pid: int) -> float:
    """CPU seconds of all that a process started, whether it has ended or not."""
    process = psutil.Process(pid)
    ended = process.cpu_times()
    total: float = ended.children_user + ended.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _show(found: Sequence[Throughput]) -> None:
    table = Table()
    for title in ("mode", "count", "tasks", "wall", "a second", "queued", "ran", "fan-in"):
        table.add_column(title, justify="left" if title == "mode" else "right")
    for title in ("CPU: tasks", "API server", "scheduler", "CPU a task"):
        table.add_column(title, justify="right")
    for each in found:
        load = each.load
        table.add_row(
            each.mode,
            f"{each.count:,}",
            f"{each.tasks:,}",
            f"{each.wall:.1f} s",
            f"{each.count / each.wall:,.1f}",
            f"{each.queued:.1f} s",
            f"{each.ran:.2f} s",
            f"{each.fan_in:.2f} s",
            f"{load.tasks:.1f} s",
            f"{load.api_server:.1f} s",
            f"{load.scheduler:.1f} s",
            f"{(load.tasks + load.api_server + load.scheduler) / each.tasks:.2f} s",
        )
    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else WIDTH)
    console.print(table)
    facts = machine_facts()
    console.print(
        f"{facts['cores']} cores, {facts['system']}, Python {facts['python']}, Airflow {facts['airflow']}, "
        f"LocalExecutor, {facts['database']}, airflow-fanout {facts['airflow_fanout']}"
    )


if __name__ == "__main__":
    sys.exit(main())
