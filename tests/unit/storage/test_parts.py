from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import ObjectStoragePath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_fanout.exceptions import MissingExtraError, UnreadableValueError, UnwritableResultsError
from airflow_fanout.execution_time.transport import stored_value
from airflow_fanout.rules.outcomes import LostValue
from airflow_fanout.storage.parts import (
    Row,
    check_format,
    delete,
    lost,
    read_errors,
    read_part,
    write_failed,
    write_json,
    write_part,
)

if TYPE_CHECKING:
    from pathlib import Path

formats = pytest.mark.parametrize("results_format", ["jsonl", "parquet"])

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e15, max_value=1e15)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4)
    | st.sampled_from(["__classname__", '"__', "__type"])
)
names_of_fields = st.sampled_from(["a", "b", "", "é", "x.y"])
plain = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names_of_fields, inner, max_size=3),
    max_leaves=6,
)


def refuse(row: Row, error: Exception) -> None:
    pytest.fail(f"{row} was refused: {error}")


def rows_of(values: list[Any]) -> list[Row]:
    return [Row(f"process_{index}", index, value) for index, value in enumerate(values)]


def there_and_back(folder: Path, values: list[Any], results_format: Any) -> list[Any]:
    path = f"{folder}/part-0-1.{results_format}"
    part = write_part(path, rows_of(values), results_format, refuse)
    assert part.rows == len(values)
    return [row.value for row in read_part(path)]


@formats
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(values=st.lists(plain, max_size=6))
def test_values_come_back_as_they_were(tmp_path: Path, results_format: Any, values: list[Any]) -> None:
    back = there_and_back(tmp_path, values, results_format)

    assert repr(back) == repr(values)


OTHERS = [
    pytest.param([(1, 2), [(3,)]], id="tuples"),
    pytest.param([datetime(2026, 1, 1, tzinfo=UTC), Decimal("1.50")], id="what XCom serializes"),
    pytest.param([{1, 2}, frozenset({3})], id="sets"),
    pytest.param([ObjectStoragePath("file:///tmp/a")], id="paths"),
    pytest.param([1, "text", None, {"a": 1}], id="of several types"),
    pytest.param([1, 1.5], id="int and float"),
    pytest.param([1, True], id="int and bool"),
    pytest.param([{"a": 1}, {"b": 1}], id="dicts with other fields"),
    pytest.param([{}, {"a": {}}], id="dicts without fields"),
    pytest.param([2**63], id="beyond a column's int"),
    pytest.param([{"a": None}, None, {"a": {"b": []}}], id="nothing among others"),
]


@formats
@pytest.mark.parametrize("values", OTHERS)
def test_other_values_come_back_as_from_an_xcom(
    tmp_path: Path, results_format: Any, values: list[Any]
) -> None:
    back = there_and_back(tmp_path, values, results_format)

    assert back == [stored_value(value) for value in values]
    assert list(map(type, back)) == list(map(type, values))


def test_a_line_has_name_index_and_value(tmp_path: Path) -> None:
    write_part(f"{tmp_path}/part-0-1.jsonl", [Row("us", 7, {"rows": 3})], "jsonl", refuse)

    line = json.loads((tmp_path / "part-0-1.jsonl").read_text())

    assert line == {"name": "us", "index": 7, "value": {"rows": 3}}


def test_values_of_one_shape_are_a_struct_in_parquet(tmp_path: Path) -> None:
    from pyarrow.parquet import read_table

    values = [{"rows": 3, "tags": ["a"]}, {"rows": None, "tags": []}]
    there_and_back(tmp_path, values, "parquet")

    table = read_table(tmp_path / "part-0-1.parquet")

    assert table.schema.names == ["name", "index", "value"]
    assert table.column("value").to_pylist() == values


def test_values_of_several_shapes_are_json_in_parquet(tmp_path: Path) -> None:
    from pyarrow.parquet import read_table

    there_and_back(tmp_path, [{"rows": 3}, 4], "parquet")

    assert read_table(tmp_path / "part-0-1.parquet").column("value").to_pylist() == ['{"rows": 3}', "4"]


