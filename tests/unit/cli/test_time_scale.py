from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.cli.time_scale import MOST_CUTS, Cut, TimeScale, time_scale

pytestmark = pytest.mark.unit

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
WIDTH = 40


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def scale_of(*spans: tuple[float, float], width: int = WIDTH) -> TimeScale:
    return time_scale([(at(start), at(end)) for start, end in spans], width)


def test_without_idle_time_columns_are_proportional_to_seconds() -> None:
    scale = scale_of((0, 10), (5, 40))

    assert [scale.column(at(second)) for second in (0, 10, 20, 40)] == [0, 10, 20, 40]
    assert scale.cuts == ()
    assert scale.seconds == 40


def test_half_a_day_before_a_branch_was_cleared_takes_one_column() -> None:
    scale = scale_of((0, 10), (43_200, 43_210))

    assert scale.cuts == (Cut(column=19, seconds=43_190),)
    assert [scale.column(at(second)) for second in (0, 10, 43_200, 43_210)] == [0, 19, 20, 40]
    assert scale.seconds == 43_210


@pytest.mark.parametrize(("idle", "cuts"), [(20.0, 0), (20.01, 1)])
def test_an_idle_time_is_cut_if_it_is_longer_than_all_busy_time(idle: float, cuts: int) -> None:
    assert len(scale_of((0, 10), (10 + idle, 20 + idle)).cuts) == cuts


def test_of_many_idle_times_the_longest_are_cut() -> None:
    scale = scale_of((0, 1), (101, 102), (1_102, 1_103), (3_103, 3_104), (6_104, 6_105))

    assert [cut.seconds for cut in scale.cuts] == [1_000, 2_000, 3_000]


def test_a_single_moment_lies_at_the_left() -> None:
    assert scale_of((5, 5)).column(at(5)) == 0


moments = st.floats(min_value=0, max_value=100_000, allow_nan=False)
spans = st.lists(
    st.tuples(moments, moments).map(lambda pair: (min(pair), max(pair))), min_size=1, max_size=30
)


@given(spans=spans, width=st.integers(2 * MOST_CUTS + 1, 100))
def test_later_moments_never_lie_further_left_and_all_lie_on_the_line(
    spans: list[tuple[float, float]], width: int
) -> None:
    scale = scale_of(*spans, width=width)

    columns = [scale.column(at(each)) for each in sorted({moment for span in spans for moment in span})]
    assert columns == sorted(columns)
    assert columns[0] >= 0
    assert columns[-1] <= width
    assert len(scale.cuts) <= MOST_CUTS
    assert all(0 < cut.column < width for cut in scale.cuts)


@given(spans=spans)
def test_what_is_cut_is_idle(spans: list[tuple[float, float]]) -> None:
    scale = scale_of(*spans)

    for before, after in zip(scale.pieces, scale.pieces[1:], strict=False):
        assert not any(at(start) < after.start and before.end < at(end) for start, end in spans)
