"""What of a record can be believed, for anybody may push under its key; on the worker, for CLI and UI."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["BATCH", "ERROR_LENGTH", "error_of", "is_of_batch", "on_one_line", "printable", "seconds_of"]

BATCH = "batch"
"""
State in the record of a batch, which is ``{"state": "batch", "map_index": int, "start": int, "names": [str]
or None, "states": str, "errors": {place: str}, "stopped": str or None, "seconds": [float or None],
"cpu_seconds": [float or None], "peak_memory_bytes": int, "cores": int, "concurrency": int, "elapsed":
float}``; ``states`` has a letter for each item, ``start`` is the place of its first item among all, places
within the batch begin at 0, ``concurrency`` is how many items could run at once, ``elapsed`` the seconds that
all those of this try took together.
"""

ERROR_LENGTH = 500
"""Characters that are kept of an error."""


def on_one_line(text: str) -> str:
    """
    Put a text on one line of printable characters, at most 500 of them.

    What a branch says is shown in logs and terminals: it must neither begin a line of its own there nor move
    the cursor.

    :param text: The text.
    """
    lines = (line.strip() for line in text[: 2 * ERROR_LENGTH].splitlines())
    said = printable(" ".join(filter(None, lines)))
    if len(said) <= ERROR_LENGTH and len(text) <= 2 * ERROR_LENGTH:
        return said
    return said[: ERROR_LENGTH - 1] + "…"


def printable(text: str) -> str:
    """
    Write characters that can't be printed, such as those that a terminal obeys, as Python does.

    :param text: The text.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


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
