from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.rules.policy import CountSkipped, OnEmpty, Policy, State, Tally, Verdict, decide

STATES: tuple[State, ...] = get_args(State)

hundredths = st.integers(0, 100)
tallies = st.builds(
    lambda states, stopped: tally(**states, stopped=min(stopped, states.get("skipped", 0))),
    st.dictionaries(st.sampled_from(STATES), st.integers(0, 30)),
    st.sampled_from([0, 0, 3, 99]),
)
on_empty = st.sampled_from((None, *get_args(OnEmpty)))
policies = (
    st.builds(Policy, on_empty=on_empty)
    | st.builds(
        Policy,
        min_success=st.none() | st.integers(0, 40),
        min_success_ratio=hundredths.map(lambda n: n / 100) | hundredths.map(lambda n: Decimal(n) / 100),
        count_skipped=st.sampled_from(get_args(CountSkipped)),
        on_empty=on_empty,
    )
    | st.builds(
        Policy,
        min_success=st.integers(0, 40),
        count_skipped=st.sampled_from(get_args(CountSkipped)),
        on_empty=on_empty,
    )
)


def tally(stopped: int = 0, **states: int) -> Tally:
    return Tally.of([state for state, number in states.items() for _ in range(number)], stopped=stopped)  # type: ignore[misc]


def by_the_table(counts: Tally, policy: Policy) -> str:
    """The policy table once more, row by row and in hundredths, to hold the other against."""
    good, skipped = counts.succeeded, counts.skipped - counts.stopped
    bad = counts.failed + counts.missing + counts.stopped
    tolerant = policy.min_success is not None or policy.min_success_ratio is not None
    if good + bad + skipped == 0:
        on_empty = policy.on_empty or ("fail" if tolerant else "succeed")
        return {"succeed": "success", "fail": "failed", "skip": "skipped"}[on_empty]
    if good + bad == 0 and policy.count_skipped == "exclude":
        return "skipped"
    counted = good + bad
    if policy.count_skipped != "exclude":
        counted += skipped
    enough = good + (skipped if policy.count_skipped == "success" else 0)
    holds = bad == 0 if not tolerant else True
    if isinstance(policy.min_success, int) and enough < policy.min_success:
        holds = False
    if policy.min_success_ratio is not None:
        hundredth = round(float(policy.min_success_ratio) * 100)
        if enough * 100 < hundredth * counted:
            holds = False
    if not holds:
        return "failed"
    return "degraded" if bad else "success"


@given(counts=tallies, policy=policies)
def test_the_verdict_is_that_of_the_table(counts: Tally, policy: Policy) -> None:
    assert decide(counts, policy).state == by_the_table(counts, policy)


@pytest.mark.parametrize(
    ("counts", "policy", "state"),
    [
        (tally(removed=3), Policy(on_empty="skip"), "skipped"),
        (tally(), Policy(min_success=0), "failed"),
        (tally(skipped=3), Policy(min_success=0), "skipped"),
        (tally(skipped=3), Policy(min_success=4, count_skipped="success"), "failed"),
        (tally(failed=3), Policy(min_success=0), "degraded"),
        (tally(success=9, failed=1, skipped=10), Policy(min_success_ratio=0.9), "degraded"),
        (tally(success=9, skipped=2, stopped=2), Policy(min_success=9, count_skipped="success"), "degraded"),
        (tally(skipped=2, stopped=2), Policy(min_success=1, count_skipped="success"), "failed"),
        (tally(skipped=3, stopped=1), Policy(), "failed"),
    ],
)
def test_rows_that_are_easily_got_wrong(counts: Tally, policy: Policy, state: str) -> None:
    assert decide(counts, policy).state == state


@pytest.mark.parametrize("count_skipped", get_args(CountSkipped))
def test_the_stopped_are_counted_and_no_successes(count_skipped: CountSkipped) -> None:
    """Of 100 branches, 10 succeed, 1 fails, 89 are stopped."""
    policy = Policy(min_success_ratio=0.9, count_skipped=count_skipped)
    verdict = decide(tally(success=10, failed=1, skipped=89, stopped=89), policy)

    assert verdict == Verdict(
        state="failed",
        counted=100,
        succeeded=10,
        needed=90,
        reason="10 of 100 branches succeeded, 90 needed, 89 stopped by stop_after_failures",
    )


