from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.definitions._internal.node import validate_key
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airflow_fanout.rules.names import (
    IndexedNames,
    indexed_names,
    instance_name,
    name_problem,
    natural_key,
    text_problem,
)
from airflow_fanout.rules.wording import close_to, listing

if TYPE_CHECKING:
    from collections.abc import Sequence
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
        pytest.param(["x_" + "9" * 4_300, "x_" + "1" * 4_301], id="more digits than Python reads"),
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


@given(one=st.text(max_size=6), other=st.text(max_size=6))
def test_two_names_are_never_equal_in_order(one: str, other: str) -> None:
    assert (natural_key(one) == natural_key(other)) == (one == other)


def test_names_count_from_zero() -> None:
    assert indexed_names("process", 3) == ("process_0", "process_1", "process_2")
    assert instance_name("outer.work", 3) == "outer.work[3]"


@given(name=st.text(max_size=20) | task_ids)
@example(name="")
@example(name="ärger")
@example(name="名前")
@example(name="a b")
@example(name="a/b")
def test_a_name_has_a_problem_exactly_when_airflow_refuses_it(name: str) -> None:
    assume(not name.endswith("\n"))  # Airflow takes a line end at the end, by an oversight

    assert (name_problem(name) is None) == airflow_takes(name)


GROUP = {"is_group": True}
N240 = "n" * 240


@pytest.mark.parametrize(
    ("name", "given", "problem"),
    [
        (1, {}, "expected a str, found 1 of type int"),
        ("a b", {}, "'a b' may have only letters, digits, '_', '-' and '.'"),
        ("name\n", {}, r"'name\n' may have only letters, digits, '_', '-' and '.'"),
        (N240, {"prefix": "p" * 9 + "."}, None),
        (N240, {"prefix": "p" * 10 + "."}, f"{N240!r} makes a task id of 251 characters; Airflow takes 250"),
        ("name-1_ä", GROUP, None),
        ("a.b", GROUP, "'a.b' can't have a '.', because its branch is a @task_group"),
        (N240[:200], GROUP, None),
        (N240[:201], GROUP, f"{N240[:201]!r} has 201 characters; the id of a group has 200 at most"),
        (
            N240[:200],
            {**GROUP, "prefix": "p" * 51},
            f"{N240[:200]!r} makes a task id of 251 characters; Airflow takes 250",
        ),
    ],
    ids=str,
)
def test_the_problem_shows_the_name_and_what_airflow_takes(
    name: object, given: Any, problem: str | None
) -> None:
    assert name_problem(name, **given) == problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a b\n<ä🙂>", None),
        ("a\0", r"'a\x00' has a zero character, which PostgreSQL doesn't store"),
        ("a\ud800", r"'a\ud800' has a lone surrogate, which UTF-8 doesn't encode"),
    ],
    ids=ascii,
)
def test_a_text_that_no_database_takes_is_told(text: str, problem: str | None) -> None:
    assert text_problem(text) == problem


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["b_10", "b_9", "a"], "'a', 'b_9', 'b_10'"),
        ([], "none"),
        (indexed_names("n", 20), ", ".join(map(repr, indexed_names("n", 20)))),
        (indexed_names("n", 500), ", ".join(map(repr, indexed_names("n", 20))) + " and 480 more"),
    ],
    ids=["in natural order", "none", "twenty", "more"],
)
def test_a_listing_is_quoted_ordered_and_bounded(names: Sequence[str], text: str) -> None:
    assert listing(names) == text


@pytest.mark.parametrize(
    ("name", "way_out"),
    [("cuont", "did you mean 'count'?"), ("document", "there are 'branch', 'count', 'items'")],
    ids=["misspelt", "like none"],
)
def test_an_unknown_name_is_answered_with_those_that_are_known(name: str, way_out: str) -> None:
    assert close_to(name, {"count", "items", "branch"}) == way_out


@given(st.integers(0, 9), st.integers(0, 9), st.slices(9))
def test_names_that_are_made_when_asked_for_are_the_same(count: int, first: int, part: slice) -> None:
    part = slice(part.start, part.stop)
    names, asked = indexed_names("a", first + count)[first:], IndexedNames("a", count, first=first)

    assert (len(asked), tuple(asked)) == (len(names), names)
    assert [asked[index] for index in range(-count, count)] == list(names * 2)
    assert tuple(asked[part]) == names[part]
    assert (names[0] in asked) if names else not list(asked)
