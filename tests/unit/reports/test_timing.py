from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.reports.timing import (
    LONG,
    MOST_CUTS,
    BranchTiming,
    GroupSummary,
    SlowBranch,
    TaskTry,
    count_states,
    segments,
    summarize,
    summarize_work,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return MIDNIGHT + timedelta(seconds=seconds)


def timing(
    name: str = "process_0",
    queued: float | None = None,
    started: float | None = None,
    ended: float | None = None,
    *,
    work: float | None = None,
    state: str = "success",
    **settings: Any,
) -> BranchTiming:
    times = (None if seconds is None else at(seconds) for seconds in (queued, started, ended))
    settings |= dict(zip(("queued", "started", "ended"), times, strict=True))
    return BranchTiming(name=name, state=state, work_seconds=work, **settings)


def tried(queued: float, started: float, ended: float | None, number: int = 1) -> TaskTry:
    """A try of a task instance."""
    end = None if ended is None else at(ended)
    return TaskTry(number=number, state="failed", queued=at(queued), started=at(started), ended=end)


@st.composite
def finished_branches(draw: st.DrawFn) -> list[BranchTiming]:
    """Branches whose work, if recorded, fits inside their interval; few moments, so that many coincide."""
    branches = []
    for index in range(draw(st.integers(0, 8))):
        queued = draw(st.integers(0, 10))
        started = queued + draw(st.integers(0, 4))
        ended = started + draw(st.integers(0, 6))
        work = draw(st.none() | st.floats(0, ended - started))
        state = draw(st.sampled_from(["success", "failed"]))
        branches.append(timing(f"process_{index}", queued, started, ended, work=work, state=state))
    return branches


def test_all_figures_follow_their_definitions() -> None:
    summary = summarize(
        [
            timing("a", 0, 1, 5, work=3, cpu_seconds=1.0, peak_memory_bytes=7),
            timing("b", 2, 2, 9, work=7, cpu_seconds=2.0, peak_memory_bytes=9),
            timing("c", 1, 3, 7, work=2, state="failed"),
        ]
    )

    assert summary == GroupSummary(
        states={"failed": 1, "success": 2},
        total=3,
        recorded=3,
        work_seconds=12,
        median_work_seconds=3,
        wall_seconds=9,
        speed_up=12 / 9,
        overhead_share=1 - 12 / (5 + 7 + 6),
        median_overhead_seconds=2,
        elapsed_sum_seconds=4 + 7 + 4,
        cpu_seconds=3,
        computed_share=3 / 10,
        peak_memory_bytes=9,
        peak_concurrency=3,
        slowest=(
            SlowBranch(name="b", seconds=7, state="success", measure="work"),
            SlowBranch(name="a", seconds=3, state="success", measure="work"),
            SlowBranch(name="c", seconds=2, state="failed", measure="work"),
        ),
        median_without_slowest_seconds=2.5,
        wall_without_slowest_seconds=7,
        saved_without_slowest_seconds=2,
    )


def test_no_branches_have_no_figures() -> None:
    assert summarize([]) == GroupSummary(states={}, total=0)


def test_states_that_need_attention_are_counted_first() -> None:
    states = ["success", "waiting", "new_in_airflow_4", "failed", "success", "missing", "removed"]

    assert list(count_states(states).items()) == [
        *(("failed", 1), ("missing", 1), ("waiting", 1), ("success", 2)),
        *(("removed", 1), ("new_in_airflow_4", 1)),
    ]


UNKNOWN = {"wall_seconds": None, "speed_up": None, "work_seconds": 3, "saved_without_slowest_seconds": None}
ALONE = {"median_without_slowest_seconds": None, "wall_without_slowest_seconds": None}


def figures(id_: str, *branches: BranchTiming, **expected: Any) -> Any:
    return pytest.param(branches, expected, id=id_)


A = timing("a", 0, 1, 4, work=3)


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        figures("unrecorded-work", timing("a", 0, 1, 5), recorded=0, work_seconds=None, wall_seconds=5),
        figures("nor-what-follows-from-it", timing("a", 0, 1, 5), speed_up=None, overhead_share=None),
        figures("no-work", timing("a", 0, 1, 5, work=0.0), recorded=1, speed_up=0, overhead_share=1),
        figures(
            "overhead-is-about-branches-of-which-all-is-known",
            *(A, timing("b", 0, 0, 100), timing("c", None, 0, 50, work=50)),
            overhead_share=0.25,
            median_overhead_seconds=1,
        ),
        figures("no-length", timing("a", 3, 3, 3, work=0.0), wall_seconds=0, speed_up=None),
        figures("more-work-than-time", timing("a", 0, 0, 1, work=5), median_overhead_seconds=0),
        figures("wall-while-one-is-queued", A, timing("b", queued=1, state="queued"), **UNKNOWN),
        figures("wall-while-one-is-running", A, timing("b", 1, 2, state="running"), **UNKNOWN),
        figures("wall-before-a-next-try", A, timing("b", 9, 2, 3, state="queued"), **UNKNOWN),
        figures("wall-without-when-one-was-queued", A, timing("b", None, 1, 4), **UNKNOWN),
        figures("before-a-next-try", timing("a", 9, 2, 3), elapsed_sum_seconds=None, peak_concurrency=0),
        figures("deferred-counts-from-its-start", timing("a", 9, 2, 10), wall_seconds=8),
        figures("clocks-disagree", timing("a", 0, 4.1, 4), wall_seconds=4, elapsed_sum_seconds=None),
        figures(
            "without-the-slowest-the-others-may-begin-later",
            *(timing("a", 0, 1, 9, work=5), timing("b", 2, 3, 6, work=2)),
            wall_without_slowest_seconds=4,
            saved_without_slowest_seconds=5,
        ),
        figures("one-alone-is-compared-with-nothing", A, **ALONE),
        figures("nor-with-one-that-never-ran", A, timing("b"), **ALONE),
    ],
)
def test_what_is_not_known_is_not_guessed(branches: Sequence[BranchTiming], expected: dict[str, Any]) -> None:
    summary = summarize(branches)

    assert {name: getattr(summary, name) for name in expected} == expected


