from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, ItemsError
from airflow_fanout.storage import CsvItems
from airflow_fanout.storage import lines as lines_module
from tests.unit.storage.plans import names, plan, read

if TYPE_CHECKING:
    from pathlib import Path


def expected(content: bytes, encoding: str = "utf-8-sig", **of_csv: Any) -> list[Any]:
    text = io.TextIOWrapper(io.BytesIO(content), encoding=encoding, newline="")
    return list(csv.DictReader(text, **of_csv))


CELLS = st.text(st.sampled_from(list("ab,;'\"\r\n \t|\\é😀\u2028\x1c")), max_size=6)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def written(draw: Any) -> tuple[str, dict[str, Any]]:
    """A text that a csv.writer, or nobody, would write; and the format to read it with."""
    of_csv: dict[str, Any] = {
        "delimiter": draw(st.sampled_from([",", ";", "\t"])),
        "quotechar": draw(st.sampled_from(['"', "'"])),
        "doublequote": draw(st.booleans()),
        "skipinitialspace": draw(st.booleans()),
        "escapechar": draw(st.sampled_from([None, "\\"])),
    }
    if draw(st.booleans()):
        return draw(st.text(st.sampled_from(list("ab,;\"'\r\n \\é😀")), max_size=60)), of_csv
    rows = draw(st.lists(st.lists(CELLS, max_size=4), max_size=12))
    file = io.StringIO(newline="")
    quoting = draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
    of_writer = {**of_csv, "escapechar": "\\", "lineterminator": draw(LINE_ENDS)}
    csv.writer(file, quoting=quoting, **of_writer).writerows(rows)
    return file.getvalue().removesuffix(draw(st.sampled_from(["", "\n"]))), of_csv


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-8"]


@given(
    text_and_format=written(),
    encoding=st.sampled_from(ENCODINGS),
    size=st.integers(1, 5),
    chunk=st.sampled_from([1, 3, 7, 2**20]),
)
@example(text_and_format=("a,b\r\n1,2\r\n3,4\r\n", {}), encoding="utf-8", size=1, chunk=1)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_items_are_those_of_a_dict_reader_over_the_whole_file(
    text_and_format: Any, encoding: str, size: int, chunk: int, tmp_path: Path
) -> None:
    text, of_csv = text_and_format
    file = tmp_path / "rows.csv"
    file.write_bytes(text.encode(encoding))
    source = CsvItems(str(file), encoding=encoding, **of_csv)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "CHUNK", chunk)
        assert read(source, size) == expected(file.read_bytes(), encoding, **of_csv)


@pytest.mark.parametrize(
    ("content", "of_csv"),
    [
        pytest.param(b"", {}, id="an empty file"),
        pytest.param(b"a,b", {}, id="a header alone"),
        pytest.param(b"\n\na,b\n1,2\n", {}, id="blank lines before the header"),
        pytest.param(b"a,b\n1,2,3,4\n5\n", {"restkey": "more", "restval": "-"}, id="rows of other lengths"),
        pytest.param(b"1,2\n3,4\n", {"fieldnames": ["a", "b"]}, id="no header"),
        pytest.param(b"\xef\xbb\xbfa,b\n1,2\n", {}, id="a byte-order mark"),
        pytest.param(b'"a","b"\n"x",1\n', {"quoting": csv.QUOTE_NONNUMERIC}, id="numbers"),
        pytest.param(b"a\tb\n1\t2\n", {"dialect": "excel-tab"}, id="a dialect"),
        pytest.param("a,b\né,ß\n".encode("cp1252"), {"encoding": "cp1252"}, id="one byte a character"),
        pytest.param("a,b\n日本,語\n".encode("shift_jis"), {"encoding": "shift_jis"}, id="several bytes"),
        pytest.param("a,b\né,ß\n".encode("cp500"), {"encoding": "cp500"}, id="not even ASCII"),
    ],
)
def test_what_files_look_like(content: bytes, of_csv: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_bytes(content)

    of_reader = {"encoding": "utf-8-sig", **of_csv}
    assert read(CsvItems(tmp_path / "rows.csv", **of_csv)) == expected(content, **of_reader)


def test_files_are_taken_in_order_and_a_batch_may_span_several(tmp_path: Path) -> None:
    for number in (2, 0, 1):
        (tmp_path / f"{number}.csv").write_text(f"a\n{number}1\n{number}2\n{number}3\n")
    (tmp_path / "empty.csv").touch()
    source = CsvItems(f"file://{tmp_path}/*.csv")

    assert [row["a"] for row in read(source, 4)] == [f"{n}{i}" for n in range(3) for i in (1, 2, 3)]
    assert [len(cut.places) for cut in plan(source, 4)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        (".gz", gzip.compress),
        (".bz2", bz2.compress),
        (".xz", lzma.compress),
        (".zst", lambda content: pa.compress(content, "zstd", asbytes=True)),
    ],
)
def test_a_compressed_file_is_written_to_pieces(
    ending: str, compress: Any, tmp_path: Path, storage_path: Path
) -> None:
    content = 'a,b\r\n1,"x\ny"\r\n\r\n2,z\r\n3,"'.encode("utf-16")
    (tmp_path / f"rows.csv{ending}").write_bytes(compress(content))
    source = CsvItems(tmp_path / f"rows.csv{ending}", encoding="utf-16")

    assert read(source) == expected(content, "utf-16")
    assert len([*storage_path.rglob("*.csv")]) == 2


