"""Objects themselves as items."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.rules.wording import typed
from airflow_fanout.storage.objects import check_versions, find_objects
from airflow_fanout.storage.stored_items import Cut, Packing, Place, StoredItems, declared_path, item_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airflow_fanout.storage.pieces import Pieces


class ObjectItems(StoredItems):
    """
    Each object of a path is an item, an ``ObjectStoragePath``, in order of path.

    An item's name is its path below the fixed part of the pattern: ``2026/a.json`` of ``s3://raw/**/*.json``.

    :param path: A text, or an ``ObjectStoragePath``: of an object, or a pattern with ``*``, ``?``, ``[…]``
        and ``**``, such as ``s3://connection_id@bucket/raw/{{ ds }}/*.json``; or the output of a task.
        (templated)
    :param max_bytes_per_task: Bytes of the objects after which a batch takes no more; one object may have
        more. None for as many as ``items_per_task`` says.
    """

    def __init__(self, path: Any, *, max_bytes_per_task: int | None = None) -> None:
        self.path = declared_path(self.owner, path)
        self.max_bytes_per_task = max_bytes_per_task
        if max_bytes_per_task is None:
            return
        if isinstance(max_bytes_per_task, bool) or not isinstance(max_bytes_per_task, int):
            problem = f"expected a whole number of bytes, found {typed(max_bytes_per_task)}"
            raise DeclarationTypeError(self.owner, "max_bytes_per_task", problem)
        if max_bytes_per_task < 1:
            problem = f"expected 1 byte or more, found {max_bytes_per_task}; leave it out for no limit"
            raise DeclarationValueError(self.owner, "max_bytes_per_task", problem)

    @property
    def has_names(self) -> bool:
        """Objects always have names."""
        return True

    @property
    def needs_pieces(self) -> bool:
        """Objects are read whole, so that they may be compressed."""
        return False

    def fill(self, packing: Packing, pieces: Pieces) -> Iterator[tuple[Place, Sequence[str]]]:
        """Yield each object."""
        for found in find_objects(self.path):
            name = item_name(found.name, found.path, "its path")
            yield {"path": found.path, "version": found.version, "size": found.size, "count": 1}, [name]

    def plan(self, size: int, pieces: Pieces) -> Iterator[Cut]:
        """Cut by number, and by bytes if there is a limit of those."""
        packing, taken = Packing(size, has_names=True), 0
        for place, names in self.fill(packing, pieces):
            is_heavy = self.max_bytes_per_task is not None and taken + place["size"] > self.max_bytes_per_task
            if packing.count and (is_heavy or not packing.room):
                yield packing.take()
                taken = 0
            packing.add(place, names)
            taken += place["size"]
        if packing.count:
            yield packing.take()

    def read(self, places: Iterable[Place]) -> list[Any]:
        """Make the paths of a batch; of objects that have changed or vanished, ``BrokenItem``."""
        from airflow.sdk import ObjectStoragePath

        checks = check_versions([(place["path"], place["version"]) for place in places])
        return [ObjectStoragePath(path) if error is None else BrokenItem(error) for path, error in checks]

    def identities(self, places: Iterable[Place]) -> list[Any]:
        """Return path and version of each object: none is read."""
        return [[place["path"], place["version"]] for place in places]

    def read_place(self, place: Place) -> Sequence[Any]:
        """Make the path of one object."""
        return self.read([place])