@pytest.mark.parametrize("moment", [-50, 50])
def test_a_branch_that_the_scheduler_stamped_without_running_it_changes_no_figure(moment: float) -> None:
    ran = timing("a", 0, 1, 4, work=3)
    stamped = timing("b", None, moment, moment, state="upstream_failed")

    summary = summarize([ran, stamped])

    assert replace(summary, states={}, total=1) == replace(summarize([ran]), states={})


def test_a_removed_branch_is_counted_by_state_alone() -> None:
    kept = timing("a", 0, 1, 4, work=3)
    removed = timing("b", -500, -400, -300, work=100, state="removed")

    assert summarize([kept, removed]) == replace(summarize([kept]), states={"success": 1, "removed": 1})


class TestPeakConcurrency:
    @pytest.mark.parametrize(
        ("intervals", "peak"),
        [
            pytest.param([(2, 2)], 0, id="an-instant"),
            pytest.param([(0, None), (7, 8)], 2, id="one-that-still-runs"),
            pytest.param([(None, 5), (7, 8)], 1, id="one-that-ended-without-a-start"),
        ],
    )
    def test_it_counts_branches_that_run_at_one_moment(
        self, intervals: list[tuple[float | None, float | None]], peak: int
    ) -> None:
        summary = summarize(timing("a", 0, started, ended) for started, ended in intervals)

        assert summary.peak_concurrency == peak

    @given(finished_branches())
    def test_it_is_what_a_look_at_every_moment_finds(self, branches: list[BranchTiming]) -> None:
        intervals = [(b.started, b.ended) for b in branches if b.started is not None and b.ended is not None]
        oracle = max((sum(s <= start < e for s, e in intervals) for start, _ in intervals), default=0)

        assert summarize(branches).peak_concurrency == oracle

    def test_of_branches_of_several_tasks_those_count_that_have_one_running(self) -> None:
        """Three steps one after another in a pool of one slot: between two of one branch the other's."""
        steps = (tried(0, 0, 3),), (tried(3, 6, 9),), (tried(9, 9, 9),)
        one = timing("a", 0, 0, 9, tasks=steps)
        other = timing("b", 0, 3, 6)
        beside = replace(one, name="c", tasks=((tried(0, 0, 3),), (tried(0, 2, None),)))

        assert summarize([one, other]).peak_concurrency == 1
        assert summarize([one, beside]).peak_concurrency == 2
        assert summarize([replace(one, tasks=()), other]).peak_concurrency == 2


