from __future__ import annotations

import pickle
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.branches import UnknownGroupError
from airflow_fanout.reports.history import DagHistory, GroupHistory, dag_history, group_traces
from airflow_fanout.reports.run_report import expected_left
from tests.unit.run_facts import NOON, batch, batched, facts_of, mapped, of_group, ran, static

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import RunFacts

pytestmark = pytest.mark.unit


def run(number: int, *failed: str, names: tuple[str, ...] = ("a", "b"), seconds: float = 1.0) -> RunFacts:
    """A run of one group, in which some branches failed."""
    ended: Any = {"ended": NOON + timedelta(seconds=seconds)}
    runs = [
        ran(f"etl.{name}", state="failed", error=f"E: {number}", **ended)
        if name in failed
        else ran(f"etl.{name}", seconds=seconds, **ended)
        for name in names
    ]
    return replace(facts_of(runs, static(*names)), run_id=f"run {number}")


def history_of(*runs: RunFacts, **settings: Any) -> DagHistory:
    now = NOON + timedelta(seconds=4)
    # As from another process.
    traces = [pickle.loads(pickle.dumps(group_traces(facts, now=now))) for facts in runs]
    return dag_history("pipeline", traces, **{"number": len(runs), "now": now, **settings})


def only(*runs: RunFacts, **settings: Any) -> GroupHistory:
    (group,) = history_of(*runs, **settings).groups
    return group


def test_medians_are_of_all_runs_and_each_has_its_own_figures() -> None:
    group = only(run(3, seconds=9.0), run(2, seconds=2.0), run(1, seconds=4.0))

    assert [(each.run_id, each.wall_seconds) for each in group.runs] == [
        ("run 3", 9.0),
        ("run 2", 2.0),
        ("run 1", 4.0),
    ]
    medians = group.median_wall_seconds, group.median_work_seconds, group.median_mean_work_seconds
    assert medians == (4.0, 8.0, 4.0)
    assert group.median_speed_up == 2.0
    assert [(figure.name, figure.value) for figure in group.figures] == [
        ("Wall", "4.0 s"),
        ("Work", "8.0 s"),
        ("Speed-up", "2.0×"),
        ("Per branch", "4.0 s"),
    ]
    assert group.figures[0].note == "the median of 3 runs, from 2.0 s to 9.0 s"


def test_branches_are_counted_by_the_runs_in_which_they_failed() -> None:
    group = only(run(4, "b"), run(3, "a", "b"), run(2), run(1, "b"))

    assert [(each.name, each.failed, each.runs, each.error, each.run_ids) for each in group.failures] == [
        ("b", 3, 4, "E: 4", ("run 4", "run 3", "run 1")),
        ("a", 1, 4, "E: 3", ("run 3",)),
    ]
    assert (group.failure_count, group.headline) == (2, "4 runs · 3 with failed branches")


def test_a_branch_that_is_new_was_in_fewer_runs() -> None:
    group = only(run(3, "c", names=("a", "c")), run(2, "c", names=("a", "c")), run(1, names=("a", "b")))

    assert [(each.name, each.failed, each.runs) for each in group.failures] == [("c", 2, 2)]


def test_what_others_kept_from_starting_has_not_failed_by_itself() -> None:
    kept = facts_of([ran("etl.a", state="upstream_failed"), ran("etl.b")], static("a", "b"))

    group = only(kept)

    assert (group.failures, group.runs[0].failed) == ((), 1)


def test_a_group_that_runs_counts_for_no_median_and_has_a_time_left() -> None:
    running = ran("etl.b", state="running", ended=None)
    on = replace(facts_of([ran("etl.a"), running], static("a", "b"), state="running"), run_id="run 3")

    group = only(on, run(2, "b", seconds=10.0), run(1, seconds=20.0))

    assert (group.ended, group.median_wall_seconds, group.expected_left_seconds) == (2, 15.0, 11.0)
    assert group.headline == "3 runs, 2 of them ended · 1 with failed branches"
    assert [figure.value for figure in group.figures if figure.name == "Left"] == ["11.0 s"]


def test_groups_of_runs_with_another_dag_stand_by_themselves() -> None:
    other = facts_of([ran("load.each", 0)], mapped())

    groups = history_of(run(2), other, run(1)).groups

    assert [(group.title, len(group.runs)) for group in groups] == [("etl", 2), ("load", 1)]


def test_items_of_batches_are_counted_by_name() -> None:
    some = [batch(0, "SF", state="failed", errors={"1": "E: no"}), batch(1, "SS")]
    killed = [batch(0, "SS"), ran("docs.each", 1, state="failed", record={})]

    group = only(*(facts_of(batches, batched(count=4)) for batches in (some, killed)))

    assert [(each.name, each.failed, each.runs) for each in group.failures] == [
        ("docs_1", 1, 2),
        ("docs_2", 1, 2),
        ("docs_3", 1, 2),
    ]
    assert [figure.name for figure in group.figures][-1] == "Per item"
    assert group.runs[0].total == 4


def test_a_success_in_spite_of_failures_is_degraded() -> None:
    runs = [ran("etl.a", state="failed"), ran("etl.b"), ran("best")]

    group = only(facts_of(runs, static("a", "b"), fan_ins=[of_group("etl", "best")]))

    assert group.runs[0].degraded
    assert group.headline == "1 run · 1 with failed branches · 1 degraded"


def test_one_group_can_be_asked_for_and_an_unknown_one_is_named() -> None:
    assert only(run(1), group_id="etl").title == "etl"
    with pytest.raises(UnknownGroupError, match="group 'elt' in its last run; there are 'etl'"):
        history_of(run(1), group_id="elt")


def test_runs_that_left_nothing_to_read_are_counted() -> None:
    history = history_of(run(1), number=3)

    assert (history.runs, history.unread) == (3, 2)


@pytest.mark.parametrize(
    ("walls", "passed", "left"),
    [
        pytest.param([10.0, 20.0, 60.0], 5.0, 15.0, id="the median less what has passed"),
        pytest.param([10.0], 30.0, 0.0, id="over"),
        pytest.param([], 5.0, None, id="no run before"),
        pytest.param([10.0], None, None, id="not begun"),
    ],
)
def test_the_time_left_is_that_of_earlier_runs(
    walls: list[float], passed: float | None, left: float | None
) -> None:
    assert expected_left(walls, passed) == left
