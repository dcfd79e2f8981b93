from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules.capacity import UNKNOWN, Limit, describe, effective_concurrency

PARALLELISM = Limit(name="core.parallelism", slots=32)
DAG_LIMIT = Limit(name="max_active_tasks", slots=16, where="the Dag")
CLOSED = Limit(name="pool", slots=0, where="gpu", reason="pool 'gpu' has 0 slots")

numbers = st.integers(0, 60) | st.just(UNKNOWN)
limit_lists = st.lists(
    st.builds(Limit, name=st.sampled_from(["a", "b", "c", "d"]), slots=st.integers(-3, 40)), max_size=6
)


@given(declared=numbers, limits=limit_lists)
def test_as_many_run_at_once_as_all_limits_allow(declared: int, limits: list[Limit]) -> None:
    effective = effective_concurrency(declared, limits).effective

    assert effective == max(0, min([declared, *(limit.slots for limit in limits)]))


@given(declared=numbers, limits=limit_lists)
def test_the_first_of_the_least_limits_is_named_exactly_when_it_holds_branches_back(
    declared: int, limits: list[Limit]
) -> None:
    capacity = effective_concurrency(declared, limits)

    assert (capacity.limit is not None) == (capacity.effective < declared)
    if capacity.limit is not None:
        least = min(limit.slots for limit in limits)
        assert capacity.limit is next(limit for limit in limits if limit.slots == least)


@pytest.mark.parametrize(
    ("declared", "limits", "text"),
    [
        (0, [], "0 branches"),
        (1, [], "1 branch"),
        (8, [PARALLELISM], "8 branches, all at once"),
        (50, [PARALLELISM, DAG_LIMIT], "50 branches, at most 16 at once: max_active_tasks of the Dag is 16"),
        (50, [PARALLELISM], "50 branches, at most 32 at once: core.parallelism is 32"),
        (1, [CLOSED], "1 branch, none can start: pool 'gpu' has 0 slots"),
        (
            UNKNOWN,
            [CLOSED],
            "as many branches as there are at run time, none can start: pool 'gpu' has 0 slots",
        ),
    ],
    ids=["none", "one", "all", "a setting of the Dag", "a setting", "closed", "unknown"],
)
def test_the_words_name_the_numbers_and_the_limit(declared: int, limits: list[Limit], text: str) -> None:
    assert describe(effective_concurrency(declared, limits)) == text


def test_the_words_say_what_is_counted_and_of_what_each_has_several() -> None:
    capacity = effective_concurrency(50, [DAG_LIMIT])

    assert describe(capacity, one="batch", many="batches", of_each="tasks") == (
        "50 batches, at most 16 of their tasks at once: max_active_tasks of the Dag is 16"
    )