@given(finished_branches())
def test_work_inside_its_own_interval_never_speeds_up_beyond_the_peak_concurrency(
    branches: list[BranchTiming],
) -> None:
    summary = summarize(branches)

    if summary.speed_up is not None:
        assert 0 <= summary.speed_up <= summary.peak_concurrency + 1e-9
        assert summary.peak_concurrency <= len(branches)
    if summary.overhead_share is not None:
        assert -1e-9 <= summary.overhead_share <= 1


@given(branches=finished_branches(), data=st.data())
def test_neither_the_order_of_the_branches_nor_the_day_makes_a_difference(
    branches: list[BranchTiming], data: st.DataObject
) -> None:
    days = timedelta(days=3)
    moved = [
        replace(b, **{which: getattr(b, which) + days for which in ("queued", "started", "ended")})
        for b in data.draw(st.permutations(branches))
    ]

    assert summarize(moved) == summarize(branches)


class TestSlowest:
    def test_work_is_never_ranked_against_elapsed_time(self) -> None:
        unrecorded = timing("a", 0, 0, 9, state="failed")
        worked = [timing(name, 0, 0, 5, work=work) for name, work in [("b", 2), ("c", 4)]]

        summary = summarize([unrecorded, *worked])

        assert [(slow.name, slow.measure) for slow in summary.slowest] == [("c", "work"), ("b", "work")]
        assert summary.median_without_slowest_seconds == 2

    @pytest.mark.parametrize("work", [None, 9])
    def test_a_branch_that_was_skipped_is_not_among_them(self, work: float | None) -> None:
        skipped = timing("a", 0, 0, 9, state="skipped", work=work)

        summary = summarize([skipped, timing("b", 0, 0, 5), timing("c", 0, 0, 6)])

        assert [(slow.name, slow.seconds) for slow in summary.slowest] == [("c", 6), ("b", 5)]
        assert summary.median_without_slowest_seconds == 5

    def test_where_nobody_recorded_work_it_is_by_elapsed_time(self) -> None:
        branches = [timing("a", None, 0, 3), timing("b", None, 4, 9), timing("c", started=1)]

        assert summarize(branches).slowest == (
            SlowBranch(name="b", seconds=5, state="success", measure="elapsed"),
            SlowBranch(name="a", seconds=3, state="success", measure="elapsed"),
        )

    def test_as_many_are_named_as_asked_for_equals_in_natural_order(self) -> None:
        branches = [timing(f"process_{index}", work=1) for index in (10, 9, 2)]

        slowest = summarize(branches, slowest=2).slowest

        assert [branch.name for branch in slowest] == ["process_2", "process_9"]


