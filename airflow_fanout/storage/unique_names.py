"""Names that have to be unique, among any number, with little memory."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Self

from airflow_fanout.exceptions import ItemsError

if TYPE_CHECKING:
    from types import TracebackType

AT_ONCE = 10_000


class UniqueNames:
    """
    Check that no name comes twice; an error names both places.

    The names are in a temporary database of SQLite, on disk.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # of its own, and gone when it is closed
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("PRAGMA synchronous = OFF")
        self._database.execute(
            "CREATE TABLE names (name TEXT PRIMARY KEY, part INT, number INT) WITHOUT ROWID"
        )
        self._parts: list[str] = []
        self._waiting: list[tuple[str, int, int]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with closing(self._database):
            if kind is None:
                self._flush()

    def begin(self, part: str) -> None:
        """Say where the names come from that follow, such as the path of a file, and ``row`` or ``line``."""
        self._parts.append(part)

    def add(self, name: str, number: int) -> None:
        """Take a name, and the number of its row, or line, there."""
        self._waiting.append((name, len(self._parts) - 1, number))
        if len(self._waiting) >= AT_ONCE:
            self._flush()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._database.execute("BEGIN")
        taken = self._database.executemany("INSERT OR IGNORE INTO names VALUES (?, ?, ?)", waiting).rowcount
        self._database.execute("COMMIT")
        if taken == len(waiting):
            return
        for name, part, number in waiting:
            query = "SELECT part, number FROM names WHERE name = ?"
            first = self._database.execute(query, (name,)).fetchone()
            if first != (part, number):
                where = f"{self._parts[first[0]]} {first[1]} and {self._parts[part]} {number}"
                message = f"names have to be unique, found {name!r} twice: {where}"
                raise ItemsError(message)
