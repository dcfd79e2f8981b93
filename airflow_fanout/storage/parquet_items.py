"""Rows of Parquet as items."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, ItemsError
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.rules.wording import listing, typed
from airflow_fanout.storage.objects import check_version, find_objects, opened, storage_errors
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

ROWS_AT_ONCE = 16_384
"""Rows of Arrow that are held at once, while rows before a batch's own are passed over."""

BUFFER_SIZE = 2**20


class ParquetItems(StoredItems):
    """
    Each row of Parquet files is an item: a dict of Python's own values.

    The files have the same columns. Needs the extra ``storage``. A timestamp is a ``datetime``: a row with
    one that has nanoseconds fails by name.

    :param path: Of a file, or a pattern, as in :class:`ObjectItems`. (templated)
    :param columns: Names of the columns that are read. None for all.
    :param name: The column that holds the items' names, which have to be unique. None for numbered items.
    """

    def __init__(self, path: Any, *, columns: Sequence[str] | None = None, name: str | None = None) -> None:
        self.path = declared_path(self.owner, path)
        self.name = declared_name(self.owner, name)
        if columns is not None:
            if isinstance(columns, str) or not all(isinstance(column, str) for column in columns):
                problem = f"expected a list of columns' names, found {typed(columns)}"
                raise DeclarationTypeError(self.owner, "columns", problem)
            if not columns:
                raise DeclarationValueError(self.owner, "columns", "found none; leave it out for all")
            columns = list(columns)
        self.columns = columns

    @property
    def needs_pieces(self) -> bool:
        """Parquet compresses within the file, so that it can always be cut."""
        return False

    def fill(self, packing: Packing, pieces: Pieces) -> Iterator[tuple[Place, Sequence[str]]]:
        """Yield ranges of rows."""
        first: tuple[Any, str] | None = None
        with UniqueNames() as names:
            for found in find_objects(self.path):
                names.begin(f"{found.path} row")
                with parquet_file(found.path) as file:
                    schema = self._checked_schema(file.schema_arrow, found.path)
                    first = first or (schema, found.path)
                    _check_alike(first, (schema, found.path))
                    yield from self._cut(file, found, packing, names)
                check_version(found.path, found.version)

    def _checked_schema(self, schema: Any, path: str) -> Any:
        """Return name and type of each column that is read."""
        columns = self.columns or schema.names
        if missing := [
            name for name in (*columns, self.name) if name is not None and name not in schema.names
        ]:
            message = f"{path}: no column {listing(missing)}; there are {listing(schema.names)}"
            raise ItemsError(message)
        if twice := sorted({name for name in columns if schema.names.count(name) > 1}):
            message = f"{path}: several columns are called {listing(twice)}, and an item has room for one"
            raise ItemsError(message)
        return {name: schema.field(name).type for name in columns}

    def _cut(
        self, file: Any, found: StoredObject, packing: Packing, unique_names: UniqueNames
    ) -> Iterator[tuple[Place, Sequence[str]]]:
        row, total = 0, file.metadata.num_rows
        names = self._names(file, found.path)
        while row < total:
            count = min(packing.room, total - row)
            some: list[str] = []
            for number in range(row + 1, row + count + 1) if self.name is not None else ():
                some.append(next(names))
                unique_names.add(some[-1], number)
            place = {"path": found.path, "version": found.version, "row": row, "count": count}
            yield place, some
            row += count

    def _names(self, file: Any, path: str) -> Iterator[str]:
        number, column = 0, self.name
        batches = () if column is None else file.iter_batches(batch_size=ROWS_AT_ONCE, columns=[column])
        for batch in batches:
            for value in batch.column(0).to_pylist():
                number += 1
                yield item_name(value, f"{path} row {number}", str(column))

    def read_place(self, place: Place) -> Sequence[Any]:
        """Read a range of rows: of the row groups that it lies in, no further than to its end."""
        check_version(place["path"], place["version"])
        items: list[Any] = []
        with parquet_file(place["path"]) as file:
            groups, start = _groups_of(file.metadata, place["row"], place["count"])
            size = max(1, min(ROWS_AT_ONCE, place["count"]))
            for batch in file.iter_batches(batch_size=size, row_groups=groups, columns=self.columns):
                taken = batch.slice(max(start, 0), place["count"] - len(items))
                start -= len(batch)
                if len(taken):
                    items += _rows(taken, place["path"])
                if len(items) == place["count"]:
                    break
        check_version(place["path"], place["version"])  # it may have changed meanwhile
        return items


@contextmanager
def parquet_file(path: str) -> Iterator[Any]:
    """Open a Parquet file, to be read bit by bit."""
    with opened(path) as file:
        import pyarrow as pa
        import pyarrow.parquet as pq

        with storage_errors(path):
            try:
                parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=BUFFER_SIZE)
            except pa.ArrowInvalid as error:
                message = f"{path} is no Parquet file: {error}"
                raise ItemsError(message) from error
        yield parquet


def _groups_of(metadata: Any, row: int, count: int) -> tuple[list[int], int]:
    """Return the row groups that some rows lie in, and how many rows of the first come before them."""
    groups: list[int] = []
    start = before = 0
    for group in range(metadata.num_row_groups):
        stop = start + metadata.row_group(group).num_rows
        if start < row + count and stop > row:
            if not groups:
                before = row - start
            groups.append(group)
        start = stop
    return groups, before


def _check_alike(first: tuple[Any, str], other: tuple[Any, str]) -> None:
    (schema, path), (other_schema, other_path) = first, other
    if schema == other_schema:
        return
    names = [name for name in {**schema, **other_schema} if schema.get(name) != other_schema.get(name)]
    differences = ", ".join(
        f"{name!r} is {schema.get(name, 'not there')} and {other_schema.get(name, 'not there')}"
        for name in names[:20]
    )
    message = f"the files' columns differ: {path} and {other_path}: {differences or 'in their order'}"
    raise ItemsError(message)


def _rows(batch: Any, path: str) -> list[Any]:
    """Return rows as dicts; one with a time that Python's types have no room for is a ``BrokenItem``."""
    import pyarrow as pa

    try:
        rows: list[Any] = _in_microseconds(batch).to_pylist()
    except pa.ArrowInvalid as error:
        if len(batch) == 1:
            return [BrokenItem(ItemsError(f"{path}: {error}"))]
        half = len(batch) // 2
        rows = [*_rows(batch.slice(0, half), path), *_rows(batch.slice(half), path)]
    return rows


def _in_microseconds(batch: Any) -> Any:
    """Change nanoseconds, which Python has not, wherever they are whole microseconds."""
    import pyarrow as pa

    schema = pa.schema([pa.field(field.name, _microseconds(field.type)) for field in batch.schema])
    return batch if schema.types == batch.schema.types else batch.cast(schema)


def _microseconds(kind: Any) -> Any:
    import pyarrow as pa

    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _microseconds(field.type)) for field in kind.fields])
    if pa.types.is_list(kind):
        return pa.list_(_microseconds(kind.value_type))
    return kind