@formats
def test_a_value_that_can_not_be_written_is_left_out(tmp_path: Path, results_format: Any) -> None:
    refused: list[str] = []
    path = f"{tmp_path}/part-0-1.{results_format}"

    part = write_part(
        path, rows_of([1, object(), 3]), results_format, lambda row, _: refused.append(row.name)
    )

    assert refused == ["process_1"]
    assert [(row.name, row.value) for row in read_part(path)] == [("process_0", 1), ("process_2", 3)]
    assert part.rows == 2


@formats
def test_names_are_read_without_values(tmp_path: Path, results_format: Any) -> None:
    path = f"{tmp_path}/part-0-1.{results_format}"
    write_part(path, rows_of([(1,), {"a": 1}]), results_format, refuse)

    assert [row.name for row in read_part(path, with_values=False)] == ["process_0", "process_1"]


def test_a_part_that_is_gone_or_changed_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "part-0-1.jsonl"
    part = write_part(str(path), rows_of([1]), "jsonl", refuse)
    assert lost(part) is None

    path.write_text("something else")
    assert lost(part) == LostValue(str(path), is_changed=True)

    path.unlink()
    assert lost(part) == LostValue(str(path))
    with pytest.raises(FileNotFoundError, match="part-0-1"):
        next(read_part(str(path)))


def test_a_part_that_is_damaged_can_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "part-0-1.jsonl"
    path.write_text('{"name": "us"')

    with pytest.raises(UnreadableValueError, match=r"part-0-1.jsonl can't be read: JSONDecodeError"):
        next(read_part(str(path)))


def test_a_storage_that_refuses_is_named_with_its_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(UnwritableResultsError, match=r"written to .*/file/part-0-1.jsonl: FileExistsError"):
        write_part(f"{tmp_path}/file/part-0-1.jsonl", rows_of([1]), "jsonl", refuse)


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path: Path) -> None:
    full = OSError(28, "No space left on device")

    with (
        mock.patch("airflow_fanout.storage.parts._as_texts", side_effect=full),
        pytest.raises(UnwritableResultsError, match="No space left on device"),
    ):
        write_part(f"{tmp_path}/part-0-1.jsonl", rows_of([1]), "jsonl", refuse)

    assert [path.name for path in tmp_path.iterdir()] == ["part-0-1.jsonl.unfinished"]


def test_failed_items_are_lines_of_what_they_were_given(tmp_path: Path) -> None:
    path = f"{tmp_path}/failed-0-1.jsonl"
    items = [{"id": 1}, ObjectStoragePath("file:///data/a.csv"), (1, 2), object()]

    write_failed(path, [(f"item {n}", n, "ValueError: broken", item) for n, item in enumerate(items)])

    lines = [json.loads(line) for line in (tmp_path / "failed-0-1.jsonl").read_text().splitlines()]
    assert [line["item"] for line in lines[:2]] == [{"id": 1}, "file:///data/a.csv"]
    assert lines[2]["item"]["__data__"] == [1, 2]
    assert lines[3]["item"] is None
    assert read_errors(path) == dict.fromkeys(range(4), "ValueError: broken")


def test_json_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    for number in (1, 2):
        write_json(f"{tmp_path}/manifest.json", {"number": number})

    assert json.loads((tmp_path / "manifest.json").read_text()) == {"number": 2}


def test_what_is_not_there_can_be_deleted(tmp_path: Path) -> None:
    delete(f"{tmp_path}/failed-0-1.jsonl")


def test_parquet_takes_an_extra() -> None:
    with (
        mock.patch.dict(sys.modules, {"pyarrow": None, "pyarrow.parquet": None}),
        pytest.raises(MissingExtraError, match=r"airflow-fanout\[storage\]"),
    ):
        check_format("parquet")
