from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_fanout.exceptions import ItemsError
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.storage import JsonLinesItems
from airflow_fanout.storage import lines as lines_module
from tests.unit.storage.plans import names, plan, read

if TYPE_CHECKING:
    from pathlib import Path


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@given(
    values=st.lists(VALUES, max_size=9),
    end=st.sampled_from(["\n", "\r\n", "\n\n", "\n \n"]),
    mark_and_last_end=st.tuples(st.sampled_from(["", "\ufeff"]), st.booleans()),
    size_and_chunk=st.tuples(st.integers(1, 4), st.sampled_from([1, 5, 2**20])),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_items_are_the_values_of_the_lines(
    values: list[Any],
    end: str,
    mark_and_last_end: tuple[str, bool],
    size_and_chunk: tuple[int, int],
    tmp_path: Path,
) -> None:
    mark, is_ended = mark_and_last_end
    size, chunk = size_and_chunk
    lines = [json.dumps(value, ensure_ascii=bool(index % 2)) for index, value in enumerate(values)]
    (tmp_path / "values.jsonl").write_bytes((mark + end.join(lines) + end * is_ended).encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "CHUNK", chunk)
        assert read(JsonLinesItems(tmp_path / "values.jsonl"), size) == values


@pytest.mark.parametrize("name", [None, "id"])
def test_a_broken_line_is_its_own_item_s_error(name: str | None, tmp_path: Path) -> None:
    (tmp_path / "values.jsonl").write_bytes(b'{"id": 1}\n\n{oops\n"\xff"\n{"id": 4}')
    source = JsonLinesItems(tmp_path / "values.jsonl", name=name)
    first, no_json, no_text, last = read(source)

    assert (first, last) == ({"id": 1}, {"id": 4})
    assert isinstance(no_json, BrokenItem)
    assert isinstance(no_json.error, json.JSONDecodeError)
    assert "values.jsonl line 3: Expecting property name" in str(no_json.error)
    assert "values.jsonl line 4" in str(no_text.error)
    path = tmp_path / "values.jsonl"
    assert names(source) == ([] if name is None else ["1", f"{path} line 3", f"{path} line 4", "4"])


def test_a_compressed_file_is_written_to_pieces(tmp_path: Path, storage_path: Path) -> None:
    content = b'\xef\xbb\xbf{"id": 1}\n\n{oops\n3\n'
    (tmp_path / "values.jsonl.gz").write_bytes(gzip.compress(content))
    first, broken, last = read(JsonLinesItems(tmp_path / "values.jsonl.gz"))

    assert (first, last) == ({"id": 1}, 3)
    assert "values.jsonl.gz line 3" in str(broken.error)
    assert len([*storage_path.rglob("*.jsonl")]) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param('{"id": 1}\n{"id": 2}\n{"id": 1}', "'1' twice: .*line 1 and .*line 3", id="twice"),
        pytest.param('{"x": 1, "y": 2}', "line 1: no 'id' .*; there are 'x', 'y'", id="no such member"),
        pytest.param("[]", r"line 1: expected an object with 'id', .*found \[\]", id="no object"),
        pytest.param('{"id": null}', "line 1: expected a name in 'id', found NULL", id="null"),
    ],
)
def test_items_that_can_not_be_named_are_refused_by_place(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "values.jsonl").write_text(content)
    with pytest.raises(ItemsError, match=message):
        plan(JsonLinesItems(tmp_path / "values.jsonl", name="id"))
