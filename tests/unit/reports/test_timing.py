from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.reports.timing import (
    BranchTiming,
    SlowBranch,
    find_straggler,
    median_overhead_seconds,
    share_computed,
    summarize,
)
from airflow_fanout.rules.wording import format_bytes, format_ratio, format_seconds, format_share

if TYPE_CHECKING:
    from collections.abc import Iterator

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float | None) -> datetime | None:
    return None if seconds is None else MIDNIGHT + timedelta(seconds=seconds)


def timing(
    name: str = "process_0",
    *,
    queued: float | None = None,
    started: float | None = None,
    ended: float | None = None,
    work: float | None = None,
    state: str = "success",
) -> BranchTiming:
    return BranchTiming(
        name=name, state=state, queued=at(queued), started=at(started), ended=at(ended), work_seconds=work
    )


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
        branches.append(
            timing(f"process_{index}", queued=queued, started=started, ended=ended, work=work, state=state)
        )
    return branches


def test_work_wall_speed_up_and_overhead_follow_their_definitions() -> None:
    summary = summarize(
        [
            timing("a", queued=0, started=1, ended=5, work=3),
            timing("b", queued=2, started=2, ended=8, work=6),
            timing("c", queued=1, started=3, ended=7, work=3),
        ]
    )

    assert (summary.total, summary.recorded) == (3, 3)
    assert summary.work_seconds == 12
    assert summary.wall_seconds == 8
    assert summary.speed_up == pytest.approx(12 / 8)
    assert summary.overhead_share == pytest.approx(1 - 12 / (5 + 6 + 6))
    assert summary.elapsed_sum_seconds == 4 + 6 + 4
    assert summary.peak_concurrency == 3


def test_no_branches_give_a_summary_without_figures() -> None:
    summary = summarize([])

    assert (summary.branches, summary.total, summary.recorded) == ({}, 0, 0)
    assert summary.work_seconds is None
    assert summary.wall_seconds is None
    assert summary.speed_up is None
    assert summary.overhead_share is None
    assert summary.elapsed_sum_seconds is None
    assert summary.slowest == ()
    assert summary.peak_concurrency == 0


def test_branches_are_counted_by_state_in_sorted_order() -> None:
    summary = summarize([timing(state=state) for state in ("success", "skipped", "failed", "success")])

    assert list(summary.branches.items()) == [("failed", 1), ("skipped", 1), ("success", 2)]


def test_unrecorded_work_is_none_and_not_guessed_from_the_elapsed_time() -> None:
    summary = summarize([timing(queued=0, started=1, ended=5)])

    assert (summary.recorded, summary.total) == (0, 1)
    assert summary.work_seconds is None
    assert summary.speed_up is None
    assert summary.overhead_share is None
    assert (summary.wall_seconds, summary.elapsed_sum_seconds) == (5, 4)


def test_recorded_work_of_zero_seconds_is_recorded() -> None:
    summary = summarize([timing(queued=0, started=1, ended=5, work=0.0)])

    assert (summary.recorded, summary.work_seconds, summary.speed_up) == (1, 0, 0)
    assert summary.overhead_share == 1
    assert summary.slowest == (SlowBranch(name="process_0", seconds=0.0, state="success", measure="work"),)


def test_overhead_is_about_the_branches_that_recorded_their_work_only() -> None:
    summary = summarize(
        [timing("a", queued=0, started=1, ended=4, work=3), timing("b", queued=0, started=0, ended=100)]
    )

    assert (summary.recorded, summary.total) == (1, 2)
    assert summary.overhead_share == pytest.approx(1 / 4)


def test_work_whose_span_is_unknown_does_not_count_against_the_overhead() -> None:
    summary = summarize(
        [timing("a", queued=0, started=1, ended=4, work=3), timing("b", started=0, ended=50, work=50)]
    )

    assert summary.overhead_share == pytest.approx(1 / 4)
    assert summary.work_seconds == 53


def test_a_group_of_no_length_has_no_ratio() -> None:
    summary = summarize([timing(queued=3, started=3, ended=3, work=0.0)])

    assert summary.wall_seconds == 0
    assert summary.speed_up is None
    assert summary.overhead_share is None


