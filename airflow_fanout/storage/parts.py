"""Files of the values of a batch's items, and of those that failed: JSON Lines, or Parquet for values."""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_fanout.exceptions import MissingExtraError, UnreadableValueError, UnwritableResultsError
from airflow_fanout.rules.outcomes import LostValue
from airflow_fanout.rules.records import StoredPart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_fanout.serialization.declaration import ResultsFormat

ROWS = 5_000
"""Values of a row group, and those that are written at once."""

BUFFER = 2**20
"""Bytes that are read at once."""

OWN_NAME = '"__'
"""Beginning of a name, or of a text, in JSON that may be Airflow's own for an object."""

FLAT_STORES = frozenset(
    {"s3", "s3a", "s3n", "gs", "gcs", "abfs", "abfss", "adl", "az", "wasb", "wasbs", "memory"}
)
"""Stores without folders, where an object is there when all of it is."""

AS_JSON = {b"airflow_fanout_value": b"json"}
"""Metadata of a Parquet file whose values are JSON texts, for they are of no one type that a column has."""

LARGEST_INT = 2**63 - 1


_encoded = json.JSONEncoder(allow_nan=False).encode


class Row(NamedTuple):
    """An item's name, its position among all items of its group, and its value."""

    name: str
    position: int
    value: Any


class _MixedError(TypeError):
    """Raised for values that no column of Parquet gives back equal."""


def part_name(batch: int, number: str, results_format: ResultsFormat) -> str:
    """Name of the file of a batch's values; ``number`` is that of its try."""
    return f"part-{batch}-{number}.{results_format}"


def failed_name(batch: int, number: int) -> str:
    """Name of the file of a batch's failed items."""
    return f"failed-{batch}-{number}.jsonl"


def check_format(results_format: ResultsFormat) -> None:
    """
    Check that values can be written so.

    :raises MissingExtraError: If that takes an extra that isn't installed.
    """
    if results_format == "parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as missing:
            extra = "storage"
            raise MissingExtraError(extra, module="pyarrow") from missing


def write_part(
    path: str, rows: list[Row], results_format: ResultsFormat, refuse: Callable[[Row, Exception], object]
) -> StoredPart:
    """
    Write values to a file of their own.

    :param refuse: Told of each row whose value the format can't hold; it is left out.
    :raises UnwritableResultsError: If the storage refuses.
    """
    write = _write_parquet if results_format == "parquet" else _write_lines
    with _writing(path) as file:
        count = write(file, rows, refuse)
    return _described(path, count)


def write_failed(path: str, failures: Iterable[tuple[str, int, str | None, Any]]) -> None:
    """
    Write failed items, with their names, indexes and errors, to a file of JSON Lines.

    An item is what it is in an XCom, or the text of a path; null if that has no place for it.

    :raises UnwritableResultsError: If the storage refuses.
    """
    with _writing(path) as file:
        for name, index, error, item in failures:
            line = {"name": name, "index": index, "error": error, "item": _item_in_json(item)}
            file.write(json.dumps(line).encode() + b"\n")


