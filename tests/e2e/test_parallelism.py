from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Run


def test_eight_branches_all_run_at_one_moment(timing_run: Run) -> None:
    branches = timing_run.group("eight")
    assert len(branches) == 8
    assert max(branch.start for branch in branches) < min(branch.end for branch in branches)


@pytest.mark.parametrize("group_id", ["eight", "three"])
def test_branches_that_wait_take_a_fraction_of_their_sum(
    timing_run: Run, limits: dict[str, float], group_id: str
) -> None:
    assert timing_run.wall_seconds(group_id) <= limits[group_id]