@pytest.mark.parametrize(
    "unfinished",
    [
        pytest.param(timing("b", queued=1, state="queued"), id="queued"),
        pytest.param(timing("b", queued=1, started=2, state="running"), id="running"),
        pytest.param(timing("b", queued=9, started=2, ended=3, state="queued"), id="queued for its next try"),
    ],
)
def test_wall_is_unknown_until_every_branch_has_ended(unfinished: BranchTiming) -> None:
    summary = summarize([timing("a", queued=0, started=1, ended=4, work=3), unfinished])

    assert (summary.wall_seconds, summary.speed_up) == (None, None)
    assert summary.work_seconds == 3


def test_wall_is_unknown_if_it_is_unknown_when_a_branch_was_queued() -> None:
    summary = summarize([timing("a", queued=2, started=3, ended=4), timing("b", started=1, ended=4)])

    assert summary.wall_seconds is None
    assert summary.elapsed_sum_seconds == 4


@pytest.mark.parametrize("moment", [-50, 50])
def test_a_branch_that_the_scheduler_stamped_without_running_it_changes_no_figure(moment: float) -> None:
    ran = timing("a", queued=0, started=1, ended=4, work=3)
    stamped = timing("b", started=moment, ended=moment, state="upstream_failed")

    summary = summarize([ran, stamped])

    assert replace(summary, branches={}, total=1) == replace(summarize([ran]), branches={})
    assert summary.total == 2


def test_a_removed_branch_is_counted_by_state_and_changes_no_figure() -> None:
    kept = timing("a", queued=0, started=1, ended=4, work=3)
    removed = timing("b", queued=-500, started=-400, ended=-300, work=100, state="removed")

    summary = summarize([kept, removed])

    assert summary == replace(summarize([kept]), branches={"removed": 1, "success": 1})


def test_a_branch_queued_for_its_next_try_has_no_elapsed_time_yet() -> None:
    summary = summarize([timing(queued=9, started=2, ended=3, state="queued")])

    assert summary.elapsed_sum_seconds is None
    assert summary.peak_concurrency == 0


def test_a_deferred_branch_counts_from_its_start_not_from_when_it_was_queued_to_resume() -> None:
    summary = summarize([timing(queued=9, started=2, ended=10, work=4)])

    assert summary.wall_seconds == 8
    assert summary.overhead_share == pytest.approx(1 / 2)


def test_a_start_after_the_end_gives_no_elapsed_time_but_keeps_the_end() -> None:
    summary = summarize([timing(queued=0, started=4.1, ended=4)])

    assert (summary.wall_seconds, summary.elapsed_sum_seconds, summary.peak_concurrency) == (4, None, 0)


@pytest.mark.parametrize(
    ("intervals", "peak"),
    [
        pytest.param([(0, 3), (3, 6)], 1, id="one after the other: the end is not in the interval"),
        pytest.param([(0, 3), (2, 6)], 2, id="overlapping"),
        pytest.param([(0, 9), (1, 2), (3, 4)], 2, id="two short ones during a long one"),
        pytest.param([(2, 2)], 0, id="an instant"),
        pytest.param([(0, None), (7, 8)], 2, id="one that still runs"),
        pytest.param([(None, 5), (7, 8)], 1, id="one that ended without a start"),
    ],
)
def test_peak_concurrency_counts_branches_that_run_at_one_moment(
    intervals: list[tuple[float | None, float | None]], peak: int
) -> None:
    summary = summarize(timing(queued=0, started=started, ended=ended) for started, ended in intervals)

    assert summary.peak_concurrency == peak


@given(finished_branches())
def test_peak_concurrency_is_what_a_look_at_every_moment_finds(branches: list[BranchTiming]) -> None:
    oracle = max(
        (
            sum(
                1
                for other in branches
                if other.started is not None
                and other.ended is not None
                and branch.started is not None
                and other.started <= branch.started < other.ended
            )
            for branch in branches
        ),
        default=0,
    )

    assert summarize(branches).peak_concurrency == oracle


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
def test_the_order_of_the_branches_makes_no_difference(
    branches: list[BranchTiming], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(branches))

    assert summarize(shuffled) == summarize(branches)


