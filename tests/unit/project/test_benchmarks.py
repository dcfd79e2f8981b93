"""The benchmarks compare like with like, and count right; how long things take is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from functools import partial
from io import StringIO
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import sqlalchemy as sa
from airflow.sdk import TriggerRule
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from airflow_fanout.execution_time.xcom import PAGE_SIZE
from airflow_fanout.rules.records import RECORD_KEY
from benchmarks import __main__, in_process, one_process, scale
from benchmarks.finished_instances import FinishedInstances
from benchmarks.in_process_sizes import SECONDS_OF_A_READ
from benchmarks.pairs import Comparison, Pair, Target, alternated
from benchmarks.scheduled import wall_seconds
from benchmarks.sizes import SIZES, ItemSize, as_text, expected_sum, item_sizes, items_dag_id, ranges
from benchmarks.slow_storage import SlowFileSystem
from benchmarks.table import figures
from benchmarks.twins import DAGS, FAN_IN, FAN_OUT, MAPPED, REPOSITORY, environment

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import DAG

    from benchmarks.twins import Twins

BRANCHES = 12

TABLES = """
CREATE TABLE dag_run (id INTEGER, dag_id TEXT, run_id TEXT);
CREATE TABLE task_instance (
    dag_id TEXT, run_id TEXT, task_id TEXT, map_index INTEGER, state TEXT, try_number INTEGER, duration FLOAT,
    start_date TIMESTAMP, end_date TIMESTAMP, queued_dttm TIMESTAMP
);
CREATE TABLE xcom (
    dag_run_id INTEGER, dag_id TEXT, run_id TEXT, task_id TEXT, map_index INTEGER, "key" TEXT, value JSON,
    timestamp TIMESTAMP, dag_result BOOLEAN
);
INSERT INTO dag_run VALUES (7, 'wide', 'run');
INSERT INTO task_instance (dag_id, run_id, task_id, map_index, state) VALUES
    ('wide', 'run', 'each', 0, 'scheduled'), ('wide', 'run', 'each', 1, NULL),
    ('wide', 'run', 'other', -1, 'scheduled'), ('wide', 'earlier', 'each', 0, NULL)
"""
"""The columns that are written to, of Airflow's own tables."""

SIZE = ItemSize(count=10, items_per_task=4)

sizes = st.builds(ItemSize, count=st.integers(1, 500), items_per_task=st.integers(1, 500))


@pytest.fixture(scope="module")
def parsed() -> dict[str, DAG]:
    from airflow.dag_processing.dagbag import DagBag

    told = {**environment(branches=BRANCHES, numbers=5), **scale.told_to_dags(), SIZES: as_text([SIZE])}
    files = [file for twins in (FAN_OUT, MAPPED) for file in (twins.ours, twins.by_hand)]
    found: dict[str, DAG] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        for file in (*files, *(DAGS / name for name in scale.DAG_FILES)):
            bag = DagBag(file)
            assert bag.import_errors == {}
            found |= bag.dags
    return found


def request_counters(dag: DAG) -> tuple[Any, Any]:
    """The hooks of a fan-in that count its requests."""
    fan_in: Any = dag.get_task(FAN_IN)
    return fan_in._pre_execute_hook, fan_in._post_execute_hook


class TestDags:
    @pytest.mark.parametrize("twins", [FAN_OUT, MAPPED], ids=lambda twins: twins.name)
    def test_twins_have_the_same_tasks_dependencies_and_rule_and_count_requests_alike(
        self, parsed: dict[str, DAG], twins: Twins
    ) -> None:
        ours, by_hand = parsed[twins.ours.stem], parsed[twins.by_hand.stem]

        assert list(ours.task_dict) == list(by_hand.task_dict)
        assert set(ours.task_group_dict) == set(by_hand.task_group_dict)
        for task_id, task in ours.task_dict.items():
            assert task.downstream_task_ids == by_hand.get_task(task_id).downstream_task_ids
        assert {dag.get_task(FAN_IN).trigger_rule for dag in (ours, by_hand)} == {TriggerRule.ALL_DONE}
        assert request_counters(ours) == request_counters(by_hand)
        assert None not in request_counters(ours)

    def test_the_fan_out_has_as_many_branches_as_it_is_told_with_the_same_arguments(
        self, parsed: dict[str, DAG]
    ) -> None:
        for dag in (parsed[FAN_OUT.ours.stem], parsed[FAN_OUT.by_hand.stem]):
            branches: Any = [task for task in dag.tasks if task.task_id != FAN_IN]
            assert {task.task_id for task in branches} == dag.get_task(FAN_IN).upstream_task_ids
            assert [(task.op_args, task.op_kwargs) for task in branches] == [
                ((), {"index": number}) for number in range(BRANCHES)
            ]

    def test_each_size_is_run_with_this_package_and_by_hand_and_both_count_requests_alike(
        self, parsed: dict[str, DAG]
    ) -> None:
        items = {dag_id: dag for dag_id, dag in parsed.items() if dag_id.startswith("items_")}

        assert {items_dag_id(SIZE.count, ending) for ending in ("ours", *scale.BY_HAND)} <= items.keys()
        assert len({request_counters(dag) for dag in items.values()}) == 1
        assert {dag_id for dag_id, dag in parsed.items() if not dag.has_task(FAN_IN)} == set()


