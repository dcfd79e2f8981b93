from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_fanout.execution_time.ledger import removed_branches
from airflow_fanout.rules.outcomes import BranchOutcome
from airflow_fanout.serialization.declaration import DeclaredBranch, DeclaredGroup
from tests.unit.fake_run import FakeRun

if TYPE_CHECKING:
    from collections.abc import Sequence

GROUP = DeclaredGroup(group_id="p", prefix="p.", branches=())
KNOWN = ("p.a.extract", "p.a.each", "p.a.load", "p.a.clear_up")
SEVERAL = DeclaredGroup(
    group_id="p", prefix="p.", branches=(DeclaredBranch(name="a", index=0, task_ids=KNOWN[:3]),)
)


def outcomes(run: FakeRun, group: DeclaredGroup, declared: Sequence[str], **more: int) -> list[BranchOutcome]:
    page = removed_branches(run.states, group, declared, **{"map_index": -1, "start": 0, **more})
    return [] if page is None else [page.peek(index) for index in range(len(page))]


def test_what_is_no_longer_declared_is_named_without_the_prefix() -> None:
    run = FakeRun().add("p.a").add("p.b", "failed", duration=2.0).add("other.c").add("p")

    (gone,) = outcomes(run, GROUP, ["p.a"], start=5)

    assert gone == BranchOutcome(
        name="b",
        index=5,
        state="removed",
        error="it is no longer declared",
        task_id="p.b",
        map_index=-1,
        duration=2.0,
    )


def test_the_instances_of_a_task_are_one_outcome() -> None:
    run = FakeRun().add("p.each", map_index=0).add("p.each", map_index=1)

    gone = outcomes(run, GROUP, [], start=3)

    assert [(outcome.name, outcome.index) for outcome in gone] == [("each", 3)]


@pytest.mark.parametrize("map_index", [0, 1])
def test_instances_of_another_map_index_are_left_out(map_index: int) -> None:
    run = FakeRun().add("p.a", map_index=0).add("p.a", map_index=1)

    gone = outcomes(run, GROUP, [], map_index=map_index, start=0)

    assert [(outcome.name, outcome.map_index) for outcome in gone] == [("a", map_index)]


def test_a_branch_of_several_tasks_is_one_outcome() -> None:
    run = FakeRun().add("p.b.load", duration=2.0).add("p.b.extract", duration=1.0).add("p.b.clear_up")
    run.add("p.b.each", map_index=0).add("p.b.each", map_index=1)

    (gone,) = outcomes(run, SEVERAL, KNOWN, start=1)

    assert (gone.name, gone.task_id, gone.map_index, gone.state) == ("b", "p.b.load", -1, "removed")
    assert gone.duration == 6.0


def test_several_branches_of_several_tasks_are_told_apart() -> None:
    run = FakeRun()
    for name in ("b_10", "b_9", "b"):
        for step in ("load", "extract", "clear_up"):
            run.add(f"p.{name}.{step}", "failed")

    gone = outcomes(run, SEVERAL, KNOWN, start=1)

    assert [(outcome.name, outcome.index) for outcome in gone] == [("b", 1), ("b_9", 2), ("b_10", 3)]


def test_a_task_that_a_branch_has_lost_is_no_branch() -> None:
    run = FakeRun().add("p.a.extract").add("p.a.load").add("p.a.lost").add("p.a.clear_up")

    assert outcomes(run, SEVERAL, KNOWN) == []


def test_one_that_was_a_single_task_is_one_beside_those_of_several() -> None:
    run = FakeRun().add("p.b").add("p.c.extract").add("p.c.load")

    gone = outcomes(run, SEVERAL, KNOWN, start=1)

    assert [(outcome.name, outcome.task_id) for outcome in gone] == [("b", "p.b"), ("c", "p.c.load")]


def test_in_a_mapped_task_group_they_are_told_for_its_own_index() -> None:
    run = FakeRun()
    for map_index in (0, 1):
        run.add("p.b.extract", map_index=map_index).add("p.b.load", map_index=map_index, duration=3.0)

    (gone,) = outcomes(run, SEVERAL, KNOWN, map_index=1, start=1)

    assert (gone.name, gone.map_index, gone.duration) == ("b", 1, 4.0)
