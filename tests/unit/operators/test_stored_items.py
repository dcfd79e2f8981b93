"""Stored items from ``split`` through the batches to the fan-in, without Airflow's server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.bases.operator import ExecutorSafeguard

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, ItemsError
from airflow_fanout.rules.records import RETURN_VALUE
from airflow_fanout.serialization.declaration import DeclaredGroup
from airflow_fanout.storage import CsvItems, JsonLinesItems, ObjectItems, SqlItems
from airflow_fanout.testing import simulate
from tests.unit.fake_batch import run_batch, task_instance

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("dag")


def shout(row: dict[str, str]) -> str:
    return row["x"].upper()


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    (tmp_path / "2026-01-02").mkdir()
    for name, lines in (("a", "id,x\n1,a\n2,b\n"), ("b", "id,x\n3,c\n")):
        (tmp_path / "2026-01-02" / f"{name}.csv").write_text(lines)
    return tmp_path


def split(group: FanOutGroup, **context: Any) -> tuple[Any, dict[str, Any]]:
    """What split returns, and what it pushes."""
    operator: Any = group.dag.get_task(str(group.split_task_id))
    ti = task_instance()
    ti.task_id = operator.task_id
    with mock.patch.object(ExecutorSafeguard, "test_mode", new=True):
        bounds = operator.execute({"ti": ti, **context})
    return bounds, {call.args[0]: call.args[1] for call in ti.xcom_push.call_args_list}


def run(group: FanOutGroup, **context: Any) -> list[Any]:
    """What became of each batch."""
    bounds, pushed = split(group, **context)
    return [
        run_batch(group, *bound, map_index=number, payload=pushed[f"batch_{number}"])
        for number, (*bound, _) in enumerate(bounds)
    ]


def test_batches_read_what_split_has_planned(rows: Path) -> None:
    source = CsvItems(f"{rows}/{{{{ ds }}}}/*.csv")
    group = FanOutGroup("g", branch=shout, items=source, items_per_task=2)
    bounds, pushed = split(group, ds="2026-01-02")

    assert bounds == [[0, 2, 1], [2, 3, 1]]
    assert [pushed[key].keys() for key in ("batch_0", "batch_1")] == [{"names", "places"}] * 2
    assert [ran.pushed[RETURN_VALUE] for ran in run(group, ds="2026-01-02")] == [
        {"g_0": "A", "g_1": "B"},
        {"g_2": "C"},
    ]


def test_named_items_have_their_names_in_the_records(rows: Path) -> None:
    source = CsvItems(f"{rows}/**/*.csv", name="id")
    group = FanOutGroup("g", branch=shout, items=source, items_per_task=2)

    assert [ran.record["names"] for ran in run(group)] == [["1", "2"], ["3"]]


def test_what_has_changed_fails_by_name_and_nothing_else(rows: Path) -> None:
    group = FanOutGroup("g", branch=shout, items=CsvItems(f"{rows}/**/*.csv"), items_per_task=3)
    bounds, pushed = split(group)
    (rows / "2026-01-02" / "b.csv").write_text("id,x\n3,changed\n")
    ran = run_batch(group, *bounds[0][:2], payload=pushed["batch_0"])

    assert ran.pushed[RETURN_VALUE] == {"g_0": "A", "g_1": "B"}
    assert ran.record["errors"]["2"].startswith(f"StoredItemsError: {rows}/2026-01-02/b.csv: it has changed")


def test_a_broken_line_fails_by_name(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"x": "a"}\n{oops\n')
    group = FanOutGroup("g", branch=shout, items=JsonLinesItems(f"{tmp_path}/x.jsonl"), items_per_task=9)
    (ran,) = run(group)

    assert ran.pushed[RETURN_VALUE] == {"g_0": "A"}
    assert ran.record["errors"]["1"].startswith(f"JSONDecodeError: {tmp_path}/x.jsonl line 2: ")


def test_a_path_may_be_the_output_of_a_task(rows: Path, dag: DAG) -> None:
    @task
    def find() -> str:
        return ""

    path: Any = find()
    group = FanOutGroup("g", branch=shout, items=CsvItems(path), items_per_task=5)
    with mock.patch.object(type(path), "resolve", return_value=f"{rows}/**/*.csv"):
        bounds, _ = split(group)

    assert dag.get_task("g.split").upstream_task_ids == {"find"}
    assert bounds == [[0, 3, 1]]


@pytest.mark.parametrize("found", [None, 3, " "])
def test_a_path_that_is_none_is_refused_in_the_run(found: Any, rows: Path) -> None:
    @task
    def find() -> str:
        return ""

    path: Any = find()
    group = FanOutGroup("g", branch=shout, items=CsvItems(path), items_per_task=5)
    operator: Any = group.dag.get_task("g.split")
    with (
        mock.patch.object(type(path), "resolve", return_value=found),
        mock.patch.object(type(operator), "_skip_with_source"),
        pytest.raises(ItemsError, match="CsvItems: path: expected a text that isn't empty, found"),
    ):
        split(group)


def test_a_pattern_that_matches_nothing_is_zero_items(rows: Path) -> None:
    group = FanOutGroup("g", branch=shout, items=ObjectItems(f"{rows}/none/*"), items_per_task=5)

    assert split(group) == ([], {})


def test_more_batches_than_airflow_maps_over_are_refused(rows: Path) -> None:
    (rows / "many.jsonl").write_text("1\n" * 1025)
    group = FanOutGroup("g", branch=shout, items=JsonLinesItems(f"{rows}/many.jsonl"), items_per_task=1)
    with pytest.raises(ItemsError, match="raise items_per_task="):
        split(group)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"items": CsvItems("x")},
            DeclarationValueError,
            "items: found CsvItems, .*give items_per_task= too",
        ),
        (
            {"items": CsvItems("x"), "mapped": True},
            DeclarationValueError,
            "items: .*give items_per_task= too",
        ),
        (
            {"items": CsvItems, "items_per_task": 2},
            DeclarationTypeError,
            r"the class CsvItems; .*CsvItems\(…\)",
        ),
        (
            {"count": CsvItems("x"), "items_per_task": 2},
            DeclarationTypeError,
            "count: expected a whole number",
        ),
    ],
)
def test_where_stored_items_can_not_be_is_said_when_the_dag_is_parsed(
    arguments: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FanOutGroup("g", branch=shout, **arguments)


def test_the_declaration_says_where_items_lie() -> None:
    declared = FanOutGroup("g", branch=shout, items=SqlItems("db", "SELECT 1"), items_per_task=2).declared

    assert (declared.stored_items, declared.needs_pieces, declared.count) == ("SqlItems db", True, None)
    assert DeclaredGroup.from_json(declared.to_json()) == declared
    assert FanOutGroup("h", branch=shout, items=[{}], items_per_task=2).declared.stored_items is None


def test_the_decorator_expands_over_stored_items(rows: Path) -> None:
    @task.fan_out(items_per_task=2)
    def shouted(times: int, row: dict[str, str]) -> str:
        return row["x"] * times

    function: Any = shouted
    group = function.partial(times=2).expand(row=CsvItems(f"{rows}/**/*.csv"))

    assert [ran.pushed[RETURN_VALUE] for ran in run(group)] == [
        {"shouted_0": "aa", "shouted_1": "bb"},
        {"shouted_2": "cc"},
    ]


def test_simulate_is_told_how_many_there_are() -> None:
    group = FanOutGroup("g", branch=shout, items=CsvItems("x.csv"), items_per_task=2)
    fan_in = FanInOperator(task_id="fan_in", fan_out=group, min_success=2)

    assert simulate(fan_in, {"g_1": "failed"}, count=3).state == "degraded"
    with pytest.raises(DeclarationValueError, match="count"):
        simulate(fan_in)


def test_upstream_tasks_of_parameters_are_waited_for(dag: DAG) -> None:
    @task
    def least() -> int:
        return 0

    FanOutGroup("g", branch=shout, items=SqlItems("db", "SELECT 1", [least()]), items_per_task=2)

    assert dag.get_task("g.split").upstream_task_ids == {"least"}
