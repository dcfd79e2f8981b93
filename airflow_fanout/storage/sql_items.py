"""Rows of a query as items."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.definitions.xcom_arg import ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.exceptions import (
    DeclarationTypeError,
    DeclarationValueError,
    ItemsError,
    MissingExtraError,
    StorageError,
)
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.rules.wording import listing, on_one_line, typed
from airflow_fanout.storage.cells import row_from_json, row_to_json
from airflow_fanout.storage.objects import read_range
from airflow_fanout.storage.stored_items import Packing, Place, StoredItems, declared_name, item_name
from airflow_fanout.storage.unique_names import UniqueNames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.providers.common.sql.hooks.sql import DbApiHook

    from airflow_fanout.storage.pieces import Pieces

ROWS_AT_ONCE = 2_000


class SqlItems(StoredItems):
    """
    Each row of a query is an item: a dict by column.

    ``split`` runs the query once, and writes the rows in pieces below ``[fanout] storage_path`` as it reads
    them: what changes in the database afterwards changes no item.

    :param conn_id: The connection, of any database that Airflow has a hook for. (templated)
    :param sql: The query, or the name of a file that ends with ``.sql``. (templated)
    :param parameters: What the query's placeholders stand for, in the database's own style: a list, or a
        mapping. (templated)
    :param name: The column that holds the items' names, which have to be unique. None for numbered items.
    """

    templates: ClassVar[Sequence[str]] = ("conn_id", "sql", "parameters")

    def __init__(
        self,
        conn_id: Any,
        sql: Any,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
    ) -> None:
        for argument, value in (("conn_id", conn_id), ("sql", sql)):
            if not isinstance(value, str | ResolveMixin):
                raise DeclarationTypeError(self.owner, argument, f"expected a text, found {typed(value)}")
            if isinstance(value, str) and not value.strip():
                raise DeclarationValueError(self.owner, argument, "expected a text, found an empty one")
        is_text = isinstance(parameters, str | bytes)
        if is_text or not isinstance(parameters, Sequence | Mapping | ResolveMixin | None):
            problem = f"expected a list or a mapping, found {typed(parameters)}"
            raise DeclarationTypeError(self.owner, "parameters", problem)
        self.conn_id, self.sql, self.parameters = conn_id, sql, parameters
        self.name = declared_name(self.owner, name)

    @property
    def title(self) -> str:
        """What people are shown: ``SqlItems warehouse``; a query may be long."""
        return f"{self.owner} {self.conn_id}" if isinstance(self.conn_id, str) else self.owner

    @property
    def needs_pieces(self) -> bool:
        """Rows of a query always have to be written."""
        return True

    def check_rendered(self) -> None:
        """Check what only a run knows."""
        self._check_text("conn_id", self.conn_id)
        self._check_text("sql", self.sql)

    def fill(self, packing: Packing, pieces: Pieces) -> Iterator[tuple[Place, Sequence[str]]]:
        """Run the query, and write a piece for each batch."""
        pieces.check(self.title)
        with UniqueNames() as unique_names, self._executed() as cursor:
            unique_names.begin("row")
            rows = self._rows(cursor)
            columns = next(rows)
            column = self._name_column(columns)
            number = 0
            while True:
                room, lines, names = packing.room, [], list[str]()
                for row in rows:
                    number += 1
                    lines.append(_as_line(row, number))
                    if column is not None:
                        names.append(item_name(row[column], f"{self.title} row {number}", str(self.name)))
                        unique_names.add(names[-1], number)
                    if len(lines) == room:
                        break
                if not lines:
                    return
                piece = pieces.write("".join(lines).encode(), ".jsonl")
                yield {**piece, "columns": columns, "count": len(lines)}, names

    @contextmanager
    def _executed(self) -> Iterator[Any]:
        """Open a cursor on the query's rows, on the server if the database can."""
        from airflow.sdk import BaseHook

        with self._database_errors():
            connection: Any = BaseHook.get_connection(self.conn_id)
            hook = connection.get_hook()
        if not isinstance(hook, _database_hook_class()):
            message = f"{self.title}: expected the connection of a database, found {type(hook).__name__}"
            raise ItemsError(message)
        with (
            self._database_errors(),
            closing(hook.get_conn()) as connection,
            closing(_cursor(connection)) as cursor,
        ):
            cursor.execute(self.sql, *(() if self.parameters is None else (self.parameters,)))
            yield cursor

    @contextmanager
    def _database_errors(self) -> Iterator[None]:
        """Name the connection in whatever the database says."""
        try:
            yield
        except (ItemsError, StorageError):
            raise
        except Exception as error:  # each database has errors of its own
            raise StorageError(self.title, on_one_line(f"{type(error).__name__}: {error}")) from error

    def _rows(self, cursor: Any) -> Iterator[Any]:
        """Yield the columns' names, and then the rows."""
        some = cursor.fetchmany(ROWS_AT_ONCE)  # a cursor on the server knows its columns from then on
        if cursor.description is None:
            message = f"{self.title}: expected a query that returns rows"
            raise ItemsError(message)
        columns = [str(column[0]) for column in cursor.description]
        if twice := sorted({name for name in columns if columns.count(name) > 1}):
            message = f"{self.title}: several columns are called {listing(twice)}; name each with AS"
            raise ItemsError(message)
        yield columns
        while some:
            yield from some
            some = cursor.fetchmany(ROWS_AT_ONCE)

    def _name_column(self, columns: Sequence[str]) -> int | None:
        if self.name is None:
            return None
        if self.name not in columns:
            message = (
                f"{self.title}: no column {self.name!r} to name the items by; there are {listing(columns)}"
            )
            raise ItemsError(message)
        return columns.index(self.name)

    def read_place(self, place: Place) -> Sequence[Any]:
        """Read a piece."""
        content = read_range(place["path"], 0, place["size"], place["version"])
        return [_item(line, place["columns"]) for line in content.decode().splitlines()]  # ASCII


def _database_hook_class() -> type[DbApiHook]:
    try:
        from airflow.providers.common.sql.hooks.sql import DbApiHook
    except ModuleNotFoundError as error:
        extra = "storage"
        raise MissingExtraError(extra, module=str(error.name)) from error
    return DbApiHook


def _cursor(connection: Any) -> Any:
    """Open a cursor that leaves the rows on the server: psycopg's, if it has a name."""
    if type(connection).__module__.startswith(("psycopg", "airflow.providers.postgres")):
        return connection.cursor(name="airflow_fanout")
    return connection.cursor()


def _as_line(row: Sequence[Any], number: int) -> str:
    try:
        return f"{row_to_json(row)}\n"
    except Exception as error:  # also of a type's own serializer
        problem = f"row {number} can't be written to a piece: {type(error).__name__}: {error}"
        return f"{json.dumps({'problem': problem})}\n"


def _item(line: str, columns: Sequence[str]) -> Any:
    if line.startswith("{"):
        return BrokenItem(ItemsError(json.loads(line)["problem"]))
    return dict(zip(columns, row_from_json(line), strict=True))
