from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Run


def test_eight_branches_all_run_at_one_moment(timing_run: Run) -> None:
    branches = timing_run.group("eight")
    assert len(branches) == 8
    assert max(branch.start for branch in branches) < min(branch.end for branch in branches)


@pytest.mark.parametrize(
    "group_id",
    [
        pytest.param("eight", id="eight in two fifths"),
        pytest.param("three", id="three in three fifths"),
    ],
)
def test_branches_that_wait_take_a_fraction_of_their_sum(
    timing_run: Run, limits: dict[str, float], group_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    branches = timing_run.group(group_id)
    queued = min(branch.queued for branch in branches)
    in_all = (max(branch.end for branch in branches) - queued).total_seconds()
    wall = timing_run.wall_seconds(group_id)
    with capsys.disabled():
        print(f"\n{group_id}: {wall:.1f} s ({limits[group_id]:.1f} s allowed); {in_all:.1f} s since queued")
    assert wall <= limits[group_id]
