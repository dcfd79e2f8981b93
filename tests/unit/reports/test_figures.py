from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from unittest.mock import Mock

import pytest

from airflow_fanout.reports.figures import figures, headline, shortened
from airflow_fanout.reports.group_report import BranchReport, Cause, GroupReport, Outcomes
from airflow_fanout.reports.timing import SlowBranch, TaskTry
from airflow_fanout.rules.wording import (
    format_amount,
    format_bytes,
    format_ratio,
    format_seconds,
    format_share,
)

pytestmark = pytest.mark.unit

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GROUP = GroupReport(
    title="etl", mode="static", states={"failed": 1, "success": 1}, total=2, segments=((NOON, NOON),)
)
ITEMS = Outcomes(states={"failed": 4, "success": 1996}, total=2000, recorded=2000)
BATCHED = replace(GROUP, mode="batched", total=1, items=ITEMS, item_concurrency=4)
STOPPED = replace(GROUP, states={"failed": 1, "skipped": 98, "success": 1}, total=100, stopped=89)
UNEXPANDED = GroupReport(title="load", mode="mapped", states={}, total=0, unexpanded="upstream_failed")
CAUSES = tuple(Cause(task_id="log_in", map_index=index, state="failed") for index in range(-1, 4))


@pytest.mark.parametrize(
    ("group", "text"),
    [
        (GROUP, "2 of 2 branches done · 1 failed"),
        (replace(GROUP, states={"success": 1}, total=1), "1 of 1 branch done"),
        (replace(GROUP, states={"running": 1, "success": 1}), "1 of 2 branches done · 1 running"),
        (
            replace(GROUP, states={"upstream_failed": 2, "removed": 7}),
            "2 of 2 branches done · 2 upstream failed · 7 removed",
        ),
        (replace(GROUP, degraded=True), "2 of 2 branches done · 1 failed · degraded"),
        (STOPPED, "100 of 100 branches done · 1 failed · 9 skipped · 89 stopped"),
        (replace(STOPPED, stopped=98), "100 of 100 branches done · 1 failed · 98 stopped"),
        (BATCHED, "2,000 of 2,000 items done · in 1 batch · 4 failed"),
        (UNEXPANDED, "not expanded: upstream_failed"),
        (
            replace(UNEXPANDED, unexpanded="waiting", causes=CAUSES),
            "not expanded: waiting · the cause lies before: log_in (failed), log_in[0] (failed) and 3 more",
        ),
    ],
)
def test_a_headline_says_how_far_it_is_and_what_went_wrong(group: GroupReport, text: str) -> None:
    assert headline(group) == text


SLOW: dict[str, Any] = {"slowest": (SlowBranch(name="eu", seconds=3.0, state="success", measure="work"),)}
WITHOUT: dict[str, Any] = {"wall_without_slowest_seconds": 3.6, "saved_without_slowest_seconds": 8.4}
FIRST_TRY = TaskTry(number=1, state="failed", queued=NOON, started=NOON, ended=NOON)
RETRIED = replace(GROUP, branches=(Mock(spec=BranchReport, earlier_tries=(FIRST_TRY,)),))
PER_ITEM = replace(BATCHED, items=replace(ITEMS, **SLOW, median_work_seconds=1.0))