class TestSizes:
    @given(size=sizes)
    def test_the_ranges_of_the_tasks_hold_each_item_once(self, size: ItemSize) -> None:
        held = [index for start, stop in ranges(size) for index in range(start, stop)]

        assert held == list(range(size.count))
        assert len(ranges(size)) == size.tasks
        assert expected_sum(size.count) == sum(2 * index for index in held)

    @given(told=st.lists(sizes, min_size=1))
    def test_dags_are_told_the_sizes_that_are_measured(self, told: list[ItemSize]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(SIZES, as_text(told))

            assert item_sizes() == told

    @pytest.mark.parametrize(("pages", "at_most"), [(1, 6), (6, 16), (8, 20)])
    def test_requests_may_grow_by_two_a_page_which_is_that_of_the_package(
        self, pages: int, at_most: int
    ) -> None:
        assert scale.requests_of_pages(pages) == at_most
        assert scale.PAGE_SIZE == PAGE_SIZE


class TestOrder:
    def measured(self, runs: int, *, warm_up: bool) -> tuple[str, list[tuple[str, str]]]:
        order: list[str] = []

        def measure(name: str) -> str:
            order.append(name)
            return name

        pairs = alternated(runs, partial(measure, "o"), partial(measure, "h"), warm_up=warm_up)
        return "".join(order), pairs

    @pytest.mark.parametrize(("warm_up", "order"), [(True, "hoohhooh"), (False, "ohhooh")])
    def test_it_is_swapped_with_every_pair_after_a_warm_up(self, warm_up: bool, order: str) -> None:
        assert self.measured(3, warm_up=warm_up)[0] == order

    @given(runs=st.integers(min_value=1, max_value=20), warm_up=st.booleans())
    def test_every_pair_is_ours_and_by_hand_whatever_came_first(self, runs: int, warm_up: bool) -> None:
        assert self.measured(runs, warm_up=warm_up)[1] == [("o", "h")] * runs


def comparison(*pairs: tuple[float, float], target: Target | None = None, unit: str = "s") -> Comparison:
    measured = tuple(Pair(ours=ours, by_hand=by_hand) for ours, by_hand in pairs)
    return Comparison(name="a run", unit=unit, pairs=measured, target=target)


RATIO, OURS, DIFFERENCE = (
    Target(of="ratio", at_most=1.25),
    Target(of="ours", at_most=67),
    Target(of="difference", at_most=3),
)


class TestComparison:
    def test_the_ratio_is_the_median_of_the_pairs_ratios_and_the_sides_have_medians_of_their_own(
        self,
    ) -> None:
        measured = comparison((3, 2), (30, 40), (22, 20))

        assert measured.ratio == pytest.approx(1.1)
        assert measured.ratio_range == (0.75, 1.5)
        assert (measured.ours, measured.by_hand) == (22, 20)

    def test_a_pair_on_a_busy_machine_does_not_move_the_ratio(self) -> None:
        assert comparison((11, 10), (110, 100), (11, 10)).ratio == pytest.approx(1.1)

    @pytest.mark.parametrize(
        ("pairs", "target", "met"),
        [
            pytest.param([(5, 4), (5, 4), (9, 4)], RATIO, True, id="ratio just met"),
            pytest.param([(5.1, 4), (5.1, 4), (4, 4)], RATIO, False, id="ratio missed"),
            pytest.param([(5, 2), (50, 2), (4, 2)], DIFFERENCE, True, id="difference just met"),
            pytest.param([(5.1, 2), (50, 2), (4, 2)], DIFFERENCE, False, id="difference missed"),
            pytest.param([(67, 64), (67, 1)], OURS, True, id="any ratio"),
            pytest.param([(67, 64), (67, 64), (68, 64)], OURS, False, id="missed once"),
            pytest.param([(9, 1)], None, True, id="none"),
        ],
    )
    def test_a_target_is_met_or_missed(
        self, pairs: list[tuple[float, float]], target: Target | None, met: bool
    ) -> None:
        assert comparison(*pairs, target=target).met is met

    def test_the_table_says_the_ratio_first_and_the_verdict_last(self) -> None:
        shown = StringIO()
        rows = [comparison((0.15, 0.1), target=RATIO), comparison((66, 64), target=OURS, unit="requests")]

        Console(file=shown, width=200).print(figures(rows))

        lines = [line for line in shown.getvalue().splitlines() if "│" in line]
        first, second = ([cell.strip() for cell in line.split("│") if cell.strip()] for line in lines)
        sides = ["1.50 ×", "1.50–1.50", "a run", "150 ms", "100 ms", "1"]
        assert first == [*sides, "≤ 1.25 ×", "missed"]
        assert (second[0], *second[-2:]) == ("1.03 ×", "≤ 67", "met")

    def test_everything_measured_is_in_the_json(self) -> None:
        measured = comparison((3, 2), (2, 2), target=Target(of="ratio", at_most=1))

        assert json.loads(json.dumps(measured.as_json())) == {
            "name": "a run",
            "unit": "s",
            "ratio": 1.25,
            "ratio_range": [1.0, 1.5],
            "ours": {"median": 2.5, "all": [3, 2]},
            "by_hand": {"median": 2.0, "all": [2, 2]},
            "target": {"of": "ratio", "at_most": 1},
            "met": False,
        }


def test_wall_is_from_the_first_queued_task_to_the_last_end() -> None:
    keys = ("queued_when", "start_date", "end_date")
    moments = [
        ("2026-01-01T00:00:02Z", "2026-01-01T00:00:03Z", "2026-01-01T00:00:09Z"),
        ("2026-01-01T00:00:01Z", "2026-01-01T00:00:05Z", "2026-01-01T00:00:06.5Z"),
        (None, None, None),
    ]

    assert wall_seconds([dict(zip(keys, instance, strict=True)) for instance in moments]) == 8


@pytest.mark.parametrize("arguments", [["--only", "walls"], ["--runs", "0"], ["--runs", "many"]])
def test_a_mistyped_option_is_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        __main__.main(arguments)

    assert f"argument {arguments[0]}: expected" in capsys.readouterr().err


def test_what_takes_long_has_to_be_asked_for() -> None:
    assert "scale" not in __main__._options([]).only
    assert __main__._options(["--only", "scale"]).only == ("scale",)


def test_airflow_is_not_imported_where_its_home_is_the_users() -> None:
    told = "import sys, benchmarks.__main__; print(sorted({'airflow', 'airflow.sdk'} & {*sys.modules}))"

    said = subprocess.run([sys.executable, "-c", told], cwd=REPOSITORY, capture_output=True, check=True)

    assert said.stdout == b"[]\n"


def test_whatever_is_wanted_within_a_process_can_be_measured_there() -> None:
    wanted = [name for names in in_process.WANTED.values() for name in names]

    assert sorted(wanted) == sorted(in_process.ROWS) == sorted(one_process.MEASUREMENTS)


def test_a_batch_within_the_process_runs_every_item() -> None:
    batch = one_process.batch_of(one_process.double, SIZE.count)
    one_process.run(batch)

    assert [batch.results[n].value for n in range(SIZE.count)] == [2 * n for n in range(SIZE.count)]


def test_slow_storage_waits_before_each_read_and_never_before_a_write() -> None:
    storage = SlowFileSystem()
    with mock.patch.object(time, "sleep", autospec=True) as sleep:
        with storage.open("slow://bucket/file", "wb") as file:
            file.write(b"value")
        assert sleep.call_args_list == []
        with storage.open("slow://bucket/file", "rb") as file:
            assert file.read() == b"value"

    assert sleep.call_args_list == [mock.call(SECONDS_OF_A_READ)]


def test_instances_are_finished_with_what_they_returned_and_recorded(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'airflow.db'}"
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in TABLES.split(";"):
            connection.execute(sa.text(statement))
    instances = FinishedInstances(engine, dag_id="wide", run_id="run", task_id="each")
    assert instances.count() == 2

    instances.push(2)
    assert [instances.finish(), instances.finish()] == [2, 0]

    with engine.connect() as connection:
        states = connection.execute(sa.text("SELECT run_id, task_id, state FROM task_instance")).all()
        xcoms = sa.Table("xcom", sa.MetaData(), autoload_with=connection)
        rows = connection.execute(sa.select(xcoms)).all()
    assert sorted({tuple(row) for row in states}, key=str) == [
        ("earlier", "each", None),
        ("run", "each", "success"),
        ("run", "other", "scheduled"),
    ]
    engine.dispose()
    pushed = {(row.map_index, row.key): (row.dag_run_id, row.value) for row in rows}
    record = {"state": "success", "has_value": True}
    assert pushed == {
        **{(index, "return_value"): (7, index) for index in range(2)},
        **{(index, RECORD_KEY): (7, {**record, "map_index": index}) for index in range(2)},
    }
