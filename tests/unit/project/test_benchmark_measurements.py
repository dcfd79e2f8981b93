"""What the larger benchmarks are made of: sizes, storage that waits, rows in the metadata database."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING
from unittest import mock

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.execution_time.xcom import PAGE_SIZE
from airflow_fanout.rules.records import RECORD_KEY
from benchmarks import __main__, in_process, one_process, scale
from benchmarks.finished_instances import FinishedInstances
from benchmarks.in_process_sizes import SECONDS_OF_A_READ
from benchmarks.pairs import Comparison, Pair, Target
from benchmarks.sizes import SIZES, ItemSize, as_text, expected_sum, item_sizes, items_dag_id, ranges
from benchmarks.slow_storage import SlowFileSystem
from benchmarks.twins import DAGS, FAN_IN, REPOSITORY, environment

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import DAG

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


@given(size=sizes)
def test_the_ranges_of_the_tasks_hold_each_item_once(size: ItemSize) -> None:
    held = [index for start, stop in ranges(size) for index in range(start, stop)]

    assert held == list(range(size.count))
    assert len(ranges(size)) == size.tasks


@given(told=st.lists(sizes, min_size=1))
def test_dags_are_told_the_sizes_that_are_measured(told: list[ItemSize]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SIZES, as_text(told))

        assert item_sizes() == told


@given(count=st.integers(0, 500))
def test_the_expected_sum_is_that_of_the_doubled_places(count: int) -> None:
    assert expected_sum(count) == sum(2 * index for index in range(count))


@pytest.mark.parametrize(("pages", "at_most"), [(1, 6), (6, 16), (8, 20)])
def test_requests_may_grow_by_two_a_page(pages: int, at_most: int) -> None:
    assert scale.requests_of_pages(pages) == at_most


def test_a_page_is_what_it_is_in_the_package() -> None:
    assert scale.PAGE_SIZE == PAGE_SIZE


def test_airflow_is_not_imported_where_its_home_is_the_users() -> None:
    told = "import sys, benchmarks.__main__; print(sorted({'airflow', 'airflow.sdk'} & {*sys.modules}))"

    said = subprocess.run([sys.executable, "-c", told], cwd=REPOSITORY, capture_output=True, check=True)

    assert said.stdout == b"[]\n"


def test_what_takes_long_has_to_be_asked_for() -> None:
    assert "scale" not in __main__._options([]).only
    assert __main__._options(["--only", "scale"]).only == ("scale",)


def test_whatever_is_wanted_within_a_process_can_be_measured_there() -> None:
    wanted = [name for names in in_process.WANTED.values() for name in names]

    assert sorted(wanted) == sorted(in_process.ROWS) == sorted(one_process.MEASUREMENTS)


@pytest.mark.parametrize(
    ("at_most", "met"), [pytest.param(3, True, id="just met"), pytest.param(2.9, False, id="missed")]
)
def test_a_target_may_limit_the_difference(at_most: float, met: bool) -> None:
    pairs = (Pair(ours=5, by_hand=2), Pair(ours=50, by_hand=2), Pair(ours=4, by_hand=2))
    target = Target(of="difference", at_most=at_most)

    assert Comparison(name="an item", unit="µs", pairs=pairs, target=target).met is met


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
        found = {
            (row.map_index, row.key): (row.dag_run_id, row.value)
            for row in connection.execute(sa.select(xcoms))
        }
    assert sorted({tuple(row) for row in states}, key=str) == [
        ("earlier", "each", None),
        ("run", "each", "success"),
        ("run", "other", "scheduled"),
    ]
    engine.dispose()
    records = [{"state": "success", "has_value": True, "map_index": index} for index in range(2)]
    assert found == {
        **{(index, "return_value"): (7, index) for index in range(2)},
        **{(index, RECORD_KEY): (7, records[index]) for index in range(2)},
    }


@pytest.fixture(scope="module")
def parsed() -> dict[str, DAG]:
    from airflow.dag_processing.dagbag import DagBag

    found: dict[str, DAG] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment(branches=1, numbers=1), **scale.told_to_dags()}.items():
            patch.setenv(name, value)
        patch.setenv(SIZES, as_text([SIZE]))
        for file in scale.DAG_FILES:
            bag = DagBag(DAGS / file)
            assert bag.import_errors == {}
            found |= bag.dags
    return found


def test_each_size_is_run_with_this_package_and_by_hand(parsed: dict[str, DAG]) -> None:
    wanted = {items_dag_id(SIZE.count, ending) for ending in ("ours", *scale.BY_HAND)}

    assert wanted <= parsed.keys()


def test_every_dag_of_the_scale_has_the_task_that_is_asked(parsed: dict[str, DAG]) -> None:
    assert {dag_id for dag_id, dag in parsed.items() if not dag.has_task(FAN_IN)} == set()


def test_both_sides_of_the_items_count_their_requests_alike(parsed: dict[str, DAG]) -> None:
    fan_ins = [dag.get_task(FAN_IN) for dag_id, dag in parsed.items() if dag_id.startswith("items_")]

    for hook in ("_pre_execute_hook", "_post_execute_hook"):
        hooks = {getattr(fan_in, hook) for fan_in in fan_ins}
        assert len(hooks) == 1
        assert None not in hooks
