from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import math
import threading
from decimal import Decimal
from typing import Any
from unittest import mock

import httpx
import msgspec
import pytest
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.execution_time.comms import SetXCom, XComResult, _RequestFrame, _ResponseFrame
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.execution_time.transport import UnstorableValueError, stored_value

WHEN = dt.datetime(2024, 1, 2, tzinfo=dt.UTC)


@dataclasses.dataclass
class Point:
    x: Any


class Kind(enum.Enum):
    ONE = 1


class Rude:
    """What raises something of its own when it is serialized."""

    def serialize(self) -> Any:
        message = "rude"
        raise KeyError(message)


def nested(depth: int, kind: type[Any] = list) -> Any:
    value = kind()
    for _ in range(depth):
        value = kind([value])
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


def read_back(value: Any) -> Any:
    """Send a value as a task and its supervisor do, and read it as another task and its supervisor do."""
    message = SetXCom(
        key="return_value", value=BaseXCom.serialize_value([value]), dag_id="d", run_id="r", task_id="t"
    )
    frame = bytes(_RequestFrame(id=1, body=message.model_dump()).as_bytes()[4:])
    sent = SetXCom.model_validate(msgspec.msgpack.Decoder(_RequestFrame).decode(frame).body).value
    body = httpx.Request("POST", "http://localhost", json=sent).content
    stored = json.dumps(json.loads(body), allow_nan=False)
    answer = XComResult.model_validate_json(f'{{"key": "return_value", "value": {stored}}}')
    frame = bytes(_ResponseFrame(id=1, body=answer.model_dump()).as_bytes()[4:])
    read = XComResult.model_validate(msgspec.msgpack.Decoder(_ResponseFrame).decode(frame).body)
    return BaseXCom.deserialize_value(read)[0]


def refusal(value: Any) -> str | None:
    try:
        stored_value(value)
    except UnstorableValueError as error:
        return str(error)
    return None


TEXTS = st.text(st.characters(exclude_categories=())) | st.sampled_from(["__classname__", "__type", "__var"])
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.integers(-(2**66), 2**66) | st.floats() | TEXTS
) | st.sampled_from([WHEN, Decimal("0.1"), Decimal("0.12345678901234567890"), {1}, b"x", Kind.ONE])
VALUES = st.recursive(
    LEAVES,
    lambda members: (
        st.lists(members, max_size=3)
        | st.lists(members, max_size=3).map(tuple)
        | st.dictionaries(TEXTS | st.integers(), members, max_size=3)
    ),
    max_leaves=8,
)


