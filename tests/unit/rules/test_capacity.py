from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules.capacity import Capacity, Limit, describe, effective_concurrency, pool_limit

PARALLELISM = Limit(name="core.parallelism", slots=32)
MAX_ACTIVE_TASKS = Limit(name="max_active_tasks", slots=16, where="the Dag")

limits_strategy = st.lists(
    st.builds(Limit, name=st.sampled_from(["a", "b", "c", "d"]), slots=st.integers(0, 40)), max_size=6
)


@pytest.mark.parametrize(
    ("declared", "effective", "limit"),
    [
        pytest.param(50, 16, MAX_ACTIVE_TASKS, id="more than the smallest limit"),
        pytest.param(17, 16, MAX_ACTIVE_TASKS, id="one more than the smallest limit"),
        pytest.param(16, 16, None, id="as many as the smallest limit"),
        pytest.param(8, 8, None, id="fewer than every limit"),
        pytest.param(0, 0, None, id="nothing declared"),
    ],
)
def test_the_smallest_limit_decides_unless_the_work_is_smaller(
    declared: int, effective: int, limit: Limit | None
) -> None:
    found = effective_concurrency(declared, [PARALLELISM, MAX_ACTIVE_TASKS])

    assert found == Capacity(declared=declared, effective=effective, limit=limit)


def test_without_limits_everything_runs_at_once() -> None:
    assert effective_concurrency(50, []) == Capacity(declared=50, effective=50, limit=None)


def test_of_equal_limits_the_first_is_named() -> None:
    first, second = Limit(name="first", slots=4), Limit(name="second", slots=4)

    assert effective_concurrency(8, [PARALLELISM, first, second]).limit is first
    assert effective_concurrency(8, [PARALLELISM, second, first]).limit is second


def test_an_unlimited_pool_is_passed_over() -> None:
    found = effective_concurrency(50, [pool_limit("default_pool", -1, 1), MAX_ACTIVE_TASKS])

    assert found.limit is MAX_ACTIVE_TASKS


@given(declared=st.integers(0, 60), limits=limits_strategy)
def test_effective_exceeds_neither_the_declared_nor_any_limit_and_equals_one_of_them(
    declared: int, limits: list[Limit]
) -> None:
    effective = effective_concurrency(declared, limits).effective

    assert effective <= declared
    assert all(effective <= limit.slots for limit in limits)
    assert effective in {declared, *(limit.slots for limit in limits)}


@given(declared=st.integers(0, 60), limits=limits_strategy)
def test_a_limit_is_named_exactly_when_it_holds_branches_back(declared: int, limits: list[Limit]) -> None:
    found = effective_concurrency(declared, limits)

    assert (found.limit is not None) == (found.effective < declared)
    if found.limit is not None:
        assert found.limit is next(limit for limit in limits if limit.slots == found.effective)


@pytest.mark.parametrize(
    ("slots", "pool_slots", "room"),
    [
        pytest.param(10, 1, 10, id="one slot each"),
        pytest.param(10, 3, 3, id="a rest that is too small for one more"),
        pytest.param(2, 3, 0, id="a branch that takes more than there are"),
        pytest.param(0, 1, 0, id="a closed pool"),
    ],
)
def test_a_pool_has_room_for_whole_branches(slots: int, pool_slots: int, room: int) -> None:
    limit = pool_limit("gpu", slots, pool_slots)

    assert limit is not None
    assert (limit.name, limit.where, limit.slots) == ("pool", "gpu", room)


@pytest.mark.parametrize("pool_slots", [1, 3])
def test_a_pool_of_minus_one_slots_is_no_limit(pool_slots: int) -> None:
    assert pool_limit("gpu", -1, pool_slots) is None


@pytest.mark.parametrize(
    ("declared", "limit", "sentence"),
    [
        pytest.param(0, None, "0 branches", id="none"),
        pytest.param(1, None, "1 branch", id="one"),
        pytest.param(8, None, "8 branches, all at once", id="no limit"),
        pytest.param(
            50,
            MAX_ACTIVE_TASKS,
            "50 branches, at most 16 at once: max_active_tasks of the Dag is 16",
            id="a setting of something",
        ),
        pytest.param(
            50, PARALLELISM, "50 branches, at most 32 at once: core.parallelism is 32", id="a setting"
        ),
        pytest.param(
            8,
            pool_limit("gpu", 4, 1),
            "8 branches, at most 4 at once: pool 'gpu' has 4 slots",
            id="a pool",
        ),
        pytest.param(
            8,
            pool_limit("gpu", 10, 3),
            "8 branches, at most 3 at once: pool 'gpu' has 10 slots, each branch takes 3",
            id="several slots each",
        ),
        pytest.param(
            1,
            pool_limit("gpu", 1, 2),
            "1 branch, none can start: pool 'gpu' has 1 slot, each branch takes 2",
            id="no room for one",
        ),
    ],
)
def test_the_sentence_names_the_numbers_and_the_cause(
    declared: int, limit: Limit | None, sentence: str
) -> None:
    assert describe(effective_concurrency(declared, [limit])) == sentence


def test_a_negative_number_of_branches_is_refused() -> None:
    with pytest.raises(ValueError, match="declared: expected 0 or more, not -1"):
        effective_concurrency(-1, [])


def test_a_limit_of_negative_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="Limit 'x': expected slots of 0 or more, not -1"):
        Limit(name="x", slots=-1)


def test_a_branch_that_takes_no_slot_is_refused() -> None:
    with pytest.raises(ValueError, match="Pool 'gpu': expected pool_slots of 1 or more, not 0"):
        pool_limit("gpu", 10, 0)


def test_a_pool_of_fewer_than_minus_one_slots_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Pool 'gpu': expected slots .*, not -2"):
        pool_limit("gpu", -2, 1)
