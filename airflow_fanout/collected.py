"""What a fan-in without a function returns, unless it is too large to be stored; on the worker."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import ResultTooLargeError
from airflow_fanout.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from airflow_fanout.results import FanInResults

__all__ = ["collected"]

MOST_BYTES = 64 * 1024 * 1024
"""
Of an XCom in the metadata database: MySQL takes 64 MiB at once (``max_allowed_packet``), PostgreSQL's
``jsonb`` 256 MiB, and whoever reads it holds all of it in memory.
"""

BRANCHES_MEASURED = 1_000
"""Branches that are measured at once, so that nothing much larger than the limit is ever held."""


def collected(results: FanInResults) -> dict[str, Any]:
    """
    Put the values of all successful branches together, by name.

    :param results: What the branches returned.
    :raises ResultTooLargeError: If they are too large for an XCom in the metadata database.
    """
    found: dict[str, Any] = {}
    size, piece = 0, dict[str, Any]()
    limited = not values_lie_elsewhere()
    for name, value in results.items():
        found[name] = piece[name] = value
        if limited and len(piece) >= BRANCHES_MEASURED:
            size, piece = size + _bytes(piece), {}
            if size > MOST_BYTES:
                _refuse(size, len(found), len(results))
    if limited and size + _bytes(piece) > MOST_BYTES:
        _refuse(size + _bytes(piece), len(found), len(results))
    return found


def _bytes(values: dict[str, Any]) -> int:
    from airflow.sdk.serde import serialize

    return len(json.dumps(serialize(values)))


def _refuse(size: int, count: int, total: int) -> None:
    message = (
        f"The values of {count:,} of {total:,} branches take {size:,} bytes, and an XCom in the metadata "
        f"database takes {MOST_BYTES:,}. Give the fan-in a python_callable that goes through results.items() "
        "and returns less (a sum, a path), or keep XComs in object storage ([core] xcom_backend)"
    )
    raise ResultTooLargeError(message, size=size)
