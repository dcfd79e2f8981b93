"""What a batch and a reader cost within one process; run as a process of its own, without a server."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import operator
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest import mock

from airflow.sdk import DAG
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import GetXCom, XComCountResponse, XComResult, XComSequenceSliceResult
from airflow.sdk.execution_time.lazy_sequence import _XComWrapper

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.execution_time.arguments import NO_ITEM
from airflow_fanout.execution_time.batch import Batch
from airflow_fanout.execution_time.checkpoints import Checkpoints, CheckpointThread, fingerprint
from airflow_fanout.execution_time.xcom import RunReader
from airflow_fanout.rules.records import ITEM_SUCCEEDED, RECORD_KEY, RETURN_VALUE, BatchRecord
from benchmarks.in_process_sizes import (
    ASYNC_AT_ONCE,
    CHECKPOINTED_BATCHES,
    CHECKPOINTED_ITEMS,
    COMBINED_ITEMS,
    COMBINED_PAIRS,
    COMBINED_TASKS,
    OVERHEAD_PAIRS,
    SECONDS_OF_A_REQUEST,
    SECONDS_OF_A_WAIT,
    SECONDS_OF_AN_ITEM,
    STORAGE_PAIRS,
    STORED_VALUES,
    THREADS_AT_ONCE,
    TRIVIAL_ITEMS,
    WAITING_ITEMS,
    WAITING_PAIRS,
)
from benchmarks.pairs import alternated
from benchmarks.slow_storage import attach_slow_storage

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_fanout import FanInResults
    from airflow_fanout.execution_time.batch_work import BatchWork

__all__ = ["MEASUREMENTS"]

log = logging.getLogger(__name__)

_dag_numbers = itertools.count()


def batch_of(function: Callable[..., Any], count: int, concurrency: int = 1) -> Batch:
    """
    Make what a batch task makes of a group's function.

    :param function: The function, which is given its place as ``index``.
    :param count: Number of items.
    :param concurrency: How many run at once.
    """
    with DAG(f"in_process_{next(_dag_numbers)}", schedule=None):
        work: BatchWork | None = FanOutGroup(
            "process", branch=function, count=count, items_per_task=count
        ).work
    if work is None:
        message = "expected a batched group to have work"
        raise TypeError(message)
    return Batch(
        count,
        work.calls(labels(count), [NO_ITEM] * count, indexes=range(count), bound={"": {}}, context={}),
        concurrency=concurrency,
        is_async=work.is_async(labels(count)),
    )


def labels(count: int) -> list[str]:
    """Names of so many items."""
    return [f"process_{index}" for index in range(count)]


def run(batch: Batch) -> float:
    """Run all items; return the seconds it took."""
    began = time.perf_counter()
    batch.run()
    seconds = time.perf_counter() - began
    if [result.status for result in batch.results.values()] != [ITEM_SUCCEEDED] * batch.size:
        message = f"expected all items to succeed: {batch.progress}"
        raise RuntimeError(message)
    return seconds


def double(index: int) -> int:
    """Do next to nothing."""
    return 2 * index


def wait(index: int) -> int:
    """Wait as for an answer from afar."""
    time.sleep(SECONDS_OF_A_WAIT)
    return index


async def wait_async(index: int) -> int:
    """Wait as for an answer from afar, on the event loop."""
    await asyncio.sleep(SECONDS_OF_A_WAIT)
    return index


def measure(index: int) -> dict[str, float]:
    """Take a while, and return a few figures."""
    time.sleep(SECONDS_OF_AN_ITEM)
    return {"index": index, "mean": index / 3, "deviation": index / 7}


def overhead() -> list[tuple[float, float]]:
    """Microseconds of an item that does next to nothing: in a batch, and in a plain loop."""

    def microseconds(seconds: float) -> float:
        return seconds / TRIVIAL_ITEMS * 1e6

    def ours() -> float:
        return microseconds(run(batch_of(double, TRIVIAL_ITEMS)))

    def by_hand() -> float:
        began = time.perf_counter()
        values = [double(index) for index in range(TRIVIAL_ITEMS)]
        seconds = time.perf_counter() - began
        del values
        return microseconds(seconds)

    return alternated(OVERHEAD_PAIRS, ours, by_hand)


def on_an_event_loop() -> list[tuple[float, float]]:
    """Seconds of ``async def`` items that wait: many at once, and one after another."""

    async def one_by_one() -> None:
        for index in range(WAITING_ITEMS):
            await wait_async(index)

    def by_hand() -> float:
        began = time.perf_counter()
        asyncio.run(one_by_one())
        return time.perf_counter() - began

    return alternated(
        WAITING_PAIRS,
        lambda: run(batch_of(wait_async, WAITING_ITEMS, ASYNC_AT_ONCE)),
        by_hand,
        warm_up=False,
    )


def in_threads() -> list[tuple[float, float]]:
    """Seconds of items that wait: many at once, and one after another."""

    def by_hand() -> float:
        began = time.perf_counter()
        for index in range(WAITING_ITEMS):
            wait(index)
        return time.perf_counter() - began

    return alternated(
        WAITING_PAIRS, lambda: run(batch_of(wait, WAITING_ITEMS, THREADS_AT_ONCE)), by_hand, warm_up=False
    )


class SlowStore:
    """A task state store whose every request takes as long as Airflow's."""

    def __init__(self) -> None:
        self._kept: dict[str, str] = {}

    def get(self, key: str) -> Any:
        """Return what is kept under a key; None if there is nothing."""
        time.sleep(SECONDS_OF_A_REQUEST)
        kept = self._kept.get(key)
        return None if kept is None else json.loads(kept)

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        said = json.dumps(value)
        time.sleep(SECONDS_OF_A_REQUEST)
        self._kept[key] = said

    def delete(self, key: str) -> None:
        """Forget a key."""
        time.sleep(SECONDS_OF_A_REQUEST)
        self._kept.pop(key, None)