class TestTriesOfATask:
    """A branch that failed after 4 s, waited 30 s for its next try, and then worked for 2 s."""

    again = timing("a", 34, 35, 38, work=2, tasks=((tried(0, 1, 4), tried(34, 35, 38, 2)),))

    def test_wall_is_from_the_first_tries_queueing_to_the_last_ones_end(self) -> None:
        summary = summarize([self.again])

        assert (summary.wall_seconds, summary.speed_up) == (38, 2 / 38)

    @pytest.mark.parametrize(
        ("others", "idle"),
        [
            pytest.param([], 30, id="alone"),
            pytest.param([timing("b", 2, 3, 14)], 20, id="beside-one-that-runs"),
            pytest.param([timing("b", 0, 1, 36)], 0, id="beside-one-that-runs-all-the-time"),
            pytest.param([timing("b", 48, 48, 50)], 30, id="before-another-for-which-nobody-waits"),
        ],
    )
    def test_idle_time_is_that_in_which_all_wait_for_a_next_try(
        self, others: list[BranchTiming], idle: float
    ) -> None:
        assert summarize([self.again, *others]).idle_seconds == pytest.approx(idle)

    def test_elapsed_time_and_overhead_are_those_of_the_last_try(self) -> None:
        summary = summarize([self.again])

        assert (summary.elapsed_sum_seconds, summary.median_overhead_seconds) == (3, 2)
        assert summary.overhead_share == 0.5

    def test_they_leave_out_an_earlier_try_of_a_later_task(self) -> None:
        tasks = (tried(0, 1, 3),), (tried(4, 4, 5), tried(7000, 7001, 7003, 2))
        branch = timing("a", 0, 1, 7003, work=4, tasks=tasks)

        summary = summarize([branch])

        assert (summary.wall_seconds, summary.idle_seconds) == (7003, 6995)
        assert (summary.elapsed_sum_seconds, summary.median_overhead_seconds) == (6, 3)

    def test_both_tasks_may_have_been_tried_again(self) -> None:
        tasks = (tried(0, 0, 1), tried(50, 51, 52, 2)), (tried(1, 1, 2), tried(52, 53, 54, 2))

        assert summarize([timing("a", 50, 51, 54, work=2, tasks=tasks)]).elapsed_sum_seconds == 3

    def test_more_run_at_once_than_in_the_last_tries(self) -> None:
        assert summarize([self.again, timing("b", 0, 1, 3)]).peak_concurrency == 2


moments = st.floats(min_value=0, max_value=100_000, allow_nan=False)
some_spans = st.lists(st.tuples(moments, moments).map(sorted).map(tuple), min_size=1, max_size=30)


class TestSegments:
    def spans(self, *spans: tuple[float, float]) -> list[tuple[float, float]]:
        found = segments(timing(queued=start, ended=end) for start, end in spans)
        return [
            ((start - MIDNIGHT).total_seconds(), (end - MIDNIGHT).total_seconds()) for start, end in found
        ]

    def test_half_a_day_before_a_branch_was_cleared_is_left_out(self) -> None:
        assert self.spans((0, 10), (5, 40), (43_200, 43_210)) == [(0, 40), (43_200, 43_210)]

    @pytest.mark.parametrize(("idle", "number"), [(20 * LONG, 1), (20 * LONG + 0.01, 2)])
    def test_an_idle_time_is_left_out_if_it_is_longer_than_a_fifth_of_the_busy_time(
        self, idle: float, number: int
    ) -> None:
        assert len(self.spans((0, 10), (10 + idle, 20 + idle))) == number

    def test_of_many_idle_times_the_longest_are_left_out(self) -> None:
        starts = [1000.0 * n * n for n in range(MOST_CUTS + 3)]

        found = self.spans(*((start, start + 1) for start in starts))

        assert [start for start, _ in found] == [0, *starts[-MOST_CUTS:]]

    def test_of_nothing_there_are_none(self) -> None:
        assert self.spans() == []

    @given(spans=some_spans)
    def test_they_cover_all_spans_and_lie_apart(self, spans: list[tuple[float, float]]) -> None:
        found = segments(timing(queued=start, ended=end) for start, end in spans)

        assert all(any(s <= at(start) and at(end) <= e for s, e in found) for start, end in spans)
        assert all(before[1] < after[0] for before, after in pairwise(found))


SECONDS = st.none() | st.floats(0, 9)


@given(
    st.lists(st.tuples(st.sampled_from(["success", "failed", "skipped"]), SECONDS, SECONDS), max_size=20),
    st.integers(0, 20),
)
def test_items_in_columns_have_the_same_figures(
    items: list[tuple[str, float | None, float | None]], cut: int
) -> None:
    names = [f"item_{index}" for index in range(len(items))]
    branches = [
        BranchTiming(name=name, state=state, work_seconds=work, cpu_seconds=cpu)
        for name, (state, work, cpu) in zip(names, items, strict=True)
    ]
    columns: list[Any] = [
        (names[part], *([row[column] for row in items[part]] for column in range(3)))
        for part in (slice(cut), slice(cut, None))
    ]

    expected = replace(summarize(branches), computed_share=None)
    assert summarize_work(columns, states=Counter(row[0] for row in items), slowest=3) == expected
