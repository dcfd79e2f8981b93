from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any
from unittest import mock

import pytest
from airflow.sdk import DAG, BaseOperator, TaskGroup, XComArg, task
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.exceptions import AirflowSkipException
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout import FanOutGroup
from airflow_fanout.exceptions import ItemsError
from airflow_fanout.operators.split import BRANCH_SETTINGS, SplitOperator
from tests.unit.fake_batch import task_instance


def work(item: str = "") -> str:
    return item


@task
def load() -> list[Any]:
    return []


def split(*, found: Any = None, ti: Any = None, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """What it returns, and what it pushes of each batch."""
    operator = SplitOperator(task_id="split", **arguments)
    if found is not None:
        operator.items = mock.Mock(spec=XComArg)
        operator.items.resolve.return_value = found
    ti = ti or task_instance()
    context: Any = {"ti": ti}
    with mock.patch.object(ExecutorSafeguard, "test_mode", new=True):
        value = operator.execute(context)
    pushed = {call.args[0]: call.args[1] for call in ti.xcom_push.call_args_list}
    return value, pushed


@pytest.mark.parametrize(
    ("count", "indexes"), [(3, [0, 1, 2]), (0, []), ("2", [0, 1]), (" 2 ", [0, 1])], ids=repr
)
def test_a_count_is_an_index_for_each_branch(count: object, indexes: list[int]) -> None:
    assert split(count=count) == (indexes, {})


@pytest.mark.parametrize(
    ("count", "found"),
    [
        pytest.param(True, "found True of type bool", id="bool"),
        pytest.param(2.0, "found 2.0 of type float", id="float"),
        pytest.param("many", "found 'many' of type str", id="text"),
        pytest.param(None, "found None of type NoneType", id="None"),
        pytest.param(-1, "expected 0 or more branches, found -1", id="negative"),
    ],
)
@pytest.mark.parametrize("size", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
def test_what_is_no_count_is_refused(count: object, found: str, size: Any) -> None:
    with pytest.raises(ItemsError, match=f"count: .*{found}"):
        split(count=count, **size)


@pytest.mark.parametrize("gives", ["items", "count"])
@pytest.mark.parametrize(
    ("state", "error"), [("skipped", AirflowSkipException), ("success", ItemsError)], ids=["skipped", "None"]
)
def test_it_is_skipped_with_the_task_that_gives_items_or_count(
    gives: str, state: str, error: type[Exception], dag: DAG
) -> None:
    group = FanOutGroup("g", branch=work, items_per_task=2, **{gives: load()})
    operator: Any = dag.get_task(str(group.split_task_id))
    ti = task_instance()
    row = {"task_id": "load", "map_index": -1, "state": state, "duration": 0.0, "operator": ""}
    ti.dag_id, ti.run_id, ti.get_task_breadcrumbs.return_value = dag.dag_id, "the run", [row]
    if gives == "count":
        operator.count = None  # as rendered

    with (
        mock.patch.object(ExecutorSafeguard, "test_mode", new=True),
        pytest.raises(error, match=r"load|None"),
    ):
        operator.execute({"ti": ti})


@pytest.mark.parametrize(
    ("found", "pushed"),
    [
        pytest.param(
            ["a", "b", "c"],
            {"batch_0": {"names": None, "items": ["a", "b"]}, "batch_1": {"names": None, "items": ["c"]}},
            id="a list",
        ),
        pytest.param(
            {"x": "X", "y": "Y", "z": "Z"},
            {
                "batch_0": {"names": ["x", "y"], "items": ["X", "Y"]},
                "batch_1": {"names": ["z"], "items": ["Z"]},
            },
            id="a mapping",
        ),
    ],
)
def test_items_are_pushed_batch_by_batch_with_their_names(found: Any, pushed: dict[str, Any]) -> None:
    assert split(found=found, items_per_task=2) == ([[0, 2, 1], [2, 3, 1]], pushed)


@pytest.mark.parametrize(
    ("make", "items"),
    [
        pytest.param(lambda items: items.zip(items), [(1, 1), (2, 2), (3, 3)], id="zip"),
        pytest.param(
            lambda items: items.zip(items.map(str).concat(items), fillvalue=0),
            [(1, "1"), (2, "2"), (3, "3"), (0, 1), (0, 2), (0, 3)],
            id="zip of a concat, filled",
        ),
        pytest.param(
            lambda items: items.map(str).concat(items), ["1", "2", "3", 1, 2, 3], id="map in a concat"
        ),
        pytest.param(lambda items: items.map(str), [1, 2, 3], id="map, which is for the batches to apply"),
    ],
)
@pytest.mark.usefixtures("dag")
def test_what_airflow_makes_of_several_outputs_is_cut_item_by_item(make: Any, items: list[Any]) -> None:
    made = make(load())
    with mock.patch.object(PlainXComArg, "resolve", return_value=[1, 2, 3]):
        ranges, pushed = split(items=made, items_per_task=2)

    assert [item for payload in pushed.values() for item in payload["items"]] == items
    assert ranges[-1][1] == len(items)


@pytest.mark.parametrize("gives", ["items", "count"])
def test_batches_tell_which_run_of_the_task_before_was_cut(gives: str, dag: DAG) -> None:
    group = FanOutGroup("g", branch=work, items_per_task=2, **{gives: load()})
    operator: Any = dag.get_task(str(group.split_task_id))
    operator.count = 3 if gives == "count" else None  # as rendered
    ti = task_instance()
    marks: list[str] = []
    for duration in (1.25, 1.25, 1.5):
        row = {"task_id": "load", "map_index": -1, "state": "success", "duration": duration, "operator": ""}
        ti.get_task_breadcrumbs.return_value = [row, row | {"task_id": "other", "duration": duration + 1}]
        with (
            mock.patch.object(ExecutorSafeguard, "test_mode", new=True),
            mock.patch.object(PlainXComArg, "resolve", return_value=["a", "b", "c"]),
        ):
            ranges = operator.execute({"ti": ti})
        assert [cut[:3] for cut in ranges] == [[0, 2, 1], [2, 3, 1]]
        marks += {mark for *_, mark in ranges}

    assert marks[0] == marks[1] != marks[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"found": "text", "items_per_task": 2}, "items: expected", id="no items"),
        pytest.param(
            {"count": 1025},
            "1025 mapped branches are more than the 1024 .*; give items_per_task=",
            id="branches",
        ),
        pytest.param(
            {"found": range(2049), "items_per_task": 2},
            "1025 batches of 2 items are more than the 1024 that .*; raise items_per_task=",
            id="batches",
        ),
    ],
)
def test_what_can_not_be_cut_is_refused_before_anything_is_pushed(arguments: Any, message: str) -> None:
    ti = task_instance()
    with pytest.raises(ItemsError, match=message):
        split(ti=ti, **arguments)

    ti.xcom_push.assert_not_called()


