from __future__ import annotations

from typing import Any

import pytest

from airflow_fanout.execution_time.arguments import NO_ITEM, FunctionArguments
from airflow_fanout.execution_time.batch_work import BatchWork, BrokenItem


def work_of(*, gives_index: bool = False, **functions: Any) -> BatchWork:
    """What runs these functions; ``only`` stands for the name of the only one."""
    return BatchWork(
        functions={
            "" if name == "only" else name: FunctionArguments(
                owner="owner", argument="branch", function=function, bound={}
            )
            for name, function in functions.items()
        },
        known_items=None,
        gives_index=gives_index,
    )


def plain(item: Any = None) -> Any:
    return item


async def on_loop(item: Any = None) -> Any:
    return item


def called(work: BatchWork, items: list[Any], *, start: int = 0, **bound: Any) -> list[Any]:
    names = list(work.functions) if "" not in work.functions else [f"n_{n}" for n in range(len(items))]
    given = dict.fromkeys(work.functions, bound)
    call = work.calls(names, items, start=start, bound=given, context={"ds": "today"})
    return [call(place) for place in range(len(items))]


def test_none_is_an_item_and_no_item_is_none() -> None:
    def count(*items: Any) -> int:
        return len(items)

    assert called(work_of(only=count), [None, NO_ITEM]) == [1, 0]


def test_an_index_is_the_place_among_all_items() -> None:
    def number(index: int) -> int:
        return index

    assert called(work_of(only=number, gives_index=True), [NO_ITEM] * 2, start=4) == [4, 5]


def test_an_item_may_be_keyword_only() -> None:
    def call(*, item: str, ds: str) -> list[str]:
        return [item, ds]

    assert called(work_of(only=call), ["a"]) == [["a", "today"]]


def test_each_name_runs_its_own_function() -> None:
    def other(item: Any = None) -> str:
        return "other"

    assert called(work_of(a=plain, b=other), [NO_ITEM, NO_ITEM]) == [None, "other"]


def test_an_item_that_could_not_be_rendered_raises_why() -> None:
    broken = ValueError("broken")
    call = work_of(only=plain).calls(["n_0"], [BrokenItem(broken)], start=0, bound={"": {}}, context={})

    with pytest.raises(ValueError, match="broken"):
        call(0)


@pytest.mark.parametrize(
    ("functions", "names", "told"),
    [
        pytest.param({"only": plain}, ["n_0"], None, id="a plain function"),
        pytest.param({"only": on_loop}, ["n_0", "n_1"], [True, True], id="an async one"),
        pytest.param({"a": plain, "b": on_loop}, ["a", "b"], [False, True], id="one of several"),
        pytest.param({"a": plain, "b": on_loop}, ["a"], None, id="none in this batch"),
    ],
)
def test_it_tells_which_items_are_async(functions: Any, names: list[str], told: Any) -> None:
    is_async = work_of(**functions).is_async(names)

    assert (is_async and [is_async(place) for place in range(len(names))]) == told