def test_sums_do_not_depend_on_the_order_in_their_last_digits() -> None:
    branches = [timing(str(work), queued=0, started=0, ended=1, work=work) for work in (0.1, 0.2, 0.3)]

    assert summarize(branches) == summarize(reversed(branches))


@given(finished_branches())
def test_moving_every_branch_in_time_makes_no_difference(branches: list[BranchTiming]) -> None:
    def later(moment: datetime | None) -> datetime | None:
        return None if moment is None else moment + timedelta(days=3)

    moved = [
        replace(branch, queued=later(branch.queued), started=later(branch.started), ended=later(branch.ended))
        for branch in branches
    ]

    assert summarize(moved) == summarize(branches)


def test_the_slowest_are_named_by_work_and_by_elapsed_time_where_no_work_was_recorded() -> None:
    branches = [
        timing("a", queued=0, started=0, ended=9, work=2),
        timing("b", queued=0, started=4, ended=7),
        timing("c", queued=0, started=0, ended=5, work=4),
        timing("d", queued=0, started=0),
    ]

    assert summarize(branches).slowest == (
        SlowBranch(name="c", seconds=4, state="success", measure="work"),
        SlowBranch(name="b", seconds=3, state="success", measure="elapsed"),
        SlowBranch(name="a", seconds=2, state="success", measure="work"),
    )


@pytest.mark.parametrize(
    ("slowest", "names"),
    [(0, []), (2, ["process_4", "process_3"]), (9, [f"process_{i}" for i in (4, 3, 2, 1, 0)])],
)
def test_as_many_of_the_slowest_are_named_as_asked_for(slowest: int, names: list[str]) -> None:
    branches = [timing(f"process_{seconds}", work=seconds) for seconds in range(5)]

    assert [branch.name for branch in summarize(branches, slowest=slowest).slowest] == names


def test_equally_slow_branches_come_in_natural_order() -> None:
    branches = [timing(f"process_{index}", work=1) for index in (10, 9, 2)]

    assert [branch.name for branch in summarize(branches).slowest] == ["process_2", "process_9", "process_10"]


def test_datetimes_of_one_time_zone_are_an_hour_apart_across_a_change_of_the_clocks() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    branch = BranchTiming(
        name="a",
        state="success",
        queued=datetime(2026, 3, 29, 1, 59, tzinfo=berlin),
        started=datetime(2026, 3, 29, 1, 59, tzinfo=berlin),
        ended=datetime(2026, 3, 29, 3, 1, tzinfo=berlin),
    )

    assert summarize([branch]).wall_seconds == 120


@pytest.fixture
def machine_in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as environment:
        environment.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("machine_in_berlin")
def test_naive_datetimes_among_themselves_are_not_taken_for_the_machines_local_time() -> None:
    naive = datetime(2026, 3, 29, 1, 59)  # noqa: DTZ001
    branch = BranchTiming(
        name="a", state="success", queued=naive, started=naive, ended=naive + timedelta(hours=2)
    )

    assert summarize([branch]).wall_seconds == 7200


@pytest.mark.parametrize("field", ["queued", "started", "ended"])
def test_naive_and_aware_datetimes_together_are_refused_with_the_branches_names(field: str) -> None:
    naive = BranchTiming(name="b", state="success", queued=None, started=None, ended=None)
    naive = replace(naive, **{field: datetime(2026, 1, 1)})  # type: ignore[arg-type]  # noqa: DTZ001

    with pytest.raises(ValueError, match="'a' has an aware one, branch 'b' a naive one"):
        summarize([timing("a", queued=0, started=1, ended=2), naive])


@pytest.mark.parametrize("work", [-0.1, float("nan"), float("inf")])
def test_work_that_is_no_duration_is_refused(work: float) -> None:
    with pytest.raises(ValueError, match="Branch 'process_0': expected work_seconds of 0 or more"):
        timing(work=work)


