from __future__ import annotations

import sys
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_fanout.exceptions import (
    DeclarationTypeError,
    DeclarationValueError,
    ItemsError,
    MissingExtraError,
)
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.storage import ParquetItems
from tests.unit.storage.plans import names, plan, read

if TYPE_CHECKING:
    from pathlib import Path


@given(
    counts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    group=st.integers(1, 7),
    size=st.integers(1, 9),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_each_row_is_read_once_and_in_order(counts: list[int], group: int, size: int, tmp_path: Path) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    for number, count in enumerate(counts):
        rows = {"file": [number] * count, "row": list(range(count))}
        pq.write_table(
            pa.table(rows, pa.schema([("file", pa.int64()), ("row", pa.int64())])),
            tmp_path / f"{number}.parquet",
            row_group_size=group,
        )
    expected = [{"file": number, "row": row} for number, count in enumerate(counts) for row in range(count)]

    assert read(ParquetItems(f"{tmp_path}/*.parquet"), size) == expected
    numbers = [f"{row}" for row in range(counts[0])]
    assert names(ParquetItems(f"{tmp_path}/0.parquet", columns=["file"], name="row"), size) == numbers


def test_values_are_those_of_python(tmp_path: Path) -> None:
    east = timezone(timedelta(hours=2))
    row: dict[str, Any] = {
        "decimal": Decimal("12345678901234567890.123456789"),
        "day": date(2026, 1, 2),
        "naive": datetime(2026, 1, 2, 3, 4, 5, 678901),  # noqa: DTZ001
        "aware": datetime(2026, 1, 2, 3, tzinfo=east),
        "nested": {"list": [1, None], "struct": {"x": "y"}, "time": datetime(2026, 1, 2)},  # noqa: DTZ001
        "bytes": b"\0\xff",
        "nothing": None,
    }
    table = pa.Table.from_pylist([row])
    for name in ("naive", "aware"):
        column = table.column(name)
        kind = pa.timestamp("ns", column.type.tz)
        table = table.set_column(table.schema.get_field_index(name), name, column.cast(kind))
    pq.write_table(table, tmp_path / "x.parquet")

    assert read(ParquetItems(tmp_path / "x.parquet")) == [row]


def test_a_row_with_nanoseconds_alone_is_broken(tmp_path: Path) -> None:
    times = pa.array([1_000, 2_001, 3_000, 4_000, 5_999], pa.timestamp("ns"))
    pq.write_table(pa.table({"at": times}), tmp_path / "times.parquet")

    rows = read(ParquetItems(f"{tmp_path}/times.parquet"), size=5)

    assert [isinstance(row, BrokenItem) for row in rows] == [False, True, False, False, True]
    assert "times.parquet: Casting from timestamp[ns] to timestamp[us] would lose data" in str(rows[1].error)
    assert rows[2] == {"at": datetime(1970, 1, 1, microsecond=3)}  # noqa: DTZ001


def test_a_batch_reads_its_own_row_groups_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": range(100)}), tmp_path / "x.parquet", row_group_size=10)
    source = ParquetItems(tmp_path / "x.parquet")
    cut = plan(source, 15)[2]  # rows 30 to 44
    with mock.patch.object(
        pq.ParquetFile, "iter_batches", autospec=True, side_effect=pq.ParquetFile.iter_batches
    ) as read_groups:
        assert [row["x"] for row in source.read(cut.places)] == list(range(30, 45))

    assert read_groups.call_args.kwargs["row_groups"] == [3, 4]


def test_columns_may_be_chosen(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": [2], "id": ["x"]}), tmp_path / "x.parquet")
    source = ParquetItems(tmp_path / "x.parquet", columns=["b"], name="id")

    assert (read(source), names(source)) == ([{"b": 2}], ["x"])


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        pytest.param(
            [{"x": [1]}, {"x": ["1"], "y": [2]}],
            {},
            r"0\.parquet and .*1\.parquet: 'x' is int64 and string, 'y' is not there and int64",
            id="other columns",
        ),
        pytest.param([{"x": [1]}], {"columns": ["y"]}, "no column 'y'; there are 'x'", id="no such column"),
        pytest.param([{"x": [1]}], {"name": "y"}, "no column 'y'; there are 'x'", id="no such name"),
        pytest.param([{"x": [1, None]}], {"name": "x"}, r"0\.parquet row 2: .*found NULL", id="NULL"),
        pytest.param(
            [{"x": [1]}, {"x": [1]}],
            {"name": "x"},
            r"'1' twice: .*0\.parquet row 1 and .*1\.parquet row 1",
            id="a name that comes twice",
        ),
    ],
)
def test_files_that_can_not_be_used_are_refused(
    files: list[Any], arguments: Any, message: str, tmp_path: Path
) -> None:
    for number, columns in enumerate(files):
        pq.write_table(pa.table(columns), tmp_path / f"{number}.parquet")
    with pytest.raises(ItemsError, match=message):
        plan(ParquetItems(tmp_path / "*.parquet", **arguments))


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and so on")
    with pytest.raises(ItemsError, match=r"x\.parquet is no Parquet file"):
        plan(ParquetItems(tmp_path / "x.parquet"))


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r'pip install "airflow-fanout\[storage\]"'):
        plan(ParquetItems(tmp_path / "x.parquet"))


@pytest.mark.parametrize(
    ("columns", "error"),
    [("ab", DeclarationTypeError), ([1], DeclarationTypeError), ([], DeclarationValueError)],
)
def test_columns_are_a_list_of_names(columns: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="ParquetItems: columns: "):
        ParquetItems("x.parquet", columns=columns)
