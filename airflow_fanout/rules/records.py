"""What a branch records beside its value, and what of a record can be believed: anybody may push one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from airflow_fanout.rules.wording import on_one_line

__all__ = [
    "BATCH",
    "ITEM_FAILED",
    "ITEM_PENDING",
    "ITEM_SKIPPED",
    "ITEM_STOPPED",
    "ITEM_SUCCEEDED",
    "NO_EXCEPTION_RECORDED",
    "RECORD_KEY",
    "SPLIT_KEY",
    "STOPPED",
    "batch_key",
    "error_of",
    "is_of_batch",
    "seconds_of",
]

BATCH = "batch"
"""
State in the record of a batch, which is ``{"state": "batch", "map_index": int, "start": int, "names": [str]
or None, "states": str, "errors": {place: str}, "stopped": str or None, "seconds": [float or None],
"cpu_seconds": [float or None], "peak_memory_bytes": int, "cores": int, "concurrency": int, "elapsed":
float}``; ``states`` has a letter for each item, ``start`` is the place of its first item among all, places
within the batch begin at 0, ``concurrency`` is how many items could run at once, ``elapsed`` the seconds that
all those of this try took together.
"""


def error_of(value: object) -> str | None:
    """
    Return an error that was recorded; None of anything else.

    :param value: What stands in its place.
    """
    return (on_one_line(value) or None) if isinstance(value, str) else None


def seconds_of(value: object) -> float | None:
    """
    Return seconds that were recorded; None of anything else.

    :param value: What stands in their place.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        return None
    return float(value)


def is_of_batch(record: Mapping[str, Any]) -> bool:
    """
    Whether a record is one of a batch, and whole.

    :param record: The record.
    """
    states, names = record.get("states"), record.get("names")
    return (
        record.get("state") == BATCH
        and isinstance(states, str)
        and _is_place(record.get("start"))
        and _is_place(record.get("map_index", 0))
        and isinstance(record.get("errors"), Mapping)
        and "stopped" in record
        and all(_is_list(record.get(name), len(states)) for name in ("seconds", "cpu_seconds"))
        and (names is None or (_is_list(names, len(states)) and all(isinstance(name, str) for name in names)))
    )


def _is_place(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_list(value: object, length: int) -> bool:
    return isinstance(value, list) and len(value) == length


RETURN_VALUE = "return_value"
"""XCom key of what a task returns."""

REPORT_KEY = "fan_out_report"
"""XCom key of a fan-in's report."""

ITEM_PENDING, ITEM_SUCCEEDED, ITEM_FAILED, ITEM_SKIPPED, ITEM_STOPPED = ".", "S", "F", "K", "X"
"""What became of an item, a letter for each."""

RECORD_KEY = "fan_out_branch"
"""
XCom key of a branch's record: ``{"state": "success", "has_value": bool}`` or ``{"state": "failed", "error":
str}``, with ``seconds``, ``cpu_seconds``, ``peak_memory_bytes`` and ``cores`` where they were measured; or
``{"state": "stopped", "error": str}`` of a branch that ``stop_after_failures`` did not let start. An instance
of a mapped task adds ``map_index`` and, where its items came at run time, ``name`` (None in a list).
"""

STOPPED = "stopped"
"""State in the record of a branch that ``stop_after_failures`` did not let start; Airflow's is skipped."""

NO_EXCEPTION_RECORDED = (
    "no exception was recorded: the task's process never started, or ended before it could report one"
)


SPLIT_KEY = "fan_out_split"
"""XCom key of who cut the items into batches: an id that is another one whenever the task runs again."""


def batch_key(number: int) -> str:
    """XCom key of a batch's items."""
    return f"batch_{number}"
