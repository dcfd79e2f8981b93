"""A cleared or marked task never shows the value of an earlier try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.run import Run


TASKS_TO_CLEAR = ("load", "group.flaky", "list_texts", "list_once")
TASKS_TO_MARK = ("group.broken", "group.flaky", "group.marked", "native_never")
ROUNDS: dict[str, dict[str, tuple[str, str | None]]] = {
    "at first": {
        "steady": ("success", "steady"),
        "flaky": ("success", "once"),
        "loaded": ("success", "loaded"),
        "marked": ("success", "loaded"),
        "native_shrinking[0]": ("success", "first"),
        "native_shrinking[1]": ("success", "second"),
        "native_shrinking[2]": ("success", "third"),
        "native_steady": ("success", "steady"),
        "native_unlisted[0]": ("success", "first"),
        "native_unlisted[1]": ("success", "second"),
    },
    "cleared": {
        "steady": ("success", "steady"),
        "flaky": ("failed", None),
        "loaded": ("upstream_failed", None),
        "native_shrinking[0]": ("success", "again"),
        "native_shrinking[1]": ("removed", None),
        "native_shrinking[2]": ("removed", None),
        "native_unlisted[0]": ("upstream_failed", None),
        "native_unlisted[1]": ("upstream_failed", None),
    },
    "marked as success": {
        "broken": ("missing", None),  # it never succeeded
        "flaky": ("missing", None),  # it succeeded before it failed
        "native_never": ("missing", None),  # it never ran
    },
}
"""State and value of branches, by round."""


@pytest.fixture(scope="module")
def rounds(finished_run: Callable[[str], Run]) -> dict[str, Mapping[str, Any]]:
    """What the fan-ins got in each round."""

    def outcomes() -> Mapping[str, Any]:
        return {**run.collected("collect").outcomes, **run.collected("collect_native").outcomes}

    run = finished_run("reruns")
    at_first = outcomes()
    run.clear(*TASKS_TO_CLEAR)
    cleared = outcomes()
    for task_id in TASKS_TO_MARK:
        run.mark_success(task_id)
    run.clear("collect", "collect_native")
    return {"at first": at_first, "cleared": cleared, "marked as success": outcomes()}


@pytest.mark.parametrize("name", ROUNDS)
def test_each_branch_has_the_outcome_of_its_last_try(rounds: dict[str, Mapping[str, Any]], name: str) -> None:
    outcomes = rounds[name]
    assert {
        branch: (outcomes[branch]["state"], outcomes[branch]["value"]) for branch in ROUNDS[name]
    } == ROUNDS[name]


def test_a_branch_that_fails_when_it_is_cleared_has_its_new_error(
    rounds: dict[str, Mapping[str, Any]],
) -> None:
    assert rounds["cleared"]["flaky"]["error"] == "ValueError: not again"