def write_json(path: str, value: Any) -> None:
    """
    Write a value of plain JSON types, in the place of what may be there.

    :raises UnwritableResultsError: If the storage refuses.
    """
    with _writing(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")


def delete(path: str) -> None:
    """Delete a file, if it is there."""
    from airflow.sdk import ObjectStoragePath

    with suppress(FileNotFoundError):
        ObjectStoragePath(path).unlink()


def lost(part: StoredPart) -> LostValue | None:
    """
    Tell what is lost if a file is gone, or is another one than was written; None if it is there.

    :raises UnreadableValueError: If the storage doesn't say.
    """
    try:
        found = _described(part.path, part.rows)
    except (FileNotFoundError, NotADirectoryError):
        return LostValue(part.path)
    except Exception as cause:  # whatever a storage's client raises
        raise UnreadableValueError(part.path, cause=cause) from cause
    return None if found == part else LostValue(part.path, is_changed=True)


def read_part(path: str, *, with_values: bool = True) -> Iterator[Row]:
    """
    Read values as they were written, few at a time.

    :param with_values: Whether not only names are wanted.
    :raises FileNotFoundError: If the file is gone.
    :raises UnreadableValueError: If it can't be read for another reason.
    """
    from airflow.sdk import ObjectStoragePath

    read = _read_parquet if path.endswith(".parquet") else _read_lines
    target = ObjectStoragePath(path)
    try:
        with target.fs.open(target.path, "rb") as file:
            yield from read(file, with_values=with_values)
    except FileNotFoundError:
        raise FileNotFoundError(path) from None
    except Exception as cause:  # whatever a storage's client, or a deserializer of the author's, raises
        raise UnreadableValueError(path, cause=cause) from cause


def read_errors(path: str) -> dict[int, str | None]:
    """
    Read the errors of failed items, by their index among all.

    :raises FileNotFoundError: If the file is gone.
    :raises UnreadableValueError: If it can't be read for another reason.
    """
    from airflow.sdk import ObjectStoragePath

    target = ObjectStoragePath(path)
    try:
        with target.fs.open(target.path, "rb") as file:
            return {line["index"]: line["error"] for line in map(json.loads, _lines(file))}
    except FileNotFoundError:
        raise FileNotFoundError(path) from None
    except Exception as cause:  # whatever a storage's client raises
        raise UnreadableValueError(path, cause=cause) from cause


def text_of(value: Any) -> str:
    """
    Write a value as JSON, what is not of JSON's types as an XCom has it.

    :raises Exception: Whatever a serializer raises of what can't be written.
    """
    text = _encoded(value) if _is_plain(value) else OWN_NAME
    if OWN_NAME not in text:
        return text
    from airflow.sdk.serde import serialize

    return _encoded(serialize(value))


def value_of(text: str | bytes) -> Any:
    """Read a value that :func:`text_of` wrote."""
    value = json.loads(text)
    return _deserialized(value) if _has_own_name(text) else value


def _deserialized(value: Any) -> Any:
    from airflow.sdk.serde import deserialize

    return deserialize(value)


def _has_own_name(text: str | bytes) -> bool:
    return OWN_NAME in text if isinstance(text, str) else OWN_NAME.encode() in text


def _is_plain(value: Any) -> bool:
    """Whether a value is of types that JSON gives back as they are."""
    kind = type(value)
    if kind is dict:
        return all(type(name) is str for name in value) and all(map(_is_plain, value.values()))
    if kind is list:
        return all(map(_is_plain, value))
    return value is None or kind in {str, int, float, bool}


def _item_in_json(item: Any) -> Any:
    from airflow.sdk import ObjectStoragePath

    if isinstance(item, ObjectStoragePath):
        return str(item)
    try:
        return json.loads(text_of(item))
    except Exception:  # whatever a serializer of the author's raises
        return None


@contextmanager
def _writing(path: str) -> Iterator[Any]:
    """Open a file that is at its place only when all of it was written."""
    from airflow.sdk import ObjectStoragePath

    try:
        target = ObjectStoragePath(path)
        files: Any = target.fs
        if target.protocol in FLAT_STORES:
            with files.open(target.path, "wb") as file:
                yield file
            return
        files.makedirs(files._parent(target.path), exist_ok=True)  # noqa: SLF001 - its own path's parent
        unfinished = f"{target.path}.unfinished"
        with files.open(unfinished, "wb") as file:
            yield file
        files.mv(unfinished, target.path)
    except Exception as cause:  # whatever a storage's client raises
        raise UnwritableResultsError(path, cause=cause) from cause


def _described(path: str, count: int) -> StoredPart:
    from airflow.sdk import ObjectStoragePath

    target = ObjectStoragePath(path)
    found: Any = target.fs.info(target.path)
    versions = (found.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified", "updated"))
    version = next((str(version) for version in versions if version), "")
    return StoredPart(path, count, int(found.get("size") or 0), version)


def _write_lines(file: Any, rows: list[Row], refuse: Callable[[Row, Exception], object]) -> int:
    count = 0
    texts = _as_texts(rows, refuse)
    while some := list(islice(texts, ROWS)):
        lines = (
            f'{{"name": {json.dumps(r.name)}, "index": {r.position}, "value": {r.value}}}\n' for r in some
        )
        file.write("".join(lines).encode())
        count += len(some)
    return count


def _read_lines(file: Any, *, with_values: bool) -> Iterator[Row]:
    for line in _lines(file):
        read = json.loads(line)
        value = read["value"]
        yield Row(
            read["name"],
            read["index"],
            _deserialized(value) if with_values and _has_own_name(line) else value,
        )


def _lines(file: Any) -> Iterator[bytes]:
    """Lines of a file; a store's own file takes long to find where one ends."""
    rest = b""
    while some := file.read(BUFFER):
        *lines, rest = (rest + some).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _write_parquet(file: Any, rows: list[Row], refuse: Callable[[Row, Exception], object]) -> int:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    try:
        shape: Any = None
        for row in rows:
            shape = _together(shape, _shape(row.value))
        kind, metadata = _arrow_type(shape), None
    except _MixedError:
        kind, metadata = pa.string(), AS_JSON
        rows = list(_as_texts(rows, refuse))
    fields = [pa.field("name", pa.string()), pa.field("index", pa.int64()), pa.field("value", kind)]
    schema = pa.schema(fields, metadata=metadata)
    with ParquetWriter(file, schema) as writer:
        for first in range(0, len(rows), ROWS):
            columns = zip(*rows[first : first + ROWS], strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, fields, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return len(rows)


def _as_texts(rows: Iterable[Row], refuse: Callable[[Row, Exception], object]) -> Iterator[Row]:
    for row in rows:
        try:
            yield row._replace(value=text_of(row.value))
        except Exception as error:  # whatever a serializer of the author's raises
            refuse(row, error)


def _read_parquet(file: Any, *, with_values: bool) -> Iterator[Row]:
    from pyarrow.parquet import ParquetFile

    stored = ParquetFile(file)
    metadata = stored.schema_arrow.metadata or {}
    is_json = AS_JSON.items() <= metadata.items()
    columns = ["name", "index", *(["value"] if with_values else [])]
    for batch in stored.iter_batches(ROWS, columns=columns):
        names, indexes, *values = (column.to_pylist() for column in batch.columns)
        of_rows = values[0] if values else [None] * len(names)
        for name, index, value in zip(names, indexes, of_rows, strict=True):
            yield Row(name, index, value_of(value) if is_json and with_values else value)


def _shape(value: Any) -> Any:
    """What a column of such values has to be: a type, a dict of its fields, or a list of that of members."""
    kind = type(value)
    if kind is dict and value and all(type(name) is str for name in value):
        return {name: _shape(member) for name, member in value.items()}
    if kind is list:
        shape = None
        for member in value:
            shape = _together(shape, _shape(member))
        return [shape]
    if value is None:
        return None
    if kind in {str, float, bool} or (kind is int and -LARGEST_INT <= value <= LARGEST_INT):
        return kind
    raise _MixedError


def _together(shape: Any, other: Any) -> Any:
    """Find what holds values of both."""
    if shape is None or shape == other:
        return other
    if other is None:
        return shape
    if isinstance(shape, dict) and isinstance(other, dict) and shape.keys() == other.keys():
        return {name: _together(shape[name], other[name]) for name in shape}
    if isinstance(shape, list) and isinstance(other, list):
        return [_together(shape[0], other[0])]
    raise _MixedError


def _arrow_type(shape: Any) -> Any:
    import pyarrow as pa

    if isinstance(shape, dict):
        return pa.struct([(name, _arrow_type(field)) for name, field in shape.items()])
    if isinstance(shape, list):
        return pa.list_(_arrow_type(shape[0]))
    types = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}
    return types.get(shape, pa.string())
