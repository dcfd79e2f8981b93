"""Lines of JSON as items."""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import ItemsError
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.rules.wording import typed
from airflow_fanout.storage.lines import byte_lines
from airflow_fanout.storage.objects import check_version, find_objects, opened, read_range
from airflow_fanout.storage.stored_items import (
    Packing,
    Place,
    StoredItems,
    declared_name,
    declared_path,
    item_name,
)
from airflow_fanout.storage.unique_names import UniqueNames

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_fanout.storage.objects import StoredObject
    from airflow_fanout.storage.pieces import Pieces


class JsonLinesItems(StoredItems):
    """
    Each line of files of JSON Lines (UTF-8) is an item: its value; blank lines are none.

    A line that isn't JSON fails its own item. With ``name`` such an item is called by its place.

    :param path: Of a file, or a pattern, as in :class:`ObjectItems`. (templated)
    :param name: The member of the lines' objects that holds the items' names, which have to be unique. None
        for numbered items.
    """

    def __init__(self, path: Any, *, name: str | None = None) -> None:
        self.path = declared_path(self.owner, path)
        self.name = declared_name(self.owner, name)

    def fill(self, packing: Packing, pieces: Pieces) -> Iterator[tuple[Place, Sequence[str]]]:
        """Yield ranges of bytes between lines."""
        with UniqueNames() as names:
            for found in find_objects(self.path):
                names.begin(f"{found.path} line")
                yield from self._cut(found, packing, pieces, names)
                check_version(found.path, found.version)

    def _cut(
        self, found: StoredObject, packing: Packing, pieces: Pieces, unique_names: UniqueNames
    ) -> Iterator[tuple[Place, Sequence[str]]]:
        is_piece = found.compression is not None
        if is_piece:
            pieces.check(found.path)
        with opened(found.path) as file:
            offset = number = 0
            first, count = (0, 1), 0
            names: list[str] = []
            kept = bytearray()
            room = packing.room

            def place() -> Place:
                start, line = first
                of = {"path": found.path, "version": found.version, "start": start, "stop": offset}
                if is_piece:
                    piece = pieces.write(bytes(kept), ".jsonl")
                    of |= {
                        "path": piece["path"],
                        "version": piece["version"],
                        "start": 0,
                        "stop": piece["size"],
                    }
                return {**of, "line": line, "of": found.path, "count": count}

            for line in byte_lines(file.read):
                number += 1
                offset += len(line)
                if is_piece:
                    kept += line
                if not _has_item(line):
                    continue
                count += 1
                if self.name is not None:
                    names.append(self._name_in(line, found.path, number))
                    unique_names.add(names[-1], number)
                if count == room:
                    yield place(), names
                    first, count, names, room = (offset, number + 1), 0, [], packing.room
                    kept.clear()
            if count:
                yield place(), names

    def _name_in(self, line: bytes, path: str, number: int) -> str:
        """Name of the item of a line; its place if the line is broken."""
        where, column = f"{path} line {number}", str(self.name)
        item = _item(line, path, number)
        if isinstance(item, BrokenItem):
            return where
        if not isinstance(item, dict):
            message = (
                f"{where}: expected an object with {column!r}, which names the item, found {typed(item)}"
            )
            raise ItemsError(message)
        if column not in item:
            message = f"{where}: no {column!r} to name the item by; there are {', '.join(map(repr, item))}"
            raise ItemsError(message)
        return item_name(item[column], where, column)

    def read_place(self, place: Place) -> Sequence[Any]:
        """Read the lines of a range."""
        content = read_range(place["path"], place["start"], place["stop"], place["version"])
        lines = enumerate(content.removesuffix(b"\n").split(b"\n"), place["line"])
        return [_item(line, place["of"], number) for number, line in lines if _has_item(line)]


def _has_item(line: bytes) -> bool:
    return line.strip() not in {b"", codecs.BOM_UTF8}


def _item(line: bytes, path: str, number: int) -> Any:
    """Read a line; what is wrong with it names the place."""
    where = f"{path} line {number}"
    try:
        return json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        reason = f"{error.reason}, in {where}"
        return BrokenItem(UnicodeDecodeError(error.encoding, error.object, error.start, error.end, reason))
    except json.JSONDecodeError as error:
        return BrokenItem(json.JSONDecodeError(f"{where}: {error.msg}", error.doc, error.pos))
    except RecursionError as error:
        return BrokenItem(RecursionError(f"{where}: {error}"))
