"""Verdicts as the scheduler sees them; each fan-in has two retries that it must not use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Run

DAG_ID = "policy"


@pytest.mark.parametrize(
    ("fan_in", "state", "logged"),
    [
        ("mixed_3", "success", "Degraded: 3 of 4 branches succeeded, 3 needed"),
        ("mixed_all", "failed", "broken: failed: ValueError: out of order"),
        ("mixed_skipped_fail", "failed", "idle: skipped"),
        ("skips", "skipped", ""),
        ("zero_default", "success", ""),
        ("zero_tolerant", "failed", "Nothing to fan in"),
        ("zero_by_prefix", "skipped", ""),
        ("zero_before_fails", "failed", "'before_zero_fails'"),
        ("zero_before_is_skipped", "skipped", ""),
        ("collect_beside_fails", "failed", "'beside_fails'"),
        ("collect_beside_is_skipped", "skipped", "'beside_is_skipped'"),
    ],
)
def test_a_verdict_is_reached_in_one_try(run: Run, fan_in: str, state: str, logged: str) -> None:
    assert (run.instance(fan_in).state, run.instance(fan_in).try_number) == (state, 1)
    assert logged in run.log(fan_in)


@pytest.mark.parametrize(
    ("fan_in", "counts"),
    [("mixed_3", (5, 4, 3, 1, 1)), ("mixed_all", (5, 4, 3, 1, 1)), ("skips", (2, 0, 0, 0, 2))],
)
def test_the_report_is_pushed_whatever_the_verdict(run: Run, fan_in: str, counts: tuple[int, ...]) -> None:
    report = run.report(fan_in)
    assert tuple(report[name] for name in ("expected", "counted", "succeeded", "failed", "skipped")) == counts


def test_zero_branches_are_an_empty_mapping_and_keep_the_order_from_upstream_to_fan_in(run: Run) -> None:
    assert run.xcom("zero_default") == {}
    assert run.instance("zero_default").start >= run.instance("prepare").end