class TimedCheckpoints(Checkpoints):
    """
    Checkpoints that know what they have cost the batch.

    Restoring and forgetting keep the task itself waiting; saving happens beside the items, which miss only
    the processor meanwhile.
    """

    cost = 0.0
    saves = 0

    def save(self, batch: Batch, *, give_up: Callable[[], bool] = lambda: False) -> None:
        """Save; count the CPU seconds."""
        began = time.thread_time()
        super().save(batch, give_up=give_up)
        self.cost += time.thread_time() - began
        self.saves += 1

    def restore(self, batch: Batch) -> None:
        """Restore; count the seconds."""
        began = time.perf_counter()
        super().restore(batch)
        self.cost += time.perf_counter() - began

    def forget(self) -> None:
        """Forget; count the seconds."""
        began = time.perf_counter()
        super().forget()
        self.cost += time.perf_counter() - began


def checkpoints() -> list[tuple[float, float]]:
    """Seconds that checkpoints cost a batch, and those that it takes in all."""

    def batch_seconds() -> tuple[float, float]:
        names, base = labels(CHECKPOINTED_ITEMS), fingerprint({"": {}})
        kept = TimedCheckpoints(
            SlowStore(), lambda index: fingerprint(base, names[index], None), log, max_tries=1
        )
        batch = batch_of(measure, CHECKPOINTED_ITEMS)
        began = time.perf_counter()
        kept.restore(batch)
        with CheckpointThread(log, batch, kept):
            run(batch)
        kept.forget()
        seconds = time.perf_counter() - began
        if not kept.saves:
            message = "expected checkpoints, but the batch ended before the first"
            raise RuntimeError(message)
        return kept.cost, seconds

    return [batch_seconds() for _ in range(CHECKPOINTED_BATCHES)]


