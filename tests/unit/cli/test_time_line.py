from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_fanout.cli.time_line import Scale

pytestmark = pytest.mark.unit

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
WIDTH = 40


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def scale_of(*segments: tuple[float, float], width: int = WIDTH) -> Scale:
    return Scale([(at(start), at(end)) for start, end in segments], width)


@pytest.mark.parametrize(
    ("segments", "columns", "cuts"),
    [
        pytest.param([(0, 40)], {0: 0, 10: 10, 20: 20, 40: 40}, [], id="in-proportion-to-seconds"),
        pytest.param(
            [(0, 10), (43_200, 43_210)],
            {0: 0, 10: 19, 43_200: 20, 43_210: 40},
            [19],
            id="a-cut-takes-a-column",
        ),
        pytest.param([(5, 5)], {5: 0}, [], id="a-single-moment"),
    ],
)
def test_timestamps_have_columns(
    segments: list[tuple[float, float]], columns: dict[float, int], cuts: list[int]
) -> None:
    scale = scale_of(*segments)

    assert {second: scale.column(at(second)) for second in columns} == columns
    assert scale.cuts == cuts


@example(edges=[0, 0.5, 1, 2, 3, 6327, 12_214, 18_603, 31_453, 41_766, 62_382, 68_826], room=0)
@given(
    edges=st.lists(st.floats(0, 100_000), min_size=2, max_size=20, unique=True).map(sorted),
    room=st.integers(0, 60),
)
def test_later_timestamps_never_lie_further_left_and_all_lie_on_the_line(
    edges: list[float], room: int
) -> None:
    segments = [(start, end) for start, end in list(pairwise(edges))[::2]]
    width = 2 * len(segments) + room

    scale = scale_of(*segments, width=width)

    columns = [scale.column(at(edge)) for segment in segments for edge in segment]
    assert columns == sorted(columns)
    assert 0 <= columns[0] <= columns[-1] <= width
    assert all(0 < column < width for column in scale.cuts)
