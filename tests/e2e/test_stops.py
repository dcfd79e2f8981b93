"""Once enough branches have failed, those that have not started are skipped, and accounted for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Collected, Run

DAG_ID = "stops"

NAMES = [f"plain_{index}" for index in range(20)]
SLOTS = 2


@pytest.fixture(scope="module")
def plain(run: Run) -> Collected:
    return run.collected("collect_plain")


def test_what_has_not_started_is_skipped(plain: Collected) -> None:
    assert list(plain.states) == NAMES
    assert 3 <= len(plain.failed) < 3 + SLOTS
    assert len(plain.skipped) == 20 - len(plain.failed) - len(plain.items)
    assert len(plain.skipped) >= 20 - 2 * len(plain.failed) - SLOTS


def test_a_stopped_branch_says_why(plain: Collected) -> None:
    reasons = {plain.outcomes[name]["error"] for name in plain.skipped}
    for reason in reasons:
        assert reason.startswith("not started: ")
        assert "of 20 branches of 'plain' have failed (stop_after_failures=3): 'plain_" in reason


def test_stopped_branches_are_expected_and_count_as_failures_whatever_a_skip_counts(
    run: Run, plain: Collected
) -> None:
    report = run.report("collect_plain")
    assert (report["expected"], report["counted"]) == (20, 20)
    assert (report["succeeded"], report["failed"]) == (len(plain.items), len(plain.failed))
    assert report["skipped"] == len(plain.skipped)
    assert report["degraded"] is True


def test_a_ratio_is_measured_against_the_stopped_too(run: Run, plain: Collected) -> None:
    assert run.instance("collect_ratio").state == "failed"
    said = f"{len(plain.items)} of 20 branches succeeded, 18 needed, {len(plain.skipped)} stopped"
    assert said in run.log("collect_ratio")


def test_a_stopped_branch_costs_the_fan_in_one_request(run: Run) -> None:
    assert sum(run.xcom("collect_plain", "requests").values()) <= 20 + 3


def test_each_branch_asks_once_before_it_starts(run: Run, plain: Collected) -> None:
    for name, _ in plain.items:
        assert run.xcom(f"plain.{name}", "requests")["GetTaskBreadcrumbs"] == 1


def test_a_branch_of_several_tasks_is_stopped_as_a_whole(run: Run) -> None:
    chains = run.collected("collect_chains", "given")
    # How many had begun before the first one failed depends on the scheduler.
    assert chains.failed
    assert chains.skipped
    for name in chains.skipped:
        assert chains.outcomes[name]["error"].startswith("not started: ")
        assert run.instance(f"chains.{name}.first").state == "skipped"
        assert run.instance(f"chains.{name}.second").state == "skipped"


def test_a_failure_that_is_retried_stops_nothing(run: Run) -> None:
    assert run.xcom("collect_retried") == {f"retried_{index}": index for index in range(4)}


def test_what_pokes_or_is_deferred_goes_on(run: Run) -> None:
    waiting = run.collected("collect_waiting")
    assert waiting.states == {
        "sensor": "success",
        "deferred": "success",
        "failing": "failed",
        "late": "skipped",
    }
    assert waiting.outcomes["late"]["error"] == (
        "not started: 1 of 4 branches of 'waiting' have failed (stop_after_failures=1): 'failing'"
    )


def test_cleared_branches_run_though_enough_others_have_failed(run: Run, plain: Collected) -> None:
    again = [plain.failed[0], plain.skipped[0], plain.skipped[1]]
    run.clear(*(f"plain.{name}" for name in again))
    cleared = run.collected("collect_plain")
    for name in again:
        expected = "failed" if int(name.removeprefix("plain_")) % 2 else "success"
        assert (cleared.states[name], run.instance(f"plain.{name}").try_number) == (expected, 2)