def combined() -> list[tuple[float, float]]:
    """CPU seconds of a fan-in over combined items, and of one that adds up their values one by one."""
    size = COMBINED_ITEMS // COMBINED_TASKS
    bounds = [[number * size, (number + 1) * size, 1] for number in range(COMBINED_TASKS)]

    def cpu_seconds(group: dict[str, Any], function: Callable[[FanInResults], int]) -> float:
        pushed: dict[tuple[str, int, str], Any] = {("process.split", -1, RETURN_VALUE): bounds}
        for number, (first, stop, split) in enumerate(bounds):
            record = BatchRecord(
                map_index=number,
                start=first,
                split=split,
                statuses=ITEM_SUCCEEDED * size,
                seconds=[12e-6] * size,
                cpu_seconds=[11e-6] * size,
            )
            values = {f"process_{index}": double(index) for index in range(first, stop)}
            pushed["process.each", number, RECORD_KEY] = record.to_xcom()
            pushed["process.each", number, RETURN_VALUE] = (
                [[None, sum(values.values())]] if "combine" in group else values
            )
        with DAG(f"in_process_{next(_dag_numbers)}", schedule=None):
            process = FanOutGroup(
                "process", branch=double, count=COMBINED_ITEMS, items_per_task=size, **group
            )
            fan_in = FanInOperator(task_id="combine", fan_out=process, python_callable=function)
        with (
            mock.patch.object(task_runner, "SUPERVISOR_COMMS", _Supervisor(pushed), create=True),
            mock.patch.object(ExecutorSafeguard, "test_mode", new=True),
        ):
            began = time.process_time()
            total = fan_in.execute({"ti": _task_instance(COMBINED_TASKS)})
            seconds = time.process_time() - began
        if total != COMBINED_ITEMS * (COMBINED_ITEMS - 1):
            message = f"expected the sum of all doubled numbers, found {total}"
            raise RuntimeError(message)
        return seconds

    return alternated(
        COMBINED_PAIRS,
        lambda: cpu_seconds({"combine": operator.add}, lambda results: results.combined),
        lambda: cpu_seconds({}, lambda results: sum(results.values())),
        warm_up=False,
    )


class _Supervisor:
    """Answers a fan-in, as the task's supervisor does."""

    def __init__(self, pushed: dict[tuple[str, int, str], Any]) -> None:
        self._pushed = pushed

    def send(self, message: Any) -> Any:
        """Answer what was pushed, or how often."""
        if isinstance(message, GetXCom):
            value = self._pushed.get((message.task_id, message.map_index or 0, message.key))
            return XComResult(key=message.key, value=value)
        of_task = [key for task_id, _, key in self._pushed if task_id == message.task_id]
        return XComCountResponse(len=of_task.count(message.key))


def _task_instance(batches: int) -> Any:
    """Make the task instance of a fan-in after so many batches."""
    ended = [("process.split", -1), *(("process.each", number) for number in range(batches))]
    states = [
        {
            "task_id": task_id,
            "map_index": index,
            "state": "success",
            "duration": 1.0,
            "operator": "BatchOperator",
        }
        for task_id, index in ended
    ]
    return SimpleNamespace(
        dag_id="d",
        run_id="r",
        map_index=-1,
        get_task_breadcrumbs=lambda **_: states,
        xcom_push=lambda key, value: None,  # noqa: ARG005 - Airflow's signature
    )


def storage() -> list[tuple[float, float]]:
    """Seconds to read values from slow object storage: as the fan-in does, and one after another."""
    from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend

    attach_slow_storage()
    references: list[Any] = [
        XComObjectStorageBackend.serialize_value({"index": index}, dag_id="d", run_id="r", task_id="t")
        for index in range(STORED_VALUES)
    ]
    expected = [{"index": index} for index in range(STORED_VALUES)]
    ti: Any = SimpleNamespace(dag_id="d", run_id="r")
    supervisor = mock.Mock(spec=["send"])
    supervisor.send.return_value = XComSequenceSliceResult(root=references)

    def timed(read: Callable[[], list[Any]]) -> float:
        began = time.perf_counter()
        values = read()
        seconds = time.perf_counter() - began
        if values != expected:
            message = f"expected the stored values, found {values[:1]}…"
            raise RuntimeError(message)
        return seconds

    with (
        mock.patch.object(task_runner, "SUPERVISOR_COMMS", supervisor, create=True),
        mock.patch("airflow.sdk.execution_time.xcom.XCom", XComObjectStorageBackend),
    ):
        return alternated(
            STORAGE_PAIRS,
            lambda: timed(lambda: list(RunReader(ti).page("t", RETURN_VALUE, 0, STORED_VALUES))),
            lambda: timed(
                lambda: list(map(XComObjectStorageBackend.deserialize_value, map(_XComWrapper, references)))
            ),
        )


MEASUREMENTS: dict[str, Callable[[], list[tuple[float, float]]]] = {
    each.__name__: each for each in (overhead, on_an_event_loop, in_threads, checkpoints, combined, storage)
}
"""What can be measured, by name; each returns pairs ``(ours, by hand)``."""


def main(output: str, *names: str) -> None:
    """Write ``{name: pairs}`` into a file, for Airflow logs to standard output."""
    measured = {name: MEASUREMENTS[name]() for name in names}
    Path(output).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
