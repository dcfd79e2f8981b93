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


def arguments_of(found: Any) -> tuple[FanOutGroup, Any]:
    group = FanOutGroup("process", branch=work, items=load())
    source = mock.Mock(spec=XComArg)
    source.resolve.return_value = found
    arguments = BranchArguments(
        source, [], owner=group.title, noted_names=group.noted_names, shape=lambda item: {"item": item}
    )
    return group, arguments.resolve({})


class TestWhatAnInstanceIsGiven:
    def test_of_a_list_its_item(self) -> None:
        group, given = arguments_of(["a", ["k", "v"]])

        assert (len(given), given[1], given[0:2]) == (
            2,
            {"item": ["k", "v"]},
            [{"item": "a"}, {"item": ["k", "v"]}],
        )
        assert group.branch_name(1) == "process_1"

    def test_of_a_mapping_the_value_alone(self) -> None:
        group, given = arguments_of({"north": "a", "south": None})

        assert given[1] == {"item": None}
        assert group.branch_name(1) == "south"
        assert list(given) == [{"item": "a"}, {"item": None}]

    def test_only_its_own_name_is_noted(self) -> None:
        group, given = arguments_of({"north": "a", "south": "b"})
        assert given[0] == {"item": "a"}

        assert group.noted_names == {0: "north"}
        assert group.branch_name(1) == "1"

    def test_a_name_too_long_for_the_ui_is_cut(self) -> None:
        group, given = arguments_of({"n" * 300: "a"})
        assert given[0] == {"item": "a"}

        assert group.branch_name(0) == "n" * 249 + "…"


@pytest.mark.parametrize("found", [{}, []], ids=repr)
def test_nothing_is_nothing(found: Any) -> None:
    assert [len(part or ()) for part in names_and_items("owner", found)] == [0, 0]


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(None, r"found nothing \(None\)", id="None"),
        pytest.param("abc", "found str", id="text"),
        pytest.param(b"abc", "found bytes", id="bytes"),
        pytest.param({1, 2}, "found set", id="set"),
        pytest.param(3, "found int", id="number"),
        pytest.param({1: "a"}, "expected texts as names, found 1 of type int", id="a number as name"),
        pytest.param({"": "a"}, "expected texts as names, found '' of type str", id="no name"),
    ],
)
def test_what_is_no_list_and_no_mapping_is_said(found: Any, said: str) -> None:
    with pytest.raises(ItemsError, match=f"owner: items: .*{said}"):
        names_and_items("owner", found)
