"""What a batch pushes of its items, and how others read it; on the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_fanout.batch import FAILED
from airflow_fanout.declaration import RETURN_VALUE
from airflow_fanout.hooks import RECORD_KEY
from airflow_fanout.xcom import NOTHING, PAGE_SIZE

if TYPE_CHECKING:
    from airflow_fanout.xcom import RunReader

__all__ = ["BATCH", "failures_of_others"]

BATCH = "batch"
"""
State in the record of a batch, which is ``{"state": "batch", "map_index": int, "start": int, "names": [str]
or None, "states": str, "errors": {place: str}, "stopped": str or None, "seconds": [float or None],
"cpu_seconds": [float or None], "peak_memory_bytes": int, "cores": int, "concurrency": int}``; ``states`` has
a letter for each item, ``start`` is the place of its first item among all, places within the batch begin at
0, ``concurrency`` is how many items could run at once.
"""


def failures_of_others(reader: RunReader, task_id: str, map_index: int, *, split_task_id: str) -> int:
    """
    Count the failed items of the batches that have failed.

    Requests: one, one for each 500 batches if one has failed, and one if one of those has left no record.

    :param reader: Reads the run.
    :param task_id: Id of the mapped task.
    :param map_index: The batch that asks.
    :param split_task_id: Id of the task that knows the places of the batches.
    """
    failed = {
        at
        for (of, at), found in reader.states().items()
        if of == task_id and at >= 0 and at != map_index and found.state == "failed"
    }
    if not failed:
        return 0
    count, start, more = 0, 0, True
    while more:
        records: list[Any] = list(reader.page(task_id, RECORD_KEY, start, start + PAGE_SIZE))
        for record in records:
            if record.get("state") == BATCH and record["map_index"] in failed:
                failed.remove(record["map_index"])
                count += record["states"].count(FAILED)
        start, more = start + PAGE_SIZE, len(records) == PAGE_SIZE
    if failed:  # batches that died before they reported
        places = reader.value(split_task_id, -1, RETURN_VALUE)
        known = [] if places is NOTHING else places
        count += sum(stop - start for number, (start, stop) in enumerate(known) if number in failed)
    return count
