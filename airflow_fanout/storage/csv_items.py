"""Rows of CSV as items."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, ItemsError
from airflow_fanout.rules.wording import close_to, listing, typed
from airflow_fanout.storage.lines import STATEFUL, TextLines, known_encoding
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


OF_READER = frozenset(
    {
        "delimiter",
        "dialect",
        "doublequote",
        "escapechar",
        "lineterminator",
        "quotechar",
        "quoting",
        "skipinitialspace",
        "strict",
    }
)
"""Arguments of ``csv.reader``."""

OF_ROWS = frozenset({"fieldnames", "restkey", "restval"})
"""What ``csv.DictReader`` takes beside them."""

COLUMNS_SHOWN = 20


class CsvItems(StoredItems):
    """
    Each row of CSV files is an item: the dict that ``csv.DictReader`` makes of it.

    The files have the same header. They are cut between rows, wherever quoted line ends are.

    :param path: Of a file, or a pattern, as in :class:`ObjectItems`. (templated)
    :param name: The column that holds the items' names, which have to be unique. None for numbered items.
    :param encoding: Of the files; a byte-order mark is no part of the text.
    :param format: Arguments of ``csv.DictReader``: ``delimiter``, ``quotechar``, ``quoting``, ``dialect`` (by
        name), …; ``fieldnames`` for files without a header.
    """

    def __init__(self, path: Any, *, name: str | None = None, encoding: str = "utf-8", **format: Any) -> None:  # noqa: A002  # csv's own word
        self.path = declared_path(self.owner, path)
        self.name = declared_name(self.owner, name)
        self.encoding = self._checked_encoding(encoding)
        self.format = format
        for argument in format:
            if argument not in OF_READER | OF_ROWS:
                known = {*OF_READER, *OF_ROWS, "encoding", "name"}
                raise DeclarationTypeError(
                    self.owner, argument, f"is no argument of it; {close_to(argument, known)}"
                )
        fieldnames = format.get("fieldnames")
        if fieldnames is not None and (
            isinstance(fieldnames, str) or not all(isinstance(field, str) for field in fieldnames)
        ):
            problem = f"expected a list of the columns' names, found {typed(fieldnames)}"
            raise DeclarationTypeError(self.owner, "fieldnames", problem)
        try:
            csv.reader((), **self._of_reader)
        except (TypeError, ValueError) as error:
            raise DeclarationTypeError(self.owner, "format", str(error)) from error
        except csv.Error as error:
            raise DeclarationValueError(self.owner, "format", str(error)) from error

    def _checked_encoding(self, encoding: object) -> str:
        if not isinstance(encoding, str):
            problem = f"expected the name of an encoding, found {typed(encoding)}"
            raise DeclarationTypeError(self.owner, "encoding", problem)
        try:
            known = known_encoding(encoding)
        except LookupError as error:
            raise DeclarationValueError(self.owner, "encoding", str(error)) from error
        if known.startswith(STATEFUL):
            problem = f"found {encoding!r}, in which a line can't be read without those before it; use UTF-8"
            raise DeclarationValueError(self.owner, "encoding", problem)
        return known

    @property
    def _of_reader(self) -> dict[str, Any]:
        return {name: value for name, value in self.format.items() if name in OF_READER}

    def fill(self, packing: Packing, pieces: Pieces) -> Iterator[tuple[Place, Sequence[str]]]:
        """Yield ranges of bytes between rows."""
        first: tuple[list[str], str] | None = None
        with UniqueNames() as names:
            for found in find_objects(self.path):
                names.begin(f"{found.path} row")
                header = yield from self._cut(found, packing, pieces, names, first)
                if header is not None and first is None:
                    first = header, found.path
                check_version(found.path, found.version)

    def _cut(
        self,
        found: StoredObject,
        packing: Packing,
        pieces: Pieces,
        unique_names: UniqueNames,
        first: tuple[list[str], str] | None,
    ) -> Any:
        """Yield the places in one file, and return its header; None if it is empty."""
        is_piece = found.compression is not None
        if is_piece:
            pieces.check(found.path)
        with opened(found.path) as file:
            lines = TextLines(file, self.encoding, keeps=is_piece)
            rows = _checked(csv.reader(lines, **self._of_reader), found.path)
            header = self._header(rows)
            if header is None:
                return None
            if first is not None and header != first[0]:
                has, has_too = _columns(first[0]), _columns(header)
                message = f"the files' headers differ: {first[1]} has {has}, {found.path} has {has_too}"
                raise ItemsError(message)
            column = self._name_column(header, found.path)
            lines.take()
            number, start = 0, lines.offset
            while True:
                room, count = packing.room, 0
                names: list[str] = []
                for row in rows:
                    if not row:
                        continue  # a blank line
                    count += 1
                    number += 1
                    if column is not None:
                        value = row[column] if column < len(row) else self.format.get("restval")
                        names.append(item_name(value, f"{found.path} row {number}", str(self.name)))
                        unique_names.add(names[-1], number)
                    if count == room:
                        break
                if not count:
                    return header
                place = {"path": found.path, "version": found.version, "start": start, "stop": lines.offset}
                if is_piece:
                    piece = pieces.write(lines.take(), ".csv")
                    place |= {
                        "path": piece["path"],
                        "version": piece["version"],
                        "start": 0,
                        "stop": piece["size"],
                    }
                yield {**place, "encoding": lines.encoding, "fieldnames": header, "count": count}, names
                start = lines.offset

    def _header(self, rows: Iterator[list[str]]) -> list[str] | None:
        given = self.format.get("fieldnames")
        return next(rows, None) if given is None else list(given)

    def _name_column(self, header: Sequence[str], path: str) -> int | None:
        """Position of the column of the names: the last one of that name, as in the items."""
        if self.name is None:
            return None
        if self.name not in header:
            message = f"{path}: no column {self.name!r} to name the items by; there are {listing(header)}"
            raise ItemsError(message)
        return len(header) - 1 - [*reversed(header)].index(self.name)

    def read_place(self, place: Place) -> Sequence[Any]:
        """Read the rows of a range."""
        content = read_range(place["path"], place["start"], place["stop"], place["version"])
        text = io.StringIO(content.decode(place["encoding"]), newline="")
        return list(csv.DictReader(text, **{**self.format, "fieldnames": place["fieldnames"]}))


def _checked(rows: Any, path: str) -> Iterator[list[str]]:
    """Yield rows; what is wrong with one names the place."""
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except (csv.Error, UnicodeError, ValueError) as error:
            message = f"{path} line {rows.line_num + 1}: {type(error).__name__}: {error}"
            raise ItemsError(message) from error
        yield row


def _columns(header: Sequence[str]) -> str:
    """Name the columns in their order."""
    shown, more = ", ".join(map(repr, header[:COLUMNS_SHOWN])), len(header) - COLUMNS_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
