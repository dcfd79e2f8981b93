from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING

import pytest
from airflow.sdk.definitions._internal.node import validate_key
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_fanout.rules.names import indexed_names, instance_name, natural_key, name_problem
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from random import Random

task_ids = st.text(string.ascii_letters + string.digits + "_-.", max_size=12)


def airflow_takes(name: str) -> bool:
    try:
        validate_key(name)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "ordered",
    [
        pytest.param(["process_9", "process_10"], id="tens after nines"),
        pytest.param(["process_2", "process_10", "process_100"], id="each power of ten"),
        pytest.param(["a_2.x_10", "a_10.x_2"], id="the first number decides"),
        pytest.param(["a_1.x_2", "a_1.x_10"], id="the second one if the first is the same"),
        pytest.param(["part", "part_1"], id="the bare label first"),
        pytest.param(["1", "2", "10"], id="numbers alone"),
        pytest.param(["a", "b"], id="no numbers"),
        pytest.param(["x_01", "x_1"], id="a leading zero makes another name, not an equal one"),
        pytest.param(["work[9]", "work[10]"], id="instances of a mapped task"),
    ],
)
def test_names_sort_as_people_count(ordered: list[str]) -> None:
    backwards = ordered[::-1]

    assert sorted(backwards, key=natural_key) == ordered


@given(label=task_ids, count=st.integers(0, 300), random=st.randoms())
def test_indexed_names_come_back_in_their_own_order(label: str, count: int, random: Random) -> None:
    names = indexed_names(label, count)
    shuffled = list(names)
    random.shuffle(shuffled)

    assert tuple(sorted(shuffled, key=natural_key)) == names


@given(names=st.lists(st.text(max_size=6), max_size=8), random=st.randoms())
def test_the_order_does_not_depend_on_the_order_before(names: list[str], random: Random) -> None:
    shuffled = list(names)
    random.shuffle(shuffled)

    assert sorted(shuffled, key=natural_key) == sorted(names, key=natural_key)


@given(one=st.text(max_size=6), other=st.text(max_size=6))
def test_two_names_are_never_equal_in_order(one: str, other: str) -> None:
    assert (natural_key(one) == natural_key(other)) == (one == other)


def test_indexed_names_count_from_zero() -> None:
    assert indexed_names("process", 3) == ("process_0", "process_1", "process_2")


def test_no_branches_have_no_names() -> None:
    assert indexed_names("process", 0) == ()


def test_an_instance_is_named_by_its_map_index() -> None:
    assert instance_name("outer.work", 3) == "outer.work[3]"


@given(name=st.text(max_size=20) | task_ids)
@example(name="")
@example(name="ärger")
@example(name="名前")
@example(name="a b")
@example(name="a/b")
def test_a_name_is_usable_exactly_when_airflow_takes_it(name: str) -> None:
    assume(not name.endswith("\n"))  # Airflow takes a line end at the end, by an oversight

    assert (name_problem(name) is None) == airflow_takes(name)


def test_a_line_end_makes_a_name_unusable() -> None:
    assert name_problem("name\n") is not None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param(1, "1 is of type int; a name is a str", id="a number"),
        pytest.param(None, "None is of type NoneType; a name is a str", id="None"),
        pytest.param("a b", "'a b' is not made of letters, digits, '_', '-' and '.' alone", id="a blank"),
        pytest.param("", "'' is not made of", id="empty"),
    ],
)
def test_the_reason_shows_the_name(name: object, reason: str) -> None:
    assert (name_problem(name) or "").startswith(reason)


@pytest.mark.parametrize(("length", "usable"), [(240, True), (241, False)])
def test_the_length_of_the_whole_task_id_counts(length: int, usable: bool) -> None:
    reason = name_problem("n" * length, prefix="p" * 9 + ".")

    assert (reason is None) == usable
    assert usable or re.search("makes a task id of 251 characters; Airflow takes 250", reason or "")


def test_a_listing_is_quoted_and_in_natural_order() -> None:
    assert listing(["b_10", "b_9", "a"]) == "'a', 'b_9', 'b_10'"


def test_a_listing_of_nothing_says_so() -> None:
    assert listing([]) == "none"


@pytest.mark.parametrize(
    ("count", "end"), [(20, "'n_19'"), (21, "'n_19' and 1 more"), (500, "'n_19' and 480 more")]
)
def test_a_listing_is_bounded(count: int, end: str) -> None:
    said = listing(indexed_names("n", count))

    assert said.endswith(end)
    assert said.count("'n_") == 20


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        pytest.param("a.b", "'a.b' has a '.', which the id of a task group can't have", id="a dot"),
        pytest.param("n" * 201, "has 201 characters; Airflow takes 200 for a task", id="201 characters"),
    ],
)
def test_the_name_of_a_task_group_is_more_limited_than_that_of_a_task(name: str, reason: str) -> None:
    assert name_problem(name) is None
    assert reason in (name_problem(name, is_group=True) or "")


@pytest.mark.parametrize("name", ["n" * 200, "name-1_x", "ärger", "1"], ids=lambda name: name[:10])
def test_other_names_are_usable_for_a_task_group_too(name: str) -> None:
    assert name_problem(name, is_group=True) is None


def test_for_a_task_group_the_length_of_the_whole_id_counts_too() -> None:
    reason = name_problem("n" * 200, prefix="p" * 50 + ".", is_group=True)

    assert "makes a task id of 251 characters" in (reason or "")