@pytest.mark.parametrize(
    ("ratio", "counted", "needed"),
    [
        pytest.param(0.28, 25, 7, id="0.28 of 25 is 7, though the float is above 0.28"),
        pytest.param(0.1 + 0.2, 10, 4, id="0.1 + 0.2 was written as 0.30000000000000004"),
        pytest.param(1 - 0.9, 10, 1, id="1 - 0.9 was written as 0.09999999999999998"),
        pytest.param(1e-07, 10, 1, id="a float in scientific notation"),
        pytest.param(Fraction(1, 3), 9, 3, id="a third, which no float is"),
        pytest.param(Fraction(1, 3), 10, 4, id="a third, rounded up"),
        pytest.param(Decimal("0.280"), 25, 7, id="a decimal with a zero more"),
        pytest.param(1, 25, 25, id="a whole number"),
    ],
)
def test_a_share_is_rounded_up_exactly(ratio: Any, counted: int, needed: int) -> None:
    assert Policy(min_success_ratio=ratio).needed(counted) == needed


def test_a_float_that_shows_itself_otherwise_is_still_a_number() -> None:
    """As ``numpy.float64`` does, which is a float."""

    class Float64(float):
        def __repr__(self) -> str:
            return f"np.float64({float(self)!r})"

    assert Policy(min_success_ratio=Float64(0.28)).needed(25) == 7


@given(hundredth=hundredths, counted=st.integers(0, 10_000))
def test_every_way_to_write_a_share_needs_the_same(hundredth: int, counted: int) -> None:
    exact = -(-hundredth * counted // 100)

    assert Policy(min_success_ratio=hundredth / 100).needed(counted) == exact
    assert Policy(min_success_ratio=Fraction(hundredth, 100)).needed(counted) == exact
    assert Policy(min_success_ratio=Decimal(hundredth) / 100).needed(counted) == exact


@given(counts=tallies, policy=policies)
def test_the_figures_of_a_verdict_fit_each_other(counts: Tally, policy: Policy) -> None:
    verdict = decide(counts, policy)

    assert 0 <= verdict.succeeded <= verdict.counted <= counts.expected
    assert counts.expected == counts.succeeded + counts.failed + counts.skipped + counts.missing
    assert verdict.empty == (counts.expected == 0)
    assert verdict.needed == policy.needed(verdict.counted)
    if verdict.state != "skipped" and not verdict.empty:
        assert (verdict.succeeded < verdict.needed) == (verdict.state == "failed")


@pytest.mark.parametrize(
    ("policy", "needed"),
    [
        pytest.param(Policy(), 10, id="all without a tolerance"),
        pytest.param(Policy(min_success=12), 12, id="the number, though there are fewer"),
        pytest.param(Policy(min_success=3, min_success_ratio=0.5), 5, id="the share, where it is more"),
        pytest.param(Policy(min_success=7, min_success_ratio=0.5), 7, id="the number, where it is more"),
    ],
)
def test_what_is_needed_of_ten(policy: Policy, needed: int) -> None:
    assert policy.needed(10) == needed


@pytest.mark.parametrize(
    ("count_skipped", "more"), [("exclude", set()), ("success", set()), ("failure", {"skipped"})]
)
def test_problems_are_what_counts_against_the_run(count_skipped: CountSkipped, more: set[str]) -> None:
    problems = Policy(min_success=1, count_skipped=count_skipped).problem_states

    assert problems == {"failed", "upstream_failed", "missing", *more}


def test_a_tally_counts_each_state() -> None:
    mixed = tally(success=5, failed=1, upstream_failed=2, skipped=3, missing=4, removed=6, stopped=1)

    assert mixed == Tally(expected=15, succeeded=5, failed=3, skipped=3, missing=4, stopped=1)


@pytest.mark.parametrize(
    ("counts", "policy", "reason"),
    [
        (tally(success=5, failed=3), Policy(min_success=6), "5 of 8 branches succeeded, 6 needed"),
        (tally(success=1), Policy(), "1 of 1 branch succeeded, 1 needed"),
        (
            tally(success=2, skipped=1),
            Policy(min_success=3),
            "2 of 2 branches succeeded, 3 needed, 1 skipped and not counted",
        ),
        (
            tally(success=2, skipped=1),
            Policy(min_success=4, count_skipped="success"),
            "3 of 3 branches succeeded, 4 needed",
        ),
        (tally(skipped=3), Policy(), "every branch was skipped (3 of 3)"),
        (tally(), Policy(), "there are no branches, and on_empty is 'succeed'"),
    ],
)
def test_the_reason_has_the_numbers(counts: Tally, policy: Policy, reason: str) -> None:
    assert decide(counts, policy).reason == reason
