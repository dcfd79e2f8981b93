from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from airflow_fanout.demo import view
from airflow_fanout.reports.timing import BranchTiming

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def branch(
    name: str, state: str = "success", *, started: float | None = None, ended: float | None = None
) -> BranchTiming:
    def timestamp(seconds: float | None) -> datetime | None:
        return None if seconds is None else NOON + timedelta(seconds=seconds)

    return BranchTiming(
        name=name, state=state, queued=NOON, started=timestamp(started), ended=timestamp(ended)
    )


def test_only_changes_are_said_with_their_notes() -> None:
    timings = [
        branch("p_0", started=0, ended=3),
        branch("p_1", "running", started=0),
        branch("p_2", "queued"),
        branch("p_3", "waiting"),
    ]

    lines = view.changed_lines({"p_0": "running", "p_1": "running"}, timings, {"p_0": "9 of 10 items done"})

    assert lines == ["p_0: success after 3.0 s, 9 of 10 items done", "p_2: queued"]


def test_many_branches_are_counted_instead_of_listed() -> None:
    timings = [branch(f"p_{index}", "running" if index < 5 else "queued") for index in range(21)]

    assert view.changed_lines({}, timings, {}) == ["21 branches: 16 queued, 5 running"]


def test_the_table_counts_a_running_branchs_seconds_up_to_now() -> None:
    output = io.StringIO()
    table = view.branch_table([branch("p_0", "running", started=1)], {}, NOON + timedelta(seconds=3.5))

    Console(file=output, width=60).print(table)

    assert output.getvalue().split() == ["p_0", "running", "2.5", "s"]


ONE_BY_ONE = [branch("topics", started=0, ended=4), branch("entities", started=4, ended=10)]


def in_parallel(topics: float, entities: float) -> list[BranchTiming]:
    return [branch("topics", started=0, ended=topics), branch("entities", started=0, ended=entities)]


def test_both_ways_are_shown_side_by_side() -> None:
    text = view.comparison(in_parallel(4.5, 6.5), ONE_BY_ONE, cores=2)

    lines = {line.split()[0]: line.split() for line in text.splitlines()}
    assert lines["topics"] == ["topics", "4.5", "s", "4.0", "s"]
    assert lines["entities"] == ["entities", "6.5", "s", "6.0", "s"]
    assert lines["Sum"] == ["Sum", "11.0", "s", "10.0", "s"]
    assert lines["Wall"] == ["Wall", "6.5", "s", "10.0", "s"]


@pytest.mark.parametrize(("ended", "ratio"), [(5, "2.0×"), (10, "1.0×"), (20, "0.5×")])
def test_the_verdict_is_given_whichever_way_was_faster(ended: float, ratio: str) -> None:
    text = view.comparison(in_parallel(2, ended), ONE_BY_ONE, cores=2)

    assert f"In parallel it was {ratio} as fast as one by one" in text


@pytest.mark.parametrize(("cores", "is_said"), [(1, True), (2, False), (None, False)])
def test_shared_cores_are_named_where_there_were_fewer_than_branches(
    cores: int | None, is_said: bool
) -> None:
    text = view.comparison(in_parallel(2, 5), ONE_BY_ONE, cores=cores)

    assert ("2 branches shared 1 core:" in text) is is_said


def test_a_way_whose_times_are_not_known_has_no_verdict() -> None:
    text = view.comparison([branch("topics", started=0)], ONE_BY_ONE, cores=1)

    assert "–" in text
    assert "In parallel it" not in text


def test_a_result_is_shown_by_branch_and_as_it_is() -> None:
    assert view.result_text({"p_0": "[bold]x", "p_1": [1, None]}) == "  p_0: [bold]x\n  p_1: [1, null]"
    assert view.result_text("one text") == "  one text"


def test_the_items_of_a_batch_are_counted() -> None:
    states = {"failed": 2, "skipped": 1, "success": 7}

    assert view.items_text(states) == "7 of 10 items done, 2 failed, 1 skipped"
