"""One run in which every row of the policy table occurs; each fan-in has two retries that it must not use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("policy")


@pytest.mark.parametrize(
    ("fan_in", "verdict"),
    [
        pytest.param("mixed_3", "3 of 4 branches succeeded, 3 needed", id="min_success"),
        pytest.param(
            "mixed_4_skipped_succeed", "4 of 5 branches succeeded, 4 needed", id="skipped counts as success"
        ),
        pytest.param("mixed_ratio", "3 of 4 branches succeeded, 3 needed", id="min_success_ratio"),
        pytest.param("mixed_both", "3 of 4 branches succeeded, 3 needed", id="both hold"),
        pytest.param("quarter_reached", "7 of 25 branches succeeded, 7 needed", id="0.28 of 25 is 7"),
    ],
)
def test_a_reached_tolerance_succeeds_degraded(run: Run, fan_in: str, verdict: str) -> None:
    assert run.instance(fan_in).state == "success"
    assert f"Degraded: {verdict}" in run.log(fan_in)
    assert run.report(fan_in)["degraded"] is True


@pytest.mark.parametrize(
    ("fan_in", "verdict"),
    [
        pytest.param("mixed_all", "3 of 4 branches succeeded, 4 needed", id="no tolerance"),
        pytest.param("mixed_4", "3 of 4 branches succeeded, 4 needed (min_success=4)", id="min_success"),
        pytest.param(
            "mixed_3_skipped_fail",
            "3 of 5 branches succeeded, 4 needed (min_success_ratio=0.75)",
            id="skipped counts as failure",
        ),
        pytest.param(
            "mixed_both_ratio_missed",
            "3 of 4 branches succeeded, 4 needed (min_success=3, min_success_ratio=0.76)",
            id="ratio missed",
        ),
        pytest.param(
            "mixed_both_number_missed",
            "3 of 4 branches succeeded, 4 needed (min_success=4, min_success_ratio=0.75)",
            id="number missed",
        ),
        pytest.param(
            "quarter_missed",
            "7 of 25 branches succeeded, 8 needed (min_success_ratio=0.281)",
            id="0.281 of 25 is 8",
        ),
        pytest.param(
            "skips_fail", "0 of 2 branches succeeded, 1 needed", id="every branch skipped counts as failures"
        ),
    ],
)
def test_a_missed_threshold_fails_without_a_retry(run: Run, fan_in: str, verdict: str) -> None:
    assert (run.instance(fan_in).state, run.instance(fan_in).try_number) == ("failed", 1)
    assert verdict in run.log(fan_in)


def test_a_failure_names_branch_state_and_error(run: Run) -> None:
    assert "broken: failed: ValueError: out of order" in run.log("mixed_all")


def test_a_failure_names_skipped_branches_where_they_count_as_failures(run: Run) -> None:
    assert "idle: skipped" in run.log("mixed_3_skipped_fail")


@pytest.mark.parametrize(
    "fan_in", ["mixed_3", "mixed_all", "skips_all", "zero_default", "zero_fail", "zero_skip"]
)
def test_the_report_is_pushed_whatever_the_verdict(run: Run, fan_in: str) -> None:
    report = run.report(fan_in)
    expected = {"mixed": (5, 4, 3, 1, 1), "skips": (2, 0, 0, 0, 2), "zero": (0, 0, 0, 0, 0)}
    counts = ("expected", "counted", "succeeded", "failed", "skipped")
    assert tuple(report[name] for name in counts) == expected[fan_in.partition("_")[0]]


@pytest.mark.parametrize("fan_in", ["skips_all", "skips_exclude"])
def test_a_fan_in_is_skipped_with_its_branches_where_skips_do_not_count(run: Run, fan_in: str) -> None:
    assert run.instance(fan_in).state == "skipped"


def test_branches_that_were_all_skipped_succeed_where_a_skip_counts_as_success(run: Run) -> None:
    assert run.instance("skips_succeed").state == "success"
    assert run.xcom("skips_succeed") == {}
    assert run.report("skips_succeed")["degraded"] is False


@pytest.mark.parametrize(
    ("fan_in", "state"),
    [
        pytest.param("zero_default", "success", id="without a tolerance"),
        pytest.param("no_items_default", "success", id="an empty list"),
        pytest.param("zero_tolerant", "failed", id="with a tolerance"),
        pytest.param("zero_tolerant_succeed", "success", id="told to succeed"),
        pytest.param("zero_fail", "failed", id="told to fail"),
        pytest.param("zero_skip", "skipped", id="told to skip"),
    ],
)
def test_zero_branches_reach_on_empty(run: Run, fan_in: str, state: str) -> None:
    assert (run.instance(fan_in).state, run.instance(fan_in).try_number) == (state, 1)


def test_the_task_that_stands_for_zero_branches_is_none_by_prefix(run: Run) -> None:
    assert run.instance("no_items_by_prefix").state == "skipped"
    assert run.report("no_items_by_prefix")["expected"] == 0


@pytest.mark.parametrize("fan_in", ["zero_default", "no_items_default"])
def test_zero_branches_that_succeed_are_an_empty_mapping(run: Run, fan_in: str) -> None:
    assert run.xcom(fan_in) == {}


@pytest.mark.parametrize("fan_in", ["zero_default", "no_items_default"])
def test_zero_branches_keep_the_order_from_upstream_to_fan_in(run: Run, fan_in: str) -> None:
    assert run.instance(fan_in).start >= run.instance("prepare").end


def test_a_failure_before_a_group_of_zero_fails_the_fan_in_by_name(run: Run) -> None:
    fan_in = run.instance("zero_before_fails")
    assert (fan_in.state, fan_in.try_number) == ("failed", 1)
    assert "'before_zero_fails'" in run.log("zero_before_fails")


def test_a_skip_before_a_group_of_zero_skips_the_fan_in(run: Run) -> None:
    assert run.instance("zero_before_is_skipped").state == "skipped"


def test_a_failed_upstream_that_is_no_branch_fails_the_fan_in_in_spite_of_its_tolerance(run: Run) -> None:
    fan_in = run.instance("collect_beside_fails")
    assert (fan_in.state, fan_in.try_number) == ("failed", 1)
    assert "'beside_fails'" in run.log("collect_beside_fails")


def test_a_skipped_upstream_that_is_no_branch_skips_the_fan_in_in_spite_of_its_tolerance(run: Run) -> None:
    assert run.instance("collect_beside_is_skipped").state == "skipped"
    assert "'beside_is_skipped'" in run.log("collect_beside_is_skipped")
