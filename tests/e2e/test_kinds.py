"""Every kind of branch has its identity, its state, its value and its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Collected, Run

DAG_ID = "kinds"

STATES = {
    "good": "success",
    "none": "success",
    "first_fails": "failed",
    "middle_fails": "failed",
    "last_fails": "failed",
    "middle_skips": "skipped",
    "never_starts": "upstream_failed",
}


@pytest.fixture(scope="module")
def several(run: Run) -> Collected:
    return run.collected("collect_several")


def test_a_branch_of_several_tasks_has_one_outcome_and_the_value_of_its_last_task(several: Collected) -> None:
    assert list(several.states.items()) == list(STATES.items())
    assert several.items == [("good", "GOOD"), ("none", None)]


def test_a_failure_within_it_says_which_task_and_why(several: Collected) -> None:
    outcomes = several.outcomes
    assert {name: (outcomes[name]["task_id"], outcomes[name]["error"]) for name in several.failed[:3]} == {
        "first_fails": ("several.first_fails.extract", "ValueError: broken in extract, try 1"),
        "middle_fails": ("several.middle_fails.transform", "ValueError: broken in transform, try 2"),
        "last_fails": ("several.last_fails.load", "ValueError: broken in load, try 1"),
    }


def test_its_duration_is_that_of_its_tasks_together(run: Run, several: Collected) -> None:
    parts = [run.instance(f"several.good.{task}").duration or 0 for task in ("extract", "transform", "load")]
    assert several.outcomes["good"]["duration"] == pytest.approx(sum(parts))


def test_it_takes_a_request_more_for_a_none_and_for_each_failed_inner_task(run: Run) -> None:
    assert run.requests("collect_several") <= len(STATES) + 3 + 1 + 2


def test_a_prefix_takes_the_last_tasks_and_tells_the_same_of_them(run: Run, several: Collected) -> None:
    by_prefix = run.collected("several_by_prefix").outcomes
    assert list(by_prefix) == sorted(f"several.{name}.load" for name in STATES)
    for name, outcome in several.outcomes.items():
        same = by_prefix[f"several.{name}.load"]
        assert (same["state"], same["error"]) == (outcome["state"], outcome["error"])


def test_mapped_tasks_within_a_branch_are_part_of_it(run: Run) -> None:
    inside = run.collected("collect_inside")
    failed = inside.outcomes["inside_1"]
    assert inside.items == [("inside_0", 1)]
    assert (failed["state"], failed["task_id"], failed["map_index"]) == (
        "failed",
        "inside.inside_1.number",
        1,
    )
    assert failed["error"] == "ValueError: no third"


def test_a_branch_may_have_a_setup_and_its_teardown(run: Run) -> None:
    assert run.xcom("collect_prepared") == {"prepared_0": "a", "prepared_1": "b"}
    assert run.instance("prepared.prepared_1.after").state == "success"


def test_operators_are_branches(run: Run) -> None:
    commands = run.collected("collect_commands")
    assert commands.states == {"commands_0": "success", "commands_1": "failed", "commands_2": "skipped"}
    assert commands.items == [("commands_0", "here")]
    assert "Bash command failed" in commands.outcomes["commands_1"]["error"]


def test_every_kind_may_stand_in_one_mapping_in_a_group(run: Run) -> None:
    assert run.collected("outer.collect").items == [
        ("plain", "plain text"),
        ("decorated", "decorated"),
        ("steps", "GOOD"),
        ("command", "command"),
        ("pipe", "PIPED? outer.mixed.pipe"),
        ("sensor", "sensed outer.mixed.sensor"),
        ("deferred", "resumed"),
    ]


@pytest.mark.parametrize(("map_index", "fate"), [(0, "ONE!"), (1, "TWO!")])
def test_in_a_mapped_group_every_kind_is_read_by_its_own_index(run: Run, map_index: int, fate: str) -> None:
    assert run.xcom("each.collect_lone", map_index=map_index) == {"lone_0": fate, "lone_1": fate}
    good, failed = run.xcom("each.collect", map_index=map_index)["outcomes"]
    assert (good["name"], good["value"]) == ("pair_0", "GOOD")
    assert (failed["state"], failed["task_id"]) == ("failed", "each.pair.pair_1.transform")
    assert (failed["map_index"], failed["error"]) == (map_index, "ValueError: broken in transform, try 2")
