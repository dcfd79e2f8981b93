from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules.identity import NEVER_RAN, REMOVED, Execution, match_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def executions(*names: str | None) -> list[Execution]:
    return [Execution(position=n, name=name, title=f"each[{n}]") for n, name in enumerate(names)]


def ran_as(name: str) -> str:
    return f"its instance ran as {name!r} before the Dag, or its items, changed"


MATCHES: list[Any] = [
    pytest.param("", [], None, id="no branches"),
    pytest.param("abc", ["a", "b", "c"], None, id="all in place"),
    pytest.param("abc", ["a", None, None], None, id="those that died have the names of their positions"),
    pytest.param(
        "xabc",
        ["a", "b", "c"],
        [("x", ran_as("a")), ("a", 0), ("b", 1), ("c", 2)],
        id="one was put in front",
    ),
    pytest.param(
        "bc", ["a", "b", "c"], [("b", 1), ("c", 2), ("a", 0, "removed")], id="the first was dropped"
    ),
    pytest.param("cab", ["a", "b", "c"], [("c", 2), ("a", 0), ("b", 1)], id="reordered"),
    pytest.param("xb", ["a", "b"], [("x", ran_as("a")), ("b", 1), ("a", 0, "removed")], id="renamed"),
    pytest.param("abc", ["a"], [("a", 0), ("b", NEVER_RAN), ("c", NEVER_RAN)], id="longer"),
    pytest.param("a", ["a", "b"], [("a", 0), ("b", 1, "removed")], id="shorter"),
    pytest.param(
        "ba",
        ["a", None],
        [("b", ran_as("a")), ("a", 0), ("each[1]", 1, "removed")],
        id="one that died has no name that another ran under",
    ),
    pytest.param(
        "xa",
        ["a", "a"],
        [("x", ran_as("a")), ("a", 1), ("a (each[0])", 0, "removed")],
        id="of two under one name that at its position counts",
    ),
]


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize(("expected", "names", "matches"), MATCHES)
def test_names_decide(
    expected: str, names: list[str | None], matches: list[Any] | None, kind: Callable[[str], Sequence[str]]
) -> None:
    found = match_names(kind(expected), executions(*names))

    assert matches == (
        None
        if found is None
        else [
            (match.name, match.execution, "removed")
            if match.ruling is REMOVED
            else (match.name, match.execution if match.ruling is None else match.ruling.error)
            for match in found
        ]
    )


names = st.lists(st.sampled_from("abcdefgh"), max_size=8)


def test_what_airflow_removed_is_nobodys_execution() -> None:
    ran = [*executions("a"), Execution(position=1, name="b", title="each[1]", is_removed=True)]
    matches = match_names(["b"], ran)

    assert matches is not None
    assert [(match.name, match.execution) for match in matches] == [
        ("b", None),
        ("a", 0),
        ("b (each[1])", 1),
    ]


@given(
    expected=names.map(lambda names: list(dict.fromkeys(names))),
    ran=st.lists(st.none() | st.sampled_from("abcxy")),
)
def test_every_branch_and_every_execution_is_accounted_for_once(
    expected: list[str], ran: list[str | None]
) -> None:
    matches = match_names(expected, executions(*ran))
    if matches is None:
        assert [name or expected[n] for n, name in enumerate(ran)] == expected
        return

    assert [match.name for match in matches[: len(expected)]] == expected
    assert len({match.name for match in matches}) == len(matches)
    assert sorted(m.execution for m in matches if m.execution is not None) == list(range(len(ran)))
    for match in matches[: len(expected)]:
        if match.execution is not None:
            assert ran[match.execution] in {None, match.name}
    assert all(match.ruling is REMOVED for match in matches[len(expected) :])
