"""A cleared or marked task never shows the value of an earlier try."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Collected, Run

pytestmark = pytest.mark.e2e


TASKS_TO_CLEAR = ("load", "group.flaky", "list_texts", "list_once")
TASKS_TO_MARK = ("group.broken", "group.flaky", "group.marked", "native_never")


@pytest.fixture(scope="module")
def rounds(finished_run: Callable[[str], Run]) -> list[dict[str, Collected]]:
    """What the fan-ins got at first, after some tasks were cleared, and after some were marked as success."""

    def collected() -> dict[str, Collected]:
        return {fan_in: run.collected(fan_in) for fan_in in ("collect", "collect_native")}

    run = finished_run("reruns")
    at_first = collected()
    run.clear(*TASKS_TO_CLEAR)
    cleared = collected()
    for task_id in TASKS_TO_MARK:
        run.mark_success(task_id)
    run.clear("collect", "collect_native")
    return [at_first, cleared, collected()]


@pytest.fixture(scope="module")
def at_first(rounds: list[dict[str, Collected]]) -> dict[str, Collected]:
    return rounds[0]


@pytest.fixture(scope="module")
def cleared(rounds: list[dict[str, Collected]]) -> dict[str, Collected]:
    return rounds[1]


@pytest.fixture(scope="module")
def marked(rounds: list[dict[str, Collected]]) -> dict[str, Collected]:
    return rounds[2]


def test_at_first_there_are_values(at_first: dict[str, Collected]) -> None:
    values = {"steady": "steady", "flaky": "once", "loaded": "loaded", "marked": "loaded"}
    assert dict(at_first["collect"].items) == values


def test_at_first_mapped_tasks_have_values(at_first: dict[str, Collected]) -> None:
    assert dict(at_first["collect_native"].items) == {
        "native_shrinking[0]": "first",
        "native_shrinking[1]": "second",
        "native_shrinking[2]": "third",
        "native_steady": "steady",
        "native_unlisted[0]": "first",
        "native_unlisted[1]": "second",
    }


def test_a_value_does_not_outlive_the_task_that_it_was_made_from(cleared: dict[str, Collected]) -> None:
    outcome = cleared["collect"].outcomes["loaded"]
    assert (outcome["state"], outcome["value"]) == ("upstream_failed", None)


def test_a_branch_that_fails_when_it_is_cleared_has_no_value(cleared: dict[str, Collected]) -> None:
    outcome = cleared["collect"].outcomes["flaky"]
    assert (outcome["state"], outcome["value"]) == ("failed", None)
    assert outcome["error"] == "ValueError: not again"


def test_a_branch_that_was_not_cleared_keeps_its_value(cleared: dict[str, Collected]) -> None:
    assert cleared["collect"].items == [("steady", "steady")]


def test_instances_of_a_list_that_cannot_be_made_again_have_no_value(cleared: dict[str, Collected]) -> None:
    outcomes = cleared["collect_native"].outcomes
    assert [
        (name, outcomes[name]["state"], outcomes[name]["value"]) for name in outcomes if "unlisted" in name
    ] == [
        ("native_unlisted[0]", "upstream_failed", None),
        ("native_unlisted[1]", "upstream_failed", None),
    ]


def test_what_a_list_that_has_shrunk_left_behind_has_no_value(cleared: dict[str, Collected]) -> None:
    outcomes = cleared["collect_native"].outcomes
    assert [
        (name, outcomes[name]["state"], outcomes[name]["value"]) for name in outcomes if "shrinking" in name
    ] == [
        ("native_shrinking[0]", "success", "again"),
        ("native_shrinking[1]", "removed", None),
        ("native_shrinking[2]", "removed", None),
    ]


@pytest.mark.parametrize(
    ("fan_in", "name"),
    [
        pytest.param("collect", "broken", id="it never succeeded"),
        pytest.param("collect", "flaky", id="it succeeded before it failed"),
        pytest.param("collect_native", "native_never", id="it never ran"),
    ],
)
def test_a_branch_marked_as_success_is_missing(marked: dict[str, Collected], fan_in: str, name: str) -> None:
    outcome = marked[fan_in].outcomes[name]
    assert (outcome["state"], outcome["value"]) == ("missing", None)
