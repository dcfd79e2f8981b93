from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar
from unittest import mock

import pytest
from airflow.sdk import DAG, TaskGroup, XComArg, task
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout import FanOutGroup
from airflow_fanout.exceptions import ItemsError
from airflow_fanout.operators.split import NOT_OF_BRANCHES, SplitOperator
from airflow_fanout.rules.records import SPLIT_KEY
from tests.unit.fake_batch import task_instance


def work(item: str = "") -> str:
    return item


@task
def load() -> list[Any]:
    return []


def split(*, found: Any = None, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """What it returns, and what it pushes of each batch."""
    operator = SplitOperator(task_id="split", **arguments)
    if found is not None:
        operator.items = mock.Mock(spec=XComArg)
        operator.items.resolve.return_value = found
    ti: Any = task_instance()
    context: Any = {"ti": ti}
    with mock.patch.object(ExecutorSafeguard, "test_mode", new=True):
        value = operator.execute(context)
    pushed = {call.args[0]: call.args[1] for call in ti.xcom_push.call_args_list}
    assert pushed.pop(SPLIT_KEY, None) == (str(ti.id) if operator.items_per_task is not None else None)
    return value, pushed


@pytest.mark.parametrize(
    ("count", "indexes"), [(3, [0, 1, 2]), (0, []), ("2", [0, 1]), (" 2 ", [0, 1])], ids=repr
)
def test_a_count_is_an_index_for_each(count: object, indexes: list[int]) -> None:
    assert split(count=count) == (indexes, {})


@pytest.mark.parametrize(
    ("count", "why"),
    [
        pytest.param(True, "found True of type bool", id="bool"),
        pytest.param(2.0, "found 2.0 of type float", id="float"),
        pytest.param("many", "found 'many' of type str", id="text"),
        pytest.param(None, "found None of type NoneType", id="None"),
        pytest.param([1], r"found \[1\] of type list", id="list"),
        pytest.param(-1, "expected 0 or more branches, found -1", id="negative"),
    ],
)
@pytest.mark.parametrize("size", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
def test_what_is_no_count_is_said(count: object, why: str, size: Any) -> None:
    with pytest.raises(ItemsError, match=f"count: .*{why}"):
        split(count=count, **size)


def test_items_are_pushed_batch_by_batch() -> None:
    places, pushed = split(found=["a", "b", "c"], items_per_task=2)

    assert places == [[0, 2], [2, 3]]
    assert pushed == {
        "batch_0": {"names": None, "items": ["a", "b"]},
        "batch_1": {"names": None, "items": ["c"]},
    }


def test_a_mapping_takes_its_names_along() -> None:
    _, pushed = split(found={"x": "X", "y": "Y", "z": "Z"}, items_per_task=2)

    assert pushed == {
        "batch_0": {"names": ["x", "y"], "items": ["X", "Y"]},
        "batch_1": {"names": ["z"], "items": ["Z"]},
    }


@pytest.mark.parametrize(
    ("make", "items"),
    [
        pytest.param(lambda items: items.zip(items), [(1, 1), (2, 2), (3, 3)], id="zip"),
        pytest.param(
            lambda items: items.zip(items.map(str).concat(items), fillvalue=0),
            [(1, "1"), (2, "2"), (3, "3"), (0, 1), (0, 2), (0, 3)],
            id="zip of a concat, filled",
        ),
        pytest.param(lambda items: items.concat(items), [1, 2, 3, 1, 2, 3], id="concat"),
        pytest.param(lambda items: items.map(str).concat(items), ["1", "2", "3", 1, 2, 3], id="map in it"),
        pytest.param(lambda items: items.map(str), [1, 2, 3], id="map, which is for the batches to apply"),
    ],
)
@pytest.mark.usefixtures("dag")
def test_what_airflow_makes_of_several_outputs_is_cut_item_by_item(make: Any, items: list[Any]) -> None:
    made = make(load())
    with mock.patch.object(PlainXComArg, "resolve", return_value=[1, 2, 3]):
        places, pushed = split(items=made, items_per_task=2)

    assert [item for payload in pushed.values() for item in payload["items"]] == items
    assert places[-1][1] == len(items)


@pytest.mark.parametrize("found", ["text", 3, [{1}][0], {"": 1}, {1: 2}], ids=repr)
def test_what_is_no_list_is_said_before_anything_is_pushed(found: object) -> None:
    with pytest.raises(ItemsError, match="items: expected"):
        split(found=found, items_per_task=2)


def test_too_many_branches_are_said_to_need_batches() -> None:
    with pytest.raises(ItemsError, match=r"1025 branches.* than the 1024 .*; give items_per_task= or raise"):
        split(count=1025)


def test_too_many_batches_are_said_to_need_larger_ones() -> None:
    with pytest.raises(ItemsError, match=r"1025 batches of 2 items, .*; raise items_per_task= or raise"):
        split(count=2049, items_per_task=2)


def test_too_many_batches_push_nothing() -> None:
    operator = SplitOperator(task_id="split", items_per_task=1)
    operator.items = mock.Mock(spec=XComArg)
    operator.items.resolve.return_value = list(range(1025))
    context: Any = {"ti": task_instance()}

    with mock.patch.object(ExecutorSafeguard, "test_mode", new=True), pytest.raises(ItemsError):
        operator.execute(context)
    context["ti"].xcom_push.assert_not_called()


@given(total=st.integers(0, 500), size=st.integers(1, 60))
def test_batches_are_contiguous_full_and_complete(total: int, size: int) -> None:
    places, _ = split(count=total, items_per_task=size + 1)
    edges = [0, *(stop for _, stop in places)]

    assert [start for start, _ in places] == edges[:-1]
    assert edges[-1] == total
    assert all(stop - start == size + 1 for start, stop in places[:-1])
    assert all(0 < stop - start <= size + 1 for start, stop in pairwise(edges) if stop != start)
    assert len(places) == -(-total // (size + 1))


class TestSettings:
    OF_BRANCHES: ClassVar = {
        "pool": "small",
        "queue": "gpu",
        "execution_timeout": None,
        "max_active_tis_per_dag": 2,
    }

    def test_what_the_group_says_of_its_branches_is_not_taken(self, dag: DAG) -> None:
        of_group: Any = {**self.OF_BRANCHES, "retries": 3}
        FanOutGroup("g", branch=work, count=4, items_per_task=2, default_args=of_group)
        its, each = dag.get_task("g.split"), dag.get_task("g.each")

        assert (its.pool, its.queue, its.max_active_tis_per_dag) == ("default_pool", "default", None)
        assert (each.pool, each.queue, each.max_active_tis_per_dag) == ("small", "gpu", 2)
        assert its.retries == 3  # which holds for any task

    def test_what_is_said_around_the_group_is(self) -> None:
        near: Any = {"pool": "near"}
        small: Any = {"pool": "small", "queue": "gpu"}
        with DAG("d", schedule=None, default_args={"queue": "far", "pool": "pool_of_dag"}) as dag:
            with TaskGroup("outer", default_args=near):
                FanOutGroup("g", branch=work, count=dag.param("n", 3), default_args=small)
            its = dag.get_task("outer.g.split")

        assert (its.pool, its.queue) == ("near", "far")

    def test_it_pushes_whatever_the_branches_do(self, dag: DAG) -> None:
        no_push: Any = {"do_xcom_push": False}
        FanOutGroup("g", branch=work, count=dag.param("n", 3), default_args=no_push)

        its: Any = dag.get_task("g.split")
        assert its.do_xcom_push

    def test_each_of_them_is_a_setting_of_airflow(self) -> None:
        import inspect

        from airflow.sdk import BaseOperator

        assert set(NOT_OF_BRANCHES) <= set(inspect.signature(BaseOperator.__init__).parameters)

    def test_it_waits_for_what_gives_the_items(self, dag: DAG) -> None:
        FanOutGroup("g", branch=work, items=load(), items_per_task=2)

        assert dag.get_task("g.split").upstream_task_ids == {"load"}
        assert dag.get_task("g.each").upstream_task_ids == {"g.split"}
