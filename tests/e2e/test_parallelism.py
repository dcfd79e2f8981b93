from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.run import Run

pytestmark = pytest.mark.e2e


def wall_seconds(run: Run, group_id: str, capsys: pytest.CaptureFixture[str]) -> float:
    """From the first start to the last end of a group's branches; always shown, with the time in the queue."""
    branches = run.group(group_id)
    end = max(branch.end for branch in branches)
    wall = (end - min(branch.start for branch in branches)).total_seconds()
    queued = min(branch.queued for branch in branches if branch.queued is not None)
    with capsys.disabled():
        print(f"\n{group_id}: {wall:.1f} s; {(end - queued).total_seconds():.1f} s since first queued")
    return wall


def test_eight_branches_all_run_at_one_moment(timing_run: Run) -> None:
    branches = timing_run.group("eight")
    assert len(branches) == 8
    assert max(branch.start for branch in branches) < min(branch.end for branch in branches)


def test_eight_branches_take_at_most_two_fifths_of_their_sum(
    timing_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wall_seconds(timing_run, "eight", capsys) <= 0.4 * 8 * 3


def test_three_branches_take_at_most_three_fifths_of_their_sum(
    timing_run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wall_seconds(timing_run, "three", capsys) <= 0.6 * (3.5 + 3.0 + 3.0)
