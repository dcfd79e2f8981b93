"""What the batches of a group have recorded, as one of them asks; on the worker."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from airflow_fanout.batch import FAILED
from airflow_fanout.declaration import RETURN_VALUE
from airflow_fanout.xcom import NOTHING, PAGE_SIZE

if TYPE_CHECKING:
    from airflow_fanout.xcom import RunReader

__all__ = ["failures_of_others"]


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
        records = reader.record_page(task_id, start, start + PAGE_SIZE)
        for record in records:
            match record:
                case {"state": "batch", "map_index": int(number), "states": str(states)} if number in failed:
                    failed.remove(number)
                    count += states.count(FAILED)
        start, more = start + PAGE_SIZE, len(records) == PAGE_SIZE
    if failed:  # batches that died before they reported
        places: object = NOTHING
        with suppress(FileNotFoundError):  # the body of an object-storage XCom
            places = reader.value(split_task_id, -1, RETURN_VALUE)
        known = places if isinstance(places, list) else []
        count += sum(stop - start for number, (start, stop) in enumerate(known) if number in failed)
    return count
