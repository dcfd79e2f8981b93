"""What a batch pushes of its items, and how others read it; on the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_fanout.batch import FAILED
from airflow_fanout.hooks import RECORD_KEY
from airflow_fanout.xcom import PAGE_SIZE

if TYPE_CHECKING:
    from airflow_fanout.xcom import RunReader

__all__ = ["BATCH", "failures_of_others"]

BATCH = "batch"
"""
State in the record of a batch, which is ``{"state": "batch", "map_index": int, "start": int, "names": [str]
or None, "states": str, "errors": {place: str}, "stopped": str or None, "seconds": [float or None],
"cpu_seconds": [float or None], "peak_memory_bytes": int}``; ``states`` has a letter for each item, ``start``
is the place of its first item among all, places within the batch begin at 0.
"""


def failures_of_others(reader: RunReader, task_id: str, map_index: int) -> int:
    """
    Count the failed items of the batches that have ended.

    :param reader: Reads the run.
    :param task_id: Id of the mapped task.
    :param map_index: The batch that asks.
    """
    ended = {
        at: found.state
        for (of, at), found in reader.states().items()
        if of == task_id and at >= 0 and at != map_index
    }
    failed = 0
    for start in range(0, len(ended), PAGE_SIZE):
        records: list[Any] = list(reader.page(task_id, RECORD_KEY, start, start + PAGE_SIZE))
        failed += sum(
            record["states"].count(FAILED)
            for record in records
            if record.get("state") == BATCH and ended.get(record["map_index"]) in {"success", "failed"}
        )
    return failed
