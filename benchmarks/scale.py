"""Measures many items in a few tasks, and what reading thousands of values takes, on a real scheduler."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from benchmarks.counting import REQUESTS_KEY
from benchmarks.database import metadata_database
from benchmarks.finished_instances import FinishedInstances
from benchmarks.pairs import Comparison, Pair, Target, alternated
from benchmarks.scheduled import Measured, wall_seconds
from benchmarks.sizes import (
    FIXED_LOOPS,
    INSTANCES,
    LOOPS,
    SIZES,
    ItemSize,
    as_text,
    expected_sum,
    items_dag_id,
)
from benchmarks.twins import DAGS, FAN_IN, environment
from tests.support.airflow import ControlledAirflow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["BY_HAND", "DAG_FILES", "measure_scale", "requests_of_pages", "told_to_dags"]

DAG_FILES = ("items_ours.py", "items_by_hand.py", "streaming_ours.py", "reading.py", "wide.py")
BY_HAND = (LOOPS, FIXED_LOOPS, INSTANCES)

TASKS = 8
FEW, THOUSANDS, MANY, MILLION = (
    ItemSize(count=count, items_per_task=-(-count // TASKS)) for count in (300, 3_000, 100_000, 1_000_000)
)
PAIRS = 3
"""Of runs that take seconds; what takes minutes is measured once."""

FEW_AT_MOST = 1 / 10
THOUSANDS_AT_MOST = 1.5
MANY_AT_MOST = 4.0
MILLION_AT_MOST = 2.3

NUMBERS = 300
READINGS = 5
READING_AT_MOST = 1 / 25

WIDE = 3_000
PAGE_SIZE = 500
"""The package's own; importing it from there would import Airflow into this process."""

POOL = "fan_out_benchmark_closed"

STREAMED, STREAMED_FEW, STREAMED_PER_TASK = 100_000, 100, 1_000
ITEM_BYTES = 1_024
MEMORY_AT_MOST = 64
"""MB."""

BYTES_OF_A_MB = 1024 * 1024
RUN_TIMEOUT = 600
"""Seconds after which a run is given up."""


def requests_of_pages(pages: int, of_each: int = 2) -> int:
    """
    Most requests of a fan-in over a mapped or batched group.

    :param of_each: Two for each batch; three for each page of mapped instances, of which the third shows that
        none of them started again meanwhile.
    """
    return 4 + of_each * pages


def told_to_dags() -> dict[str, str]:
    """Environment variables that the Dag files need, besides those of the smaller ones."""
    return {
        SIZES: as_text([FEW, THOUSANDS, MANY, MILLION]),
        "FANOUT_BENCHMARK_READINGS": str(READINGS),
        "FANOUT_BENCHMARK_INSTANCES": str(WIDE),
        "FANOUT_BENCHMARK_POOL": POOL,
        "FANOUT_BENCHMARK_ITEM_BYTES": str(ITEM_BYTES),
        "FANOUT_BENCHMARK_STREAMED_PER_TASK": str(STREAMED_PER_TASK),
    }


def measure_scale(tell: Callable[[str], None]) -> list[Comparison]:
    """
    Run the Dags on an embedded Airflow.

    :param tell: Shows a line of progress.
    """
    tell("Airflow starts")
    with (
        metadata_database() as database_url,
        ControlledAirflow(
            database_url=database_url,
            dag_files=[DAGS / file for file in DAG_FILES],
            env={
                **environment(branches=0, numbers=NUMBERS),
                **told_to_dags(),
            },
        ) as airflow,
    ):
        runs = _Runs(airflow, tell)
        return [
            *_items(runs),
            *_reading(runs),
            *_wide(runs, database_url or f"sqlite:///{airflow.home / 'airflow.db'}?timeout=60"),
            *_memory(runs),
        ]


