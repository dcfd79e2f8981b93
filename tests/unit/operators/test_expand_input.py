from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from airflow.sdk import XComArg, task

from airflow_fanout import FanOutGroup
from airflow_fanout.exceptions import ItemsError
from airflow_fanout.execution_time.items import names_and_items
from airflow_fanout.operators.expand_input import BranchArguments

pytestmark = pytest.mark.usefixtures("dag")


def work(item: Any = None) -> Any:
    return item


@task
def load() -> Any:
    return []


def arguments_of(items: Any) -> tuple[FanOutGroup, Any]:
    """A group over items of run time, and the arguments of its instances."""
    group = FanOutGroup("process", branch=work, items=load())
    source = mock.Mock(spec=XComArg)
    source.resolve.return_value = items
    arguments = BranchArguments(
        source, [], owner=group.title, noted_names=group.noted_names, shape=lambda item: {"item": item}
    )
    return group, arguments.resolve({})


@pytest.mark.parametrize(
    ("items", "names"),
    [
        pytest.param(["a", ["k", "v"], None], ["process_0", "process_1", "process_2"], id="a list"),
        pytest.param({"north": "a", "south": ["k", "v"], "x": None}, ["north", "south", "x"], id="a mapping"),
        pytest.param({"n" * 300: "a"}, ["n" * 249 + "…"], id="a name too long for the UI"),
    ],
)
def test_an_instance_is_given_its_item_and_shows_its_name(items: Any, names: list[str]) -> None:
    group, arguments = arguments_of(items)
    values = list(items.values()) if isinstance(items, dict) else items

    assert (len(arguments), arguments[0:1]) == (len(items), [{"item": values[0]}])
    assert list(arguments) == [{"item": value} for value in values]
    assert [group.branch_name(index) for index in range(len(items))] == names


def test_an_instance_notes_its_own_name_alone() -> None:
    group, arguments = arguments_of({"north": "a", "south": "b"})
    assert arguments[0] == {"item": "a"}

    assert group.noted_names == {0: "north"}
    assert group.branch_name(1) == "1"


@pytest.mark.parametrize("items", [{}, []], ids=repr)
def test_no_items_have_no_names(items: Any) -> None:
    assert [len(part or ()) for part in names_and_items("owner", items)] == [0, 0]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        pytest.param(None, r"found nothing \(None\)", id="None"),
        pytest.param("abc", "found a value of type str", id="text"),
        pytest.param(b"abc", "found a value of type bytes", id="bytes"),
        pytest.param({1, 2}, "found a value of type set", id="set"),
        pytest.param(3, "found a value of type int", id="number"),
        pytest.param({1: "a"}, "expected texts as names, found 1 of type int", id="a number as name"),
        pytest.param({"": "a"}, "expected texts as names, found '' of type str", id="no name"),
    ],
)
def test_what_is_no_list_and_no_mapping_is_refused(value: Any, found: str) -> None:
    with pytest.raises(ItemsError, match=f"owner: items: .*{found}"):
        names_and_items("owner", value)
