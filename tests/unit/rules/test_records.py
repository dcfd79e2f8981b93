"""Anybody may push under the key of records: what is read there is a record, or nothing."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules.records import (
    BatchRecord,
    BranchRecord,
    LostRecord,
    Step,
    is_skipped_by,
    read_bounds,
    read_record,
    seconds_of,
)
from airflow_fanout.rules.wording import ERROR_LENGTH

BRANCH = BranchRecord(
    state="success",
    has_value=True,
    map_index=1,
    name="eu",
    seconds=1.5,
    cpu_seconds=0.5,
    peak_memory_bytes=9,
    cores=2,
    read_bytes=0,
    written_bytes=7,
    steps=(Step("load", 1.0), Step("fit", 0.5)),
)
BATCH = BatchRecord(
    map_index=1,
    start=2,
    names=["a", "b"],
    statuses="SF",
    errors={"1": "ValueError: broken"},
    stopped="not started",
    tries={"0": 3},
    seconds=[1.0, None],
    cpu_seconds=[0.5, None],
    peak_memory_bytes=9,
    cores=2,
    concurrency=4,
    parts=3,
    elapsed=3.5,
    rate_wait_seconds=1.5,
    idle_seconds=0.5,
    task_cpu_seconds=0.75,
    read_bytes=5,
    written_bytes=0,
)


@pytest.mark.parametrize("record", [BRANCH, BATCH], ids=["branch", "batch"])
def test_what_was_written_is_read(record: BranchRecord | BatchRecord) -> None:
    assert read_record(json.loads(json.dumps(record.to_xcom()))) == record


def test_tries_are_written_only_where_they_are_not_those_of_the_seconds() -> None:
    assert [BATCH.tries_of(index) for index in range(3)] == [3, None, None]
    once = BATCH._replace(tries={})
    assert "tries" not in once.to_xcom()
    assert [once.tries_of(index) for index in range(3)] == [1, None, None]


@pytest.mark.parametrize(
    "tries",
    [None, [2], "2", {"0": 0}, {"0": True}, {"0": 2.5}, {0: 2}, {str(n): 2 for n in range(3)}],
    ids=repr,
)
def test_tries_that_are_no_numbers_are_not_believed(tries: Any) -> None:
    record = read_record({**BATCH.to_xcom(), "tries": tries})

    assert record == BATCH._replace(tries={})


def test_what_is_not_known_of_a_branch_is_not_written() -> None:
    record = BranchRecord(state="success", has_value=False)

    assert record.to_xcom() == {"state": "success", "has_value": False}


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="nothing"),
        pytest.param("text", id="a text"),
        pytest.param(8, id="a number"),
        pytest.param([{"state": "success"}], id="a list"),
        pytest.param({}, id="empty"),
        pytest.param({"state": ["success"]}, id="a state that is a list"),
        pytest.param({"state": "upstream_failed"}, id="a state that no task records"),
        *(
            pytest.param({**BATCH.to_xcom(), name: value}, id=f"{name}={value!r}")
            for name, value in [
                ("statuses", 5),
                ("statuses", "SSSSSS"),
                ("map_index", None),
                ("map_index", -1),
                ("start", "0"),
                ("errors", None),
                ("errors", ["a"]),
                ("names", ["a.md"]),
                ("names", [["a"], {}]),
                ("seconds", [1.0]),
                ("seconds", 1),
                ("cpu_seconds", None),
            ]
        ),
    ],
)
def test_what_is_not_whole_is_no_record(value: Any) -> None:
    assert read_record(value) is None


def unknown(names: str, *values: Any) -> list[Any]:
    """Fields with values of another shape, each of which is read as None."""
    return [(dict.fromkeys(names.split(), value), dict.fromkeys(names.split(), None)) for value in values]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        *unknown("has_value", "yes", 1),
        *unknown("map_index", -1, "1", {}, True, math.nan, 10**400),
        *unknown("name error", "", 8, ["a"], {"a": 1}),
        *unknown("steps", [], [["a"]], [["a", -1.0]], [[1, 1.0]], {"a": 1.0}, [["a", 1.0]] * 51),
        *unknown("read_bytes written_bytes", "2", -3, True, 2.5, 10**400),
        *unknown("peak_memory_bytes cores", "2", 0, -3, True, 2.5, 10**400),
        *unknown("seconds cpu_seconds", "1", True, -1.0, math.nan, math.inf, {}, 10**400, 1.7e308),
        ({"error": "a\n  \x1b[31mb"}, {"error": "a \\x1b[31mb"}),
        ({"error": "x" * 10**6}, {"error": "x" * (ERROR_LENGTH - 1) + "…"}),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_part_that_is_of_another_shape_is_not_known(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert read_record({**BRANCH.to_xcom(), **fields}) == BRANCH._replace(**expected)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"seconds": [math.nan, -1]}, {"seconds": [None, None]}),
        ({"cpu_seconds": ["1", True]}, {"cpu_seconds": [None, None]}),
        ({"stopped": {"a": 1}}, {"stopped": None}),
        ({"names": None}, {"names": None}),
        ({"statuses": "??"}, {"statuses": "??"}),
        (
            {"elapsed": -1, "task_cpu_seconds": -1, "parts": 0, "cores": "2", "concurrency": 0},
            {"elapsed": None, "task_cpu_seconds": None, "parts": None, "cores": None, "concurrency": None},
        ),
    ],
    ids=repr,
)
def test_a_part_of_a_batchs_record_that_nobody_counts_by_is_not_known(
    fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert read_record({**BATCH.to_xcom(), **fields}) == BATCH._replace(**expected)


@pytest.mark.parametrize("errors", [{"x": "no item"}, {"0": ["no text"]}, {"1": "another item's"}], ids=repr)
def test_an_error_that_is_none_is_nobodys(errors: Any) -> None:
    assert BATCH._replace(errors=errors).error(0) is None


def test_the_successes_of_a_batch_are_known_by_their_indexes() -> None:
    assert BATCH._replace(statuses="SFKXS.").successes == [0, 4]


def test_a_record_that_is_gone_says_where_it_was() -> None:
    assert LostRecord("s3://gone").error == "what it recorded is no longer stored: s3://gone"


@given(value=st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_seconds_are_a_number_of_0_or_more_or_not_known(value: Any) -> None:
    seconds = seconds_of(value)

    assert seconds is None or (seconds == value and 0 <= seconds < math.inf)


@pytest.mark.parametrize(
    ("value", "bounds"),
    [
        pytest.param([], [], id="none"),
        pytest.param([[0, 2, 1], [2, 3, 1]], [(0, 2, 1), (2, 3, 1)], id="whole"),
        *(
            pytest.param(value, None, id=repr(value)[:40])
            for value in [
                None,
                "[[0, 1, 1]]",
                [0, 1],
                [[0, 2]],
                [[0, 2, "1"]],
                [[1, 2, 1]],
                [[0, 2, 1], [1, 3, 1]],
                [[0, 2, 1], [3, 4, 1]],
                [[0, 0, 1]],
                [[0, -1, 1]],
                [[0, 1.5, 1]],
                {"0": [0, 1, 1]},
            ]
        ),
    ],
)
def test_bounds_of_batches_are_whole_or_unknown(value: Any, bounds: Any) -> None:
    assert read_bounds(value) == bounds


@pytest.mark.parametrize(
    ("pushed", "is_skipped"),
    [
        ({"followed": ["other"]}, True),
        ({"followed": []}, True),
        ({"followed": ["each"]}, False),
        ({"skipped": ["each", "combine"]}, True),
        ({"skipped": ["other"]}, False),
        ({"followed": None, "skipped": 1}, False),
        ({}, False),
        (None, False),
    ],
    ids=str,
)
def test_what_a_branching_task_skipped_is_what_it_did_not_follow(pushed: Any, is_skipped: bool) -> None:
    assert is_skipped_by(pushed, "each") == is_skipped