class _Runs:
    """Runs Dags, one at a time."""

    def __init__(self, airflow: ControlledAirflow, tell: Callable[[str], None]) -> None:
        self.airflow, self.tell = airflow, tell

    def start(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        self.airflow.wait_for_dag(dag_id)
        return self.airflow.trigger(dag_id, conf=conf)

    def end(self, dag_id: str, run_id: str) -> Any:
        """Return what the fan-in returned."""
        state = self.airflow.wait_for_run(dag_id, run_id, timeout=RUN_TIMEOUT)
        if state != "success":
            message = f"{dag_id}: expected a successful run, found one in {state}"
            raise RuntimeError(message)
        return self.airflow.xcom(dag_id, run_id, FAN_IN)

    def requests(self, dag_id: str, run_id: str, task_id: str = FAN_IN) -> int:
        sent: dict[str, int] = self.airflow.xcom(dag_id, run_id, task_id, key=REQUESTS_KEY)
        return sum(sent.values())

    def items(self, size: ItemSize, ending: str) -> Measured:
        """Run so many items."""
        dag_id = items_dag_id(size.count, ending)
        run_id = self.start(dag_id)
        found, expected = self.end(dag_id, run_id), expected_sum(size.count)
        if found != expected:
            message = f"{dag_id}: expected {expected}, found {found!r}"
            raise RuntimeError(message)
        measured = Measured(
            seconds=wall_seconds(self.airflow.task_instances(dag_id, run_id)),
            cpu_seconds=0.0,
            requests=self.requests(dag_id, run_id),
        )
        self.tell(f"{dag_id}: {measured.seconds:.1f} s, {measured.requests} requests")
        return measured


def _items(runs: _Runs) -> list[Comparison]:
    def pairs(size: ItemSize, ending: str, number: int) -> list[tuple[Measured, Measured]]:
        return alternated(
            number,
            partial(runs.items, size, "ours"),
            partial(runs.items, size, ending),
            warm_up=False,
        )

    runs.items(FEW, "ours")  # a warm-up
    few = pairs(FEW, INSTANCES, 1)
    thousands = pairs(THOUSANDS, LOOPS, PAIRS)
    fixed = pairs(THOUSANDS, FIXED_LOOPS, PAIRS)
    many = pairs(MANY, LOOPS, PAIRS)
    million = pairs(MILLION, LOOPS, 1)
    return [
        _wall(FEW, "mapped", few, FEW_AT_MOST),
        _wall(THOUSANDS, "loops", thousands, THOUSANDS_AT_MOST),
        # A number that the Dag file knows spares the hand-written Dag the task that cuts it into ranges.
        _wall(THOUSANDS, "loops, fixed ranges", fixed, THOUSANDS_AT_MOST),
        _wall(MANY, "loops", many, MANY_AT_MOST),
        _wall(MILLION, "loops", million, MILLION_AT_MOST),
        Comparison(
            name=f"requests, fan-in of {MANY.count:,} items",
            unit="requests",
            pairs=tuple(Pair(ours=ours.requests, by_hand=by_hand.requests) for ours, by_hand in many),
            target=Target(of="ours", at_most=requests_of_pages(MANY.tasks)),
        ),
    ]


def _wall(
    size: ItemSize, by_hand: str, pairs: list[tuple[Measured, Measured]], at_most: float | None
) -> Comparison:
    return Comparison(
        name=f"wall, {size.count:,} items in {size.tasks} tasks (by hand: {by_hand})",
        unit="s",
        pairs=tuple(Pair(ours=ours.seconds, by_hand=theirs.seconds) for ours, theirs in pairs),
        target=None if at_most is None else Target(of="ratio", at_most=at_most),
    )


def _reading(runs: _Runs) -> list[Comparison]:
    found = runs.end("reading", runs.start("reading"))
    runs.tell(f"reading: {found}")
    return [
        Comparison(
            name=f"reading {NUMBERS} mapped results (by hand: lazily)",
            unit="s",
            pairs=tuple(Pair(ours=ours, by_hand=by_hand) for ours, by_hand in found),
            target=Target(of="ratio", at_most=READING_AT_MOST),
        )
    ]


def _wide(runs: _Runs, database_url: str) -> list[Comparison]:
    airflow, task_id = runs.airflow, "process.each"
    airflow.request("POST", "pools", json={"name": POOL, "slots": 0})
    run_id = runs.start("wide")
    engine = sa.create_engine(database_url)
    try:
        instances = FinishedInstances(engine, dag_id="wide", run_id=run_id, task_id=task_id)
        airflow.poll(
            lambda: True if instances.count() == WIDE else None,
            timeout=RUN_TIMEOUT,
            condition=lambda: (
                f"The scheduler has made {instances.count()} of {WIDE} instances of {task_id!r}"
            ),
        )
        instances.push(WIDE)
        airflow.poll(
            lambda: True if not instances.finish() and airflow.run("wide", run_id)["end_date"] else None,
            timeout=RUN_TIMEOUT,
            condition=lambda: f"wide has not ended: {airflow.run('wide', run_id)}",
        )
    finally:
        engine.dispose()
    found, expected = runs.end("wide", run_id), sum(range(WIDE))
    if found != expected:
        message = f"wide: expected {expected}, found {found!r}"
        raise RuntimeError(message)
    pair = Pair(
        ours=runs.requests("wide", run_id), by_hand=runs.requests("wide", run_id, f"{FAN_IN}_by_hand")
    )
    runs.tell(f"wide: {pair.ours} requests")
    return [
        Comparison(
            name=f"requests, fan-in of {WIDE:,} mapped instances",
            unit="requests",
            pairs=(pair,),
            target=Target(of="ours", at_most=requests_of_pages(-(-WIDE // PAGE_SIZE), of_each=3)),
        )
    ]


def _memory(runs: _Runs) -> list[Comparison]:
    def peak(count: int) -> float:
        found = runs.end("streaming_ours", runs.start("streaming_ours", {"count": count}))
        if found["streamed_bytes"] != count * ITEM_BYTES:
            message = f"streaming_ours: expected {count * ITEM_BYTES} bytes, found {found}"
            raise RuntimeError(message)
        megabytes: float = found["peak_memory_bytes"] / BYTES_OF_A_MB
        runs.tell(f"streaming_ours: {count} items, {megabytes:.0f} MB at most")
        return megabytes

    few = peak(STREAMED_FEW)
    return [
        Comparison(
            name=f"peak memory, {STREAMED:,} items of 1 KB (beside {STREAMED_FEW})",
            unit="MB",
            pairs=(Pair(ours=peak(STREAMED), by_hand=few),),
            target=Target(of="difference", at_most=MEMORY_AT_MOST),
        )
    ]
