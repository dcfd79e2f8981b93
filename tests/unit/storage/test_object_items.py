from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import ObjectStoragePath

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, StorageError
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.storage import CsvItems, ObjectItems
from airflow_fanout.storage.objects import version_of
from tests.unit.storage.plans import names, plan, read

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b/2.csv", "a#1?.csv", "b/c/3.csv", "b/x.txt", "b/c/empty/"):
        (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            (tmp_path / "raw" / name).write_text("content of " + name)
    return tmp_path / "raw"


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.csv", ["a#1?.csv"]),
        ("**/*.csv", ["a#1?.csv", "b/2.csv", "b/c/3.csv"]),
        ("b/[0-9].csv", ["2.csv"]),
        ("b/*", ["2.csv", "x.txt"]),
        ("*/c/*.csv", ["b/c/3.csv"]),
        ("b/x.txt", ["x.txt"]),
        ("none/*.csv", []),
    ],
)
def test_objects_are_named_by_what_is_below_the_fixed_part(
    pattern: str, found: list[str], folder: Path
) -> None:
    assert names(ObjectItems(f"file://{folder}/{pattern}")) == found


@pytest.mark.parametrize("as_path", [str, "file://{}".format, ObjectStoragePath], ids=["text", "URL", "path"])
def test_an_item_is_a_path_that_can_be_read(as_path: Any, folder: Path) -> None:
    items = read(ObjectItems(as_path(f"{folder}/**/*.csv")))

    assert all(isinstance(item, ObjectStoragePath) for item in items)
    expected = [f"content of {name}" for name in ("a#1?.csv", "b/2.csv", "b/c/3.csv")]
    assert [item.read_text() for item in items] == expected


def test_a_relative_path_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    assert names(ObjectItems("b/**/*.csv")) == ["2.csv", "c/3.csv"]


def test_batches_are_cut_by_bytes_too(tmp_path: Path) -> None:
    for number, size in enumerate([10, 10, 30, 5, 5, 5]):
        (tmp_path / f"{number}").write_bytes(b"x" * size)
    cuts = plan(ObjectItems(f"{tmp_path}/*", max_bytes_per_task=20), 6)

    assert [cut.names for cut in cuts] == [["0", "1"], ["2"], ["3", "4", "5"]]
    assert [cut.count for cut in plan(ObjectItems(f"{tmp_path}/*", max_bytes_per_task=20), 1)] == [1] * 6


def test_what_has_changed_or_vanished_fails_alone(folder: Path) -> None:
    source = ObjectItems(f"{folder}/**/*.csv")
    (cut,) = plan(source, 3)
    (folder / "a#1?.csv").write_text("more than there was before")
    (folder / "b/2.csv").unlink()
    changed, vanished, fine = source.read(cut.places)

    assert isinstance(changed, BrokenItem)
    assert "a#1?.csv: it has changed since split planned it: it was 19 bytes" in str(changed.error)
    assert str(vanished.error) == f"{folder}/b/2.csv: it has vanished since split planned it"
    assert fine == ObjectStoragePath(f"{folder}/b/c/3.csv")


def test_rows_of_what_has_changed_fail_and_no_others(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.csv").write_text(f"x\n{name}1\n{name}2\n")
    source = CsvItems(f"{tmp_path}/*.csv")
    (cut,) = plan(source, 6)
    (tmp_path / "a.csv").open("a").write("a3\n")
    info = (tmp_path / "b.csv").stat()
    (tmp_path / "b.csv").write_text("x\nB1\nB2\n")
    os.utime(tmp_path / "b.csv", (info.st_atime, info.st_mtime + 1))
    items = source.read(cut.places)

    assert [str(item.error).partition(": ")[0] for item in items[:4]] == [
        *[f"{tmp_path}/a.csv"] * 2,
        *[f"{tmp_path}/b.csv"] * 2,
    ]
    assert items[4:] == [{"x": "c1"}, {"x": "c2"}]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("{}/none.csv", "none.csv: FileNotFoundError", id="no such object"),
        pytest.param("{}/b", "it is a folder; name the objects in it", id="a folder"),
        pytest.param("nope://x/y", "nope://x/y: ValueError: .*nope", id="no such storage"),
    ],
)
def test_what_the_storage_refuses_names_the_path(path: str, message: str, folder: Path) -> None:
    with pytest.raises(StorageError, match=message):
        plan(ObjectItems(path.format(folder)))


@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"ETag": '"abc"', "size": 3}, "abc"),
        ({"etag": "abc", "size": 3}, "abc"),
        ({"size": 3, "mtime": 5.5}, "3 bytes, 5.5"),
        ({"size": 3}, "3 bytes, None"),
    ],
)
def test_a_version_is_the_etag_or_size_and_time(info: Any, version: str) -> None:
    assert version_of(info) == version


@pytest.mark.parametrize(
    ("limit", "error"),
    [("1", DeclarationTypeError), (True, DeclarationTypeError), (0, DeclarationValueError)],
)
def test_a_limit_of_bytes_is_a_number_above_zero(limit: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="ObjectItems: max_bytes_per_task: expected"):
        ObjectItems("raw/*", max_bytes_per_task=limit)
