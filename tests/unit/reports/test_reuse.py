"""What a run has reused, in its report and in what is planned to run again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.branches import group_runs
from airflow_fanout.reports.rerun import RerunPlan, plan_rerun
from airflow_fanout.reports.run_report import group_report
from airflow_fanout.rules.records import ReuseRecord, read_reuse
from airflow_fanout.serialization.outline import TaskOutline
from tests.unit.run_facts import NOON, batch, batched, facts_of, of_group, ran

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import RunFacts

RECORD = ReuseRecord(root="/store", plan="plan-1.jsonl", total=20, reused=17)


def facts(*, record: ReuseRecord = RECORD, batches: str = "SSS", **group: Any) -> RunFacts:
    """A run in which three of twenty items had to run, two in a batch."""
    names = ["docs_2", "docs_5", "docs_9"]
    runs = [
        batch(number, letters, state="failed" if "F" in letters else "success", names=own)
        for number, letters, own in ((0, batches[:2], names[:2]), (1, batches[2:], names[2:]))
        if batches
    ]
    each = runs or [ran("docs.each", -1, "skipped")]
    bounds = [(0, 2, 1), (2, 3, 1)] if batches else []
    tasks = {
        "docs.each": TaskOutline(task_id="docs.each", is_mapped=True, upstream=frozenset({"docs.split"})),
        "docs.split": TaskOutline(task_id="docs.split", operator="ReusingSplitOperator"),
    }
    return facts_of(
        [ran("docs.split"), *each, ran("collect")],
        batched(**{"count": 20, "reuses": True, **group}),
        fan_ins=[of_group("docs", "collect")],
        tasks=tasks,
        bounds={"docs.split": bounds},
        reuse={"docs.split": record},
    )


def report(of_run: RunFacts) -> Any:
    (run,) = group_runs(of_run)
    return group_report(of_run, run, now=NOON, capacity_of=lambda *_: None)


def test_reused_items_are_successes_that_are_counted_apart() -> None:
    group = report(facts())

    assert group.items.states == {"success": 20}
    assert (group.items.total, group.items.recorded, group.items.reused) == (20, 3, 17)
    assert group.headline == "20 of 20 items done · in 2 batches · 17 reused"


def test_a_run_that_has_reused_all_has_no_batch_and_is_done() -> None:
    group = report(facts(record=RECORD._replace(reused=20), batches=""))

    assert group.items.states == {"success": 20}
    assert group.headline == "20 of 20 items done · in 0 batches · 20 reused"
    assert group.is_finished


def test_an_item_that_failed_has_its_own_name() -> None:
    group = report(facts(batches="SFS"))

    assert group.items.states == {"failed": 1, "success": 19}
    assert [problem.name for problem in group.items.problems] == ["docs_5"]


def plan(of_run: RunFacts, **options: Any) -> RerunPlan:
    return plan_rerun(of_run, setups_and_teardowns=lambda _: (), **options)


def cleared(planned: RerunPlan) -> list[str]:
    return sorted(run.name for run in planned.task_runs)


def test_what_failed_runs_again_without_what_cuts_the_items() -> None:
    assert cleared(plan(facts(batches="SFS"))) == ["collect", "docs.each[0]"]
    assert cleared(plan(facts())) == []


@pytest.mark.parametrize(
    ("batches", "instances"),
    [("SSS", ["docs.each[0]", "docs.each[1]"]), ("", ["docs.each"])],
    ids=["some ran", "all were reused"],
)
def test_without_reuse_all_runs_again_and_the_plan_says_so(batches: str, instances: list[str]) -> None:
    planned = plan(facts(batches=batches), no_reuse=True)

    assert cleared(planned) == ["collect", *instances, "docs.split"]
    assert planned.no_reuse == ("docs",)
    assert "all items of 'docs' run again, whatever is stored" in planned.notes[-1]


def test_without_a_group_that_reuses_anything_the_option_says_that_it_changes_nothing() -> None:
    planned = plan(facts(reuses=False), no_reuse=True)

    assert planned.no_reuse == ()
    assert "--no-reuse changes nothing" in planned.notes[-1]


@pytest.mark.parametrize(
    "pushed",
    [
        None,
        [],
        {},
        RECORD.to_xcom() | {"total": -1},
        RECORD.to_xcom() | {"reused": True},
        RECORD.to_xcom() | {"root": 7},
    ],
)
def test_what_is_no_record_of_reuse_is_not_taken_for_one(pushed: object) -> None:
    assert read_reuse(pushed) is None


def test_a_record_is_read_as_it_was_pushed() -> None:
    assert read_reuse(RECORD.to_xcom()) == RECORD