@given(total=st.integers(0, 500), size=st.integers(1, 60))
def test_batches_are_contiguous_full_and_complete(total: int, size: int) -> None:
    ranges, _ = split(count=total, items_per_task=size)
    edges = [0, *(stop for _, stop, _ in ranges)]

    assert [start for start, *_ in ranges] == edges[:-1]
    assert edges[-1] == total
    assert all(stop - start == size for start, stop, _ in ranges[:-1])
    assert all(0 < stop - start <= size for start, stop in pairwise(edges))


class TestSettings:
    def test_settings_that_the_group_gives_its_branches_are_not_taken(self, dag: DAG) -> None:
        default_args: Any = {"pool": "small", "queue": "gpu", "max_active_tis_per_dag": 2, "retries": 3}
        FanOutGroup("g", branch=work, count=4, items_per_task=2, default_args=default_args)
        own, each = dag.get_task("g.split"), dag.get_task("g.each")

        assert (own.pool, own.queue, own.max_active_tis_per_dag) == ("default_pool", "default", None)
        assert (each.pool, each.queue, each.max_active_tis_per_dag) == ("small", "gpu", 2)
        assert own.retries == 3  # which holds for any task

    def test_settings_from_around_the_group_are_taken(self) -> None:
        near: Any = {"pool": "near"}
        small: Any = {"pool": "small", "queue": "gpu"}
        with DAG("d", schedule=None, default_args={"queue": "far", "pool": "pool_of_dag"}) as dag:
            with TaskGroup("outer", default_args=near):
                FanOutGroup("g", branch=work, count=dag.param("n", 3), default_args=small)
            own = dag.get_task("outer.g.split")

        assert (own.pool, own.queue) == ("near", "far")

    def test_it_pushes_whatever_the_branches_do(self, dag: DAG) -> None:
        no_push: Any = {"do_xcom_push": False}
        FanOutGroup("g", branch=work, count=dag.param("n", 3), default_args=no_push)

        own: Any = dag.get_task("g.split")
        assert own.do_xcom_push

    def test_it_waits_for_the_task_that_gives_the_items(self, dag: DAG) -> None:
        FanOutGroup("g", branch=work, items=load(), items_per_task=2)

        assert dag.get_task("g.split").upstream_task_ids == {"load"}
        assert dag.get_task("g.each").upstream_task_ids == {"g.split"}

    def test_settings_of_branches_are_settings_of_airflow(self) -> None:
        assert set(BRANCH_SETTINGS) <= set(inspect.signature(BaseOperator.__init__).parameters)
