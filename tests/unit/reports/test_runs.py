from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

import pytest

from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.group_capacity import SchedulingLimits
from airflow_fanout.reports.rerun import plan_rerun
from airflow_fanout.reports.run_report import report_of
from airflow_fanout.reports.runs import BatchItems, ItemRuns
from tests.unit.run_facts import batch, batched, facts_of, of_group, ran

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import RunFacts

BATCHES, SIZE = 20, 500


def facts(statuses: str | None, *, state: str = "success", names: bool = False) -> RunFacts:
    """A run of thousands of items; without statuses no batch has told anything of them."""
    group = batched(items_per_task=SIZE, items_from="list")
    text = (statuses or "S") * SIZE
    batches = [
        batch(
            number,
            text[:SIZE],
            state=state,
            start=number * SIZE,
            names=[f"<{number} {index}>" for index in range(SIZE)] if names else None,
        )
        for number in range(BATCHES)
    ]
    if statuses is None:
        batches = [ran("docs.each", number, state, value="absent") for number in range(BATCHES)]
    bounds = [(number * SIZE, (number + 1) * SIZE, 1) for number in range(BATCHES)]
    return facts_of(
        [*batches, ran("list"), ran("docs.split"), ran("combine")],
        group,
        fan_ins=[of_group("docs", "combine")],
        bounds={"docs.split": bounds},
    )


@pytest.mark.parametrize(
    ("facts_read", "named"),
    [
        pytest.param(facts("S"), 0, id="all-succeeded"),
        pytest.param(facts("SF", state="failed"), 20, id="half-failed"),
        pytest.param(facts("S", names=True), 0, id="names-of-their-own"),
        pytest.param(facts(None, state="failed"), BATCHES, id="killed"),
        pytest.param(facts(None, state="queued"), 0, id="waiting"),
    ],
)
def test_report_and_plan_make_no_more_items_than_they_name(facts_read: RunFacts, named: int) -> None:
    surroundings = SchedulingLimits(pools={"default_pool": 128})
    with mock.patch.object(
        BatchItems, "__getitem__", autospec=True, side_effect=BatchItems.__getitem__
    ) as made:
        (group,) = report_of(facts_read, surroundings).groups
        plan_rerun(facts_read, setups_and_teardowns=lambda _: ())

    assert group.items is not None
    assert (group.items.total, len(group.items.problems)) == (BATCHES * SIZE, named)
    assert made.call_count == named


def test_items_are_there_to_be_asked_for() -> None:
    (run,) = group_runs(facts("SSF", state="failed"))

    assert isinstance(run.branches, ItemRuns)
    assert len(run.branches) == BATCHES * SIZE
    assert run.branches[SIZE].name == "docs_500"
    assert [item.name for item in run.branches[SIZE - 1 : SIZE + 2]] == ["docs_499", "docs_500", "docs_501"]
    assert run.branches[-1] == list(run.branches)[-1]
    assert [item.state for item in run.branches[:3]] == ["success", "success", "failed"]