def test_names_come_from_a_column(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,x\na,1\nb,2\nc,3\n")

    assert names(CsvItems(tmp_path / "rows.csv", name="id")) == ["a", "b", "c"]
    assert plan(CsvItems(tmp_path / "rows.csv"))[0].names is None


@pytest.mark.parametrize(
    ("files", "arguments", "message"),
    [
        pytest.param(
            {"a": "id\n1\n2\n3\n", "b": "id\n4\n2\n"},
            {"name": "id"},
            r"found '2' twice: .*a\.csv row 2 and .*b\.csv row 2",
            id="a name that comes twice",
        ),
        pytest.param(
            {"a": "id,x\n"}, {"name": "key"}, "no column 'key' .*; there are 'id', 'x'", id="no column"
        ),
        pytest.param({"a": "id,x\n1\n"}, {"name": "x"}, r"a\.csv row 1: .*'x', found NULL", id="a short row"),
        pytest.param(
            {"a": "id,x\n1,\n"}, {"name": "x"}, r"a\.csv row 1: .* an empty text", id="an empty name"
        ),
        pytest.param(
            {"a": "id\n\0\n"}, {"name": "id"}, "row 1: .*zero character", id="a name of no database"
        ),
        pytest.param(
            {"a": "x,y\n", "b": "y,x\n"},
            {},
            r"a\.csv has 'x', 'y', .*b\.csv has 'y', 'x'",
            id="other headers",
        ),
        pytest.param({"a": 'x\n"1"2\n'}, {"strict": True}, r"a\.csv line \d: Error: ", id="no CSV"),
        pytest.param(
            {"a": "x\né\n"}, {"encoding": "ascii"}, "a.csv line 2: UnicodeDecodeError", id="no text"
        ),
    ],
)
def test_files_that_can_not_be_used_are_refused_by_place(
    files: dict[str, str], arguments: Any, message: str, tmp_path: Path
) -> None:
    for name, content in files.items():
        (tmp_path / f"{name}.csv").write_text(content)
    with pytest.raises(ItemsError, match=message):
        plan(CsvItems(tmp_path / "*.csv", **arguments))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"delimeter": ";"}, DeclarationTypeError, "CsvItems: delimeter: .*did you mean 'delimiter'"),
        ({"delimiter": ";;"}, DeclarationTypeError, "CsvItems: format: .*delimiter"),
        ({"dialect": "mine"}, DeclarationValueError, "CsvItems: format: unknown dialect"),
        ({"encoding": "utf-9"}, DeclarationValueError, "CsvItems: encoding: unknown encoding: utf-9"),
        ({"encoding": None}, DeclarationTypeError, "CsvItems: encoding: expected the name"),
        ({"encoding": "iso2022_jp"}, DeclarationValueError, "CsvItems: encoding: .*use UTF-8"),
        ({"fieldnames": "ab"}, DeclarationTypeError, "CsvItems: fieldnames: expected a list"),
        ({"name": 3}, DeclarationTypeError, "CsvItems: name: expected the name of a column, found 3"),
        ({"name": ""}, DeclarationValueError, "CsvItems: name: .*an empty text"),
        ({"path": 3}, DeclarationTypeError, "CsvItems: path: .*found 3 of type int"),
        ({"path": " "}, DeclarationValueError, "CsvItems: path: .*an empty text"),
    ],
)
def test_arguments_are_checked_when_the_dag_is_parsed(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CsvItems(**{"path": "rows.csv", **arguments})