def test_a_negative_number_of_slowest_branches_is_refused() -> None:
    with pytest.raises(ValueError, match="slowest: expected 0 or more, not -1"):
        summarize([], slowest=-1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0 s"),
        (0.0004, "0.0 s"),
        (0.04, "40 ms"),
        (0.0994, "99 ms"),
        (0.0999, "0.1 s"),
        (3, "3.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (72, "1 min 12 s"),
        (119.6, "2 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (-1.5, "-1.5 s"),
    ],
)
def test_seconds_are_written_for_people(seconds: float | None, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(("ratio", "text"), [(None, "–"), (0.0, "0.0×"), (2.93, "2.9×"), (12, "12.0×")])
def test_ratios_are_written_for_people(ratio: float | None, text: str) -> None:
    assert format_ratio(ratio) == text


@pytest.mark.parametrize(("share", "text"), [(None, "–"), (0.0, "0 %"), (0.344, "34 %"), (1.0, "100 %")])
def test_shares_are_written_for_people(share: float | None, text: str) -> None:
    assert format_share(share) == text


@pytest.mark.parametrize(
    ("number", "text"), [(None, "–"), (147_400_000, "147 MB"), (2_345_600_000, "2,346 MB")]
)
def test_memory_is_written_for_people(number: int | None, text: str) -> None:
    assert format_bytes(number) == text


UNEVEN = [
    timing("a", queued=0, started=1, ended=5, work=3),
    timing("b", queued=0, started=1, ended=12, work=10),
    timing("c", queued=2, started=3, ended=6, work=2),
]


def test_of_branches_of_several_tasks_those_count_that_have_one_running() -> None:
    """Three steps one after another in a pool of one slot, the second branch's between the first one's."""
    one = replace(
        timing("a", queued=0, started=0, ended=9),
        tasks=(timing(started=0, ended=3), timing(started=6, ended=9), timing(started=9, ended=9)),
    )
    other = timing("b", queued=0, started=3, ended=6)
    beside = replace(one, name="c", tasks=(timing(started=0, ended=3), timing(started=2)))

    assert summarize([one, other]).peak_concurrency == 1
    assert summarize([one, beside]).peak_concurrency == 2
    assert summarize([replace(one, tasks=()), other]).peak_concurrency == 2


def test_without_the_slowest_the_others_end_as_they_did() -> None:
    found = find_straggler(UNEVEN)

    assert found is not None
    assert (found.branch.name, found.median_of_others) == ("b", 2.5)
    assert (found.wall_of_others, found.saved_seconds) == (6, 6)


def test_without_the_slowest_a_group_may_also_begin_later() -> None:
    found = find_straggler([timing("a", queued=0, started=1, ended=9, work=5), *UNEVEN[2:]])

    assert found is not None
    assert (found.wall_of_others, found.saved_seconds) == (4, 5)


@pytest.mark.parametrize(
    "branches", [[], UNEVEN[:1], [UNEVEN[0], timing("b")]], ids=["none", "one", "never-ran"]
)
def test_there_is_no_slowest_of_fewer_than_two(branches: list[BranchTiming]) -> None:
    assert find_straggler(branches) is None


def test_what_the_slowest_costs_is_unknown_if_the_wall_is() -> None:
    found = find_straggler([*UNEVEN, timing("d", started=1, ended=2)])

    assert found is not None
    assert (found.wall_of_others, found.saved_seconds) == (None, None)


def test_a_removed_branch_is_not_the_slowest() -> None:
    found = find_straggler([replace(UNEVEN[1], state="removed"), UNEVEN[0], UNEVEN[2]])

    assert found is not None
    assert found.branch.name == "a"


def test_the_median_of_the_overhead_is_over_what_recorded_its_work() -> None:
    others = [timing("d", queued=0, started=1, ended=100), timing("e", started=1, ended=9, work=1)]

    assert median_overhead_seconds([*UNEVEN, *others]) == 2
    assert median_overhead_seconds(others) is None


def test_overhead_of_more_work_than_time_is_none_and_not_less() -> None:
    assert median_overhead_seconds([timing("a", queued=0, started=0, ended=1, work=5)]) == 0


def test_what_was_computed_is_a_share_of_the_work_of_those_that_recorded_both() -> None:
    both = [replace(UNEVEN[0], cpu_seconds=1.5), replace(UNEVEN[1], cpu_seconds=5.0)]

    assert share_computed([*both, UNEVEN[2]]) == pytest.approx(0.5)
    assert share_computed(UNEVEN) is None
