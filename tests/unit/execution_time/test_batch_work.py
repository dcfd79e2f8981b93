from __future__ import annotations

import threading
from typing import Any

import pytest

from airflow_fanout.execution_time.arguments import NO_ITEM, FunctionArguments
from airflow_fanout.execution_time.batch_work import BatchWork


def work_of(*, gives_index: bool = False, **functions: Any) -> BatchWork:
    """The work of a group of these functions; ``only`` stands for the name of the only one."""
    arguments = {
        "" if name == "only" else name: FunctionArguments(
            owner="owner", argument="branch", function=function, bound={}
        )
        for name, function in functions.items()
    }
    return BatchWork(functions=arguments, known_items=None, gives_index=gives_index)


def plain(item: Any = None) -> Any:
    return item


async def on_loop(item: Any = None) -> Any:
    return item


def count_items(*items: Any) -> int:
    return len(items)


def other(item: Any = None) -> str:
    return "other"


def by_name(*, item: str, ds: str) -> list[str]:
    return [item, ds]


@pytest.mark.parametrize(
    ("functions", "items", "values"),
    [
        pytest.param({"only": count_items}, [None, NO_ITEM], [1, 0], id="None is an item, no item is none"),
        pytest.param({"only": by_name}, ["a"], [["a", "today"]], id="a keyword-only item, and the context"),
        pytest.param(
            {"a": plain, "b": other}, [NO_ITEM, NO_ITEM], [None, "other"], id="each name its own function"
        ),
        pytest.param(
            {"only": lambda index: index, "gives_index": True}, [NO_ITEM] * 2, [4, 5], id="an index"
        ),
    ],
)
def test_an_item_is_given_to_its_function(functions: Any, items: list[Any], values: list[Any]) -> None:
    work = work_of(**functions)
    bound: dict[str, dict[str, Any]] = {name: {} for name in work.functions}
    call = work.calls(
        list(work.functions), items, indexes=range(4, 4 + len(items)), bound=bound, context={"ds": "today"}
    )

    assert [call(index) for index in range(len(items))] == values


def test_the_log_names_arguments_that_items_share_because_they_can_not_be_copied(
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = {"lock": threading.Lock(), "names": ["a"]}
    work = work_of(only=lambda lock, names: (lock, names))

    call = work.calls(["n_0", "n_1"], [NO_ITEM] * 2, indexes=range(2), bound={"": given}, context={})
    (first_lock, first_names), (second_lock, second_names) = call(0), call(1)
    assert (first_lock is second_lock, first_names is second_names) == (True, False)
    assert caplog.messages == ["<lambda>: 'lock' can't be copied, so all items of this task share it"]


@pytest.mark.parametrize(
    ("functions", "names", "expected"),
    [
        pytest.param({"only": plain}, ["n_0"], None, id="a plain function"),
        pytest.param({"only": on_loop}, ["n_0", "n_1"], [True, True], id="an async one"),
        pytest.param({"a": plain, "b": on_loop}, ["a", "b"], [False, True], id="one of several"),
        pytest.param({"a": plain, "b": on_loop}, ["a"], None, id="none in this batch"),
    ],
)
def test_it_knows_which_items_are_async(functions: Any, names: list[str], expected: Any) -> None:
    is_async = work_of(**functions).is_async(names)

    assert (is_async and [is_async(index) for index in range(len(names))]) == expected
