"""Items from storage on a real scheduler, of which some change between ``split`` and the batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.airflow import ControlledAirflow

CHANGED = "StoredItemsError: {}: it has changed since split planned it"
VANISHED = "StoredItemsError: {}: it has vanished since split planned it"


@pytest.fixture(scope="module")
def run(airflow: ControlledAirflow, scratch: Path) -> Run:
    connection = {"connection_id": "stored", "conn_type": "sqlite", "host": f"{scratch}/stored.db"}
    airflow.request("POST", "connections", json=connection)
    run = Run.start(airflow, "stored")
    run.wait()
    return run


def test_rows_of_changed_and_vanished_files_fail_by_name_and_no_others(run: Run, scratch: Path) -> None:
    rows = run.collected("collect_rows")
    errors = {name: outcome["error"] for name, outcome in rows.outcomes.items() if outcome["error"]}

    assert list(rows.outcomes) == [f"{file}{number}" for file in "abc" for number in range(4)]
    assert rows.items == [(f"a{number}", f"a\n{number}") for number in range(4)]
    assert all(errors[f"b{n}"].startswith(CHANGED.format(scratch / "stored" / "b.csv")) for n in range(4))
    assert all(errors[f"c{n}"].startswith(VANISHED.format(scratch / "stored" / "c.csv")) for n in range(4))


def test_no_row_is_in_an_xcom(run: Run) -> None:
    plan = run.xcom("rows.split", key="batch_1")

    assert plan.keys() == {"names", "places"}
    assert plan["names"] == ["a3", "b0", "b1"]
    assert [place["count"] for place in plan["places"]] == [1, 2]
    assert run.xcom("parquet.split", key="batch_1")["names"] is None


def test_objects_are_items_by_their_path(run: Run) -> None:
    objects = run.collected("collect_objects")

    assert objects.states == {
        "stored/a.csv": "success",
        "stored/b.csv": "failed",
        "stored/c.csv": "failed",
    }


def test_a_compressed_file_is_read_from_pieces_and_a_broken_line_fails_alone(run: Run) -> None:
    lines = run.collected("collect_lines")

    assert lines.items == [("lines_0", 0), ("lines_1", 1), ("lines_3", 3), ("lines_4", 4)]
    assert "lines.jsonl.gz line 3" in lines.outcomes["lines_2"]["error"]


def test_rows_of_a_query_are_those_of_one_execution(run: Run) -> None:
    assert run.collected("collect_queried").items == [(f"queried_{number}", number) for number in range(5)]


def test_rows_of_parquet_are_read_across_row_groups(run: Run) -> None:
    assert run.collected("collect_parquet").items == [(f"parquet_{number}", number) for number in range(25)]


def test_a_pattern_that_matches_nothing_is_zero_items(run: Run) -> None:
    assert run.collected("collect_nothing").items == []
    assert run.instance("nothing.each").state == "skipped"
