"""What a fan-in says of a run: its report, and the lines that name what went wrong; on the worker."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, TypedDict

from airflow_fanout.record_shapes import on_one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow_fanout.policy import Policy, Tally, Verdict
    from airflow_fanout.results import BranchOutcome, FanInResults

__all__ = ["PROBLEMS_NAMED", "FanInReport", "Problem", "fan_in_report", "problems_listing"]

PROBLEMS_NAMED = 20
"""Branches that a report or an error names; the rest are counted."""


class Problem(TypedDict):
    """A branch that counts against the run."""

    name: str
    state: str
    error: str | None


class FanInReport(TypedDict):
    """The XCom ``fan_out_report``; numbers of branches, and seconds."""

    expected: int
    counted: int
    succeeded: int
    failed: int
    skipped: int
    missing: int
    degraded: bool
    total_branch_seconds: float
    longest_branch: str | None
    longest_branch_seconds: float | None
    problems: list[Problem]


def fan_in_report(
    results: FanInResults, tally: Tally, verdict: Verdict, policy: Policy, *, degraded: bool
) -> FanInReport:
    """
    Put a run's figures together.

    :param results: Every branch's outcome.
    :param tally: How many ended in which state.
    :param verdict: What the branches alone decide.
    :param policy: The tolerance; it says which states are problems.
    :param degraded: Whether the fan-in succeeds in spite of some.
    """
    timed = [
        (seconds, name)
        for name, state, seconds in results.durations()
        if state == "success" and seconds is not None
    ]
    longest_seconds, longest = max(timed, key=lambda timing: timing[0], default=(None, None))
    return FanInReport(
        expected=tally.expected,
        counted=verdict.counted,
        succeeded=tally.succeeded,
        failed=tally.failed,
        skipped=tally.skipped,
        missing=tally.missing,
        degraded=degraded,
        total_branch_seconds=round(math.fsum(seconds for seconds, _ in timed), 6),
        longest_branch=longest,
        longest_branch_seconds=longest_seconds,
        problems=_problems(islice(results.problems(policy.problem_states), PROBLEMS_NAMED)),
    )


def problems_listing(problems: Iterable[Problem], total: int) -> str:
    """
    Lines that name branches, their states and errors.

    :param problems: The first of them.
    :param total: How many there are.
    """
    lines = [
        f"  {on_one_line(p['name'])}: {p['state']}" + (f": {p['error']}" if p["error"] else "")
        for p in problems
    ]
    if total > len(lines):
        lines.append(f"  and {total - len(lines)} more")
    return "\n".join(lines)


def _problems(outcomes: Iterable[BranchOutcome]) -> list[Problem]:
    return [Problem(name=outcome.name, state=outcome.state, error=outcome.error) for outcome in outcomes]
