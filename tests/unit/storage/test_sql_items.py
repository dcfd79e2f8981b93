from __future__ import annotations

import ipaddress
import json
import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, ItemsError, StorageError
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.storage import SqlItems
from airflow_fanout.storage.cells import row_from_json, row_to_json
from tests.unit.storage.plans import names, plan, read

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("database", "storage_path")


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE things (id INT, value)")
        rows = [(number, b"\0" if number % 2 else None) for number in range(5)]
        connection.executemany("INSERT INTO things VALUES (?, ?)", rows)
    monkeypatch.setenv("AIRFLOW_CONN_THINGS", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    monkeypatch.setenv("AIRFLOW_CONN_A_SERVER", json.dumps({"conn_type": "http", "host": "localhost"}))
    return path


def test_items_are_the_rows_of_the_query() -> None:
    items = read(SqlItems("things", "SELECT id, value FROM things ORDER BY id DESC"))

    assert items == [{"id": n, "value": b"\0" if n % 2 else None} for n in (4, 3, 2, 1, 0)]


def test_rows_that_change_after_split_change_no_item(database: Path) -> None:
    source = SqlItems("things", "SELECT id FROM things ORDER BY id")
    cuts = plan(source)
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM things")

    assert [item["id"] for cut in cuts for item in source.read(cut.places)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("parameters", [[2], {"least": 2}], ids=["list", "mapping"])
def test_placeholders_stand_for_parameters(parameters: Any) -> None:
    placeholder = "?" if isinstance(parameters, list) else ":least"
    source = SqlItems("things", f"SELECT id FROM things WHERE id > {placeholder}", parameters)

    assert read(source) == [{"id": 3}, {"id": 4}]


def test_zero_rows_are_no_items(storage_path: Path) -> None:
    assert plan(SqlItems("things", "SELECT * FROM things WHERE 0")) == []
    assert not storage_path.exists()


def test_names_come_from_a_column() -> None:
    assert names(SqlItems("things", "SELECT 'n' || id AS name FROM things", name="name"))[:2] == ["n0", "n1"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(["SELECT 1 AS a, 2 AS a"], ItemsError, "several columns are called 'a'", id="columns"),
        pytest.param(["CREATE TABLE x (y)"], ItemsError, "a query that returns rows", id="no query"),
        pytest.param(["SELEC"], StorageError, "SqlItems things: OperationalError: near", id="no SQL"),
        pytest.param(["SELECT 1 AS a", None, "b"], ItemsError, "no column 'b' .* are 'a'", id="no name"),
        pytest.param(["SELECT NULL AS a", None, "a"], ItemsError, "row 1: .* found NULL", id="NULL"),
        pytest.param(
            ["SELECT 1 AS a UNION ALL SELECT 1", None, "a"], ItemsError, "row 1 and .*row 2", id="twice"
        ),
    ],
)
def test_a_query_that_can_not_be_used_is_refused(
    arguments: list[Any], error: type[Exception], message: str
) -> None:
    sql, parameters, name = [*arguments, None, None][:3]
    with pytest.raises(error, match=message):
        plan(SqlItems("things", sql, parameters, name=name))


@pytest.mark.parametrize(
    ("conn_id", "error", "message"),
    [
        ("nothing", StorageError, "SqlItems nothing: .*nothing"),
        ("a_server", ItemsError, "expected the connection of a database, found HttpHook"),
    ],
)
def test_a_connection_that_is_none_is_refused(conn_id: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plan(SqlItems(conn_id, "SELECT 1"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1, "SELECT 1"), DeclarationTypeError, "SqlItems: conn_id: expected a text, found 1"),
        (("db", " "), DeclarationValueError, "SqlItems: sql: .* found an empty one"),
        (("db", "SELECT 1", "x"), DeclarationTypeError, "SqlItems: parameters: expected a list or a mapping"),
    ],
)
def test_arguments_are_checked_when_the_dag_is_parsed(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        SqlItems(*arguments)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1.5,
        "é\u2028\n",
        float("inf"),
        2**70,
        Decimal("12345678901234567890.1234567890"),
        datetime(2026, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001
        datetime(2026, 1, 2, tzinfo=UTC),
        date(2026, 1, 2),
        time(1, 2, 3),
        timedelta(days=-1, microseconds=1),
        UUID(int=5),
        b"\0\xff",
        [1, [Decimal(2)]],
        (1, {"decimal": Decimal(3)}),
        {"decimal": "no decimal", 1: None},
        ipaddress.ip_network("10.0.0.0/8"),
    ],
    ids=repr,
)
def test_a_piece_keeps_values_as_they_are(value: Any) -> None:
    (read_value,) = row_from_json(row_to_json([value]))

    assert read_value == value
    assert type(read_value) is type(value)


def test_a_value_that_no_piece_can_hold_fails_its_item(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_fanout.storage.cells._TO_JSON", {})
    fine, broken = read(SqlItems("things", "SELECT value FROM things WHERE id < 2 ORDER BY id"))

    assert fine == {"value": None}
    assert isinstance(broken, BrokenItem)
    assert "row 2 can't be written to a piece: TypeError" in str(broken.error)