@given(value=VALUES)
def test_a_value_is_refused_exactly_if_airflow_changes_or_refuses_it(value: Any) -> None:
    try:
        comes_back = bool(read_back(value) == value)
    except Exception:
        comes_back = False
    problem = refusal(value)

    assert (problem is None) == comes_back or "PostgreSQL" in str(problem)
    assert problem is not None or stored_value(value) == value


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        pytest.param(math.nan, "NaN can't be stored in an XCom", id="NaN"),
        pytest.param({"loss": math.nan}, "NaN at ['loss'] can't be stored in an XCom", id="NaN-in-a-dict"),
        pytest.param([1, (2, math.inf)], "infinity at [1][1] can't be stored in an XCom", id="infinity"),
        pytest.param({"a": {"b": [-math.inf]}}, "-infinity at ['a']['b'][0] can't", id="minus-infinity"),
        pytest.param({"id": 2**64}, "an int beyond 64 bits at ['id'] can't be stored", id="a-large-int"),
        pytest.param([-(2**63) - 1], "an int beyond 64 bits at [0] can't be stored", id="a-small-int"),
        pytest.param(
            {"x": 1e22}, "at ['x'] can't be stored in an XCom: OverflowError: PostgreSQL", id="1e22"
        ),
        pytest.param(["\ud800"], "a lone surrogate at [0] can't be stored in an XCom", id="a-surrogate"),
        pytest.param(
            ["\\\0"], "a zero character at [0] can't be stored in an XCom: ValueError: Postgre", id="zero"
        ),
        pytest.param({"\0": WHEN}, "a zero character at ['\\x00'] can't be stored", id="zero-in-a-name"),
        pytest.param({"\ud800": 1}, "a lone surrogate at ['\\ud800'] can't", id="a-surrogate-in-a-name"),
        pytest.param(
            {"m": object()}, "a value of type object at ['m'] can't be stored in an XCom: ", id="object"
        ),
        pytest.param(Rude(), "a value of type Rude can't be stored in an XCom: KeyError: 'rude'", id="rude"),
        pytest.param(Point(math.nan), "NaN at .x can't be stored in an XCom", id="NaN-in-a-dataclass"),
        pytest.param(Point(1), "was not found in allow list for deserialization", id="not-allowed"),
        pytest.param({"__classname__": 1}, "reserved key __classname__", id="a-name-of-airflows"),
        pytest.param(
            {"a": {1: 2}},
            "the key 1 of type int at ['a'] comes back from an XCom as '1'",
            id="a-key-that-is-no-text",
        ),
        pytest.param(
            [Decimal("0.12345678901234567890")],
            "of type Decimal at [0] comes back from an XCom as Decimal('0.12345678901234568')",
            id="digits-that-are-lost",
        ),
        pytest.param(
            nested(199), "can't be stored in an XCom: ValidationError", id="deeper-than-it-can-be-read"
        ),
        pytest.param(nested(100_000), "can't be stored in an XCom: RecursionError", id="very-deep"),
        pytest.param(CYCLE, "can't be stored in an XCom: RecursionError", id="a-cycle"),
        pytest.param([WHEN] * 5_000 + [math.nan], "NaN at [5000] can't be stored", id="one-among-many"),
    ],
)
def test_a_problem_says_what_it_is_and_where(value: Any, problem: str) -> None:
    assert problem in str(refusal(value))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(2**64 - 1, id="the-largest-int"),
        pytest.param(-(2**63), id="the-smallest-int"),
        pytest.param("a\\0é日\\u0000", id="any-text"),
        pytest.param({"t": (1, (WHEN, {2, 3}))}, id="types-that-airflow-serializes"),
        pytest.param((1e16, 0.1, -0.0), id="floats-in-a-tuple"),
        pytest.param(nested(198), id="as-deep-as-can-be-read"),
        pytest.param(nested(60, tuple), id="deep-tuples"),
    ],
)
def test_what_comes_back_is_stored(value: Any) -> None:
    assert stored_value(value) == value == read_back(value)


def test_a_stored_value_is_out_of_reach_of_whoever_made_it() -> None:
    value: dict[str, Any] = {"tags": ["a"], "pair": ([1], WHEN)}
    stored = stored_value(value)
    value["tags"].append("b")
    value["pair"][0].append(2)

    assert stored == {"tags": ["a"], "pair": ([1], WHEN)}


class TestAnXComBackend:
    @pytest.fixture(autouse=True)
    def backend(self, request: pytest.FixtureRequest) -> Any:
        backend = type(request.param, (BaseXCom,), {})
        with mock.patch("airflow.sdk.execution_time.xcom.XCom", backend):
            yield

    @pytest.mark.parametrize("backend", ["XComObjectStorageBackend"], indirect=True)
    def test_of_object_storage_has_the_same_limits(self) -> None:
        """Below its threshold, values go into the database."""
        with pytest.raises(UnstorableValueError, match="object can't be stored"):
            stored_value(object())

    @pytest.mark.parametrize("backend", ["PickledXCom"], indirect=True)
    def test_of_somebody_else_may_store_anything(self) -> None:
        value, lock = Point([math.nan]), threading.Lock()
        stored = stored_value(value)
        value.x.append(1)

        assert len(stored.x) == 1
        assert stored_value(lock) is lock
