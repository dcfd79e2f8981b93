"""Stored items as ``split`` plans them and batches read them, without Airflow's server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airflow_fanout.storage.pieces import Pieces

if TYPE_CHECKING:
    from airflow_fanout.storage.stored_items import Cut, StoredItems

PIECES = ("dag", "the run", "group.split")


def plan(source: StoredItems, size: int = 2, *, try_number: int = 1) -> list[Cut]:
    """Cut a source, whose plan has to be JSON."""
    cuts = list(source.rendered(lambda value: value).plan(size, Pieces(*PIECES, try_number=try_number)))
    assert all(cut.count == sum(place["count"] for place in cut.places) for cut in cuts)
    assert all(0 < cut.count <= size for cut in cuts)
    return [cut._replace(places=json.loads(json.dumps(cut.places))) for cut in cuts]


def read(source: StoredItems, size: int = 2, **arguments: Any) -> list[Any]:
    """All items, batch by batch."""
    return [item for cut in plan(source, size, **arguments) for item in source.read(cut.places)]


def names(source: StoredItems, size: int = 2) -> list[str]:
    """All names, batch by batch."""
    return [name for cut in plan(source, size) for name in cut.names or ()]