@pytest.mark.parametrize(
    ("group", "text"),
    [
        (GROUP, "Work | – | what 0 of 2 branches took inside their code, added up"),
        (
            replace(BATCHED, work_seconds=72.0),
            "Work | 1 min 12 s | what 2,000 items took inside their code, added up",
        ),
        (replace(GROUP, cpu_seconds=0.04), "CPU | 40 ms | CPU time of that; the rest was spent waiting"),
        (
            replace(BATCHED, cpu_seconds=4.0, computed_share=0.03),
            "CPU | 4.0 s | of the batches' processes, which waited for 97 % of the time in which items ran",
        ),
        (
            replace(BATCHED, cpu_seconds=9.0, computed_share=2.5),
            "CPU | 9.0 s | of the batches' processes, which waited for 0 % of the time in which items ran",
        ),
        (
            replace(BATCHED, peak_memory_bytes=147_400_000),
            "Memory | 147 MB | at most, of one batch's process",
        ),
        (
            replace(GROUP, wall_seconds=4.0),
            "Wall | 4.0 s | from the first branch queued to the last one's end",
        ),
        (
            replace(GROUP, wall_seconds=4.0, is_finished=False),
            "Wall | 4.0 s | since the first branch was queued",
        ),
        (
            replace(GROUP, wall_seconds=38.0, idle_seconds=30.0, is_finished=False),
            "Wall | 38.0 s | since the first branch was queued, 30.0 s of it idle between tries",
        ),
        (RETRIED, "Work | – | what 0 of 2 branches took inside their code, in their last tries, added up"),
        (RETRIED, "Overhead | – | of the time from queued to end, in their last tries, was no work"),
        (replace(GROUP, speed_up=2.93), "Speed-up | 2.9× | work / wall"),
        (
            replace(BATCHED, overhead_share=0.34),
            "Overhead | 34 % | of the time from queued to end was no work",
        ),
        (BATCHED, "Overhead | – | of the time from queued to end was no work"),
        (replace(BATCHED, peak_concurrency=1), "At once | 1 of 1 | at the busiest moment"),
        (replace(GROUP, effective_concurrency=1, limit="a pool"), "Limit | 1 | a pool"),
        (replace(GROUP, effective_concurrency=2), "Limit | none | keeps all branches from running at once"),
        (GROUP, "Limit | – | not known: some of these tasks have limits of their own"),
        (replace(GROUP, **SLOW), "Slowest | 3.0 s | eu"),
        (
            replace(BATCHED, **SLOW),
            "Slowest | 3.0 s | eu: the work of its items, which ran at once, added up",
        ),
        (replace(GROUP, **SLOW, **WITHOUT), "Without it | 3.6 s | wall of the others, 8.4 s less"),
        (PER_ITEM, "Per item | 1.0 s | the median; the slowest is eu with 3.0 s"),
    ],
)
def test_a_figure_says_what_it_is_about(group: GroupReport, text: str) -> None:
    assert text in [f"{figure.name} | {figure.value} | {figure.note}" for figure in figures(group)]


def test_before_the_first_branch_was_queued_there_are_no_figures() -> None:
    assert figures(replace(GROUP, segments=())) == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("eu", "eu"),
        ("a" * 200 + "b" * 211, "a" * 39 + "…" + "b" * 20),
        ("two\nlines\x1b[2J", "two lines\\x1b[2J"),
    ],
)
def test_a_name_is_one_line_of_which_both_ends_can_be_read(name: str, text: str) -> None:
    assert shortened(name) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((None, "–"), (0, "0.0 s"), (0.0004, "0.0 s"), (0.04, "40 ms"), (0.0994, "99 ms")),
        *((0.0999, "0.1 s"), (3, "3.0 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (72, "1 min 12 s")),
        *((119.6, "2 min 0 s"), (3599.4, "59 min 59 s"), (3599.6, "1 h 0 min"), (7500, "2 h 5 min")),
        *((86_369, "23 h 59 min"), (86_371, "1 d 0 h"), (266_400, "3 d 2 h"), (-1.5, "-1.5 s")),
    ],
)
def test_seconds_are_written_for_people(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("write", "number", "text"),
    [
        *((format_ratio, None, "–"), (format_ratio, 0.0, "0.0×"), (format_ratio, 12, "12.0×")),
        *((format_share, None, "–"), (format_share, 0.344, "34 %"), (format_share, 1.0, "100 %")),
        *((format_amount, None, "–"), (format_amount, 812, "812 B"), (format_amount, 40_400, "40 kB")),
        *((format_amount, 2_345_600_000, "2.3 GB"), (format_amount, 999_600, "1 MB")),
        *((format_bytes, None, "–"), (format_bytes, 2_345_600_000, "2,346 MB")),
    ],
)
def test_what_is_not_known_is_a_dash_and_numbers_have_units(write: Any, number: Any, text: str) -> None:
    assert write(number) == text
