from __future__ import annotations

import subprocess
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

import airflow_fanout.storage
from airflow_fanout.exceptions import ItemsError, StorageError
from airflow_fanout.get_provider_info import get_provider_info
from airflow_fanout.storage import CsvItems, JsonLinesItems, ObjectItems, ParquetItems, SqlItems
from airflow_fanout.storage.pieces import Pieces
from tests.unit.storage.plans import PIECES, plan, read

if TYPE_CHECKING:
    from pathlib import Path


def test_a_name_of_the_room_is_imported_when_asked_for() -> None:
    assert set(airflow_fanout.storage.__all__) <= set(dir(airflow_fanout.storage))
    with pytest.raises(AttributeError, match="no attribute 'XmlItems'"):
        airflow_fanout.storage.XmlItems  # noqa: B018


def test_declaring_sources_imports_no_library_of_theirs() -> None:
    code = (
        "import airflow.sdk, sys; from airflow_fanout.storage import *; before = set(sys.modules)\n"
        "CsvItems('s3://raw/*.csv'); ParquetItems('x'); SqlItems('db', 'SELECT 1'); ObjectItems('x')\n"
        "print({'pyarrow', 'fsspec', 'upath', 'sqlite3'} & (sys.modules.keys() - before))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert out.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("source", "needs"),
    [
        (CsvItems("a/*.csv"), False),
        (CsvItems("a/*.csv.gz"), True),
        (JsonLinesItems("a/*.jsonl.zst"), True),
        (ParquetItems("a.parquet.gz"), False),
        (ObjectItems("a/*.gz"), False),
        (SqlItems("db", "SELECT 1"), True),
    ],
    ids=repr,
)
def test_a_source_says_whether_it_needs_pieces(source: CsvItems, needs: bool) -> None:
    assert source.needs_pieces is needs


def test_sources_with_the_same_arguments_are_equal() -> None:
    assert CsvItems("a", delimiter=";") == CsvItems("a", delimiter=";") != CsvItems("a")
    assert repr(CsvItems("a", name="id")) == "CsvItems(path='a', name='id', encoding='utf-8', format={})"


def test_without_a_storage_path_pieces_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.csv.gz").write_bytes(b"")
    with pytest.raises(ItemsError, match=r"x\.csv\.gz can't be cut .*\[fanout\] storage_path"):
        plan(CsvItems(f"{tmp_path}/*.csv.gz"))
    with pytest.raises(ItemsError, match=r"SqlItems nothing .*AIRFLOW__FANOUT__STORAGE_PATH"):
        plan(SqlItems("nothing", "SELECT 1"))


def test_a_later_try_removes_the_pieces_of_the_earlier(storage_path: Path) -> None:
    first = Pieces(*PIECES, try_number=1).write(b"1", ".csv")
    other = Pieces("dag", "another run", "group.split", try_number=1).write(b"2", ".csv")
    second = Pieces(*PIECES, try_number=2).write(b"3", ".csv")

    left = {str(path) for path in storage_path.rglob("*.csv")}
    assert first["path"] not in left
    assert left == {other["path"], second["path"]}


def test_a_storage_that_takes_no_pieces_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("AIRFLOW__FANOUT__STORAGE_PATH", f"{tmp_path}/a file")
    with pytest.raises(StorageError, match=r"a file/items/dag.*: (NotADirectory|FileExists)Error"):
        Pieces(*PIECES, try_number=1).write(b"1", ".csv")


def test_a_lost_piece_fails_its_items(tmp_path: Path, storage_path: Path) -> None:
    import gzip

    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"a\n1\n2\n3\n"))
    source = CsvItems(f"{tmp_path}/x.csv.gz")
    lost, kept = plan(source)
    (storage_path / "items/dag/the%20run/group.split/1/piece-000000.csv").unlink()

    assert all("piece-000000.csv: it has vanished" in str(item.error) for item in source.read(lost.places))
    assert source.read(kept.places) == [{"a": "3"}]
    assert read(source) == [{"a": "1"}, {"a": "2"}, {"a": "3"}]


@pytest.mark.parametrize("name", [None, "id"])
def test_the_memory_of_split_does_not_grow_with_the_rows(
    name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_fanout.storage.lines.CHUNK", 2**16)
    monkeypatch.setattr("airflow_fanout.storage.unique_names.AT_ONCE", 1000)
    peaks = []
    for rows in (1_000, 10_000, 100_000):
        with (tmp_path / "rows.csv").open("w") as file:
            file.write("id,x\n")
            file.writelines(f"row number {number},some text of a row\n" for number in range(rows))
        source = CsvItems(str(tmp_path / "rows.csv"), name=name)
        tracemalloc.start()
        assert sum(cut.count for cut in source.plan(500, Pieces(*PIECES, try_number=1))) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    _, some, many = peaks  # the first has what is imported
    assert many / some < 1.1


def test_airflow_knows_the_setting() -> None:
    assert get_provider_info()["config"]["fanout"]["options"]["storage_path"]["default"] is None
    command = [sys.executable, "-m", "airflow", "config", "list", "--section", "fanout", "--show-values"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert "# storage_path = " in out.splitlines()
