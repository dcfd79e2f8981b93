"""Outcomes of branches -> what the fan-in decides; plain values in and out, for parse time and worker."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar, cast, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from decimal import Decimal


State = Literal["success", "failed", "upstream_failed", "skipped", "missing", "removed"]
"""What can have become of a branch."""

CountSkipped = Literal["exclude", "success", "failure"]
"""What a skipped branch counts as where there is a tolerance."""

OnEmpty = Literal["succeed", "fail", "skip"]
"""What a fan-in over zero items does."""

STATES: tuple[State, ...] = get_args(State)

FAILED_STATES: frozenset[State] = frozenset({"failed", "upstream_failed"})

MISSING_STATES: frozenset[State] = frozenset({"missing", "removed"})

VerdictState = Literal["success", "degraded", "failed", "skipped"]

AtRunTime = Literal["at run time"]
AT_RUN_TIME: AtRunTime = "at run time"
"""Stands for a declared number that only a run knows: a Dag param, or the output of a task."""

Number = TypeVar("Number", bound="float | Fraction | Decimal")


def known(setting: Number | AtRunTime | None) -> Number | None:
    """Return a setting's number; None if it has none, or if only a run knows it."""
    return None if setting == AT_RUN_TIME else setting


class Policy(NamedTuple):
    """How many failures a fan-in tolerates; without a tolerance a skipped branch is always left out."""

    min_success: int | AtRunTime | None = None
    min_success_ratio: float | Fraction | Decimal | AtRunTime | None = None
    count_skipped: CountSkipped = "exclude"
    on_empty: OnEmpty | None = None

    @property
    def tolerant(self) -> bool:
        """Whether any branch may fail."""
        return self.min_success is not None or self.min_success_ratio is not None

    @property
    def is_known(self) -> bool:
        """Whether its numbers are not such that only a run knows."""
        return AT_RUN_TIME not in {self.min_success, self.min_success_ratio}

    @property
    def when_empty(self) -> OnEmpty:
        """What zero items mean, the default resolved."""
        return self.on_empty or ("fail" if self.tolerant else "succeed")

    @property
    def problem_states(self) -> frozenset[State]:
        """States that count against the run."""
        problems: frozenset[State] = FAILED_STATES | {"missing"}
        return problems | {"skipped"} if self.count_skipped == "failure" else problems

    def needed(self, counted: int) -> int:
        """How many of ``counted`` branches have to succeed, where it :attr:`is_known`."""
        if not self.tolerant:
            return counted
        least, ratio = cast("tuple[int, float]", (self.min_success or 0, self.min_success_ratio or 0))
        return max(least, math.ceil(as_written(ratio) * counted))


class Tally(NamedTuple):
    """
    Numbers of branches.

    :param expected: Declared ones: the skipped are among them, the removed are not.
    :param failed: Failed, or not started because something before them failed.
    :param skipped: Skipped, the stopped among them.
    :param missing: Succeeded without leaving the value that they should have left.
    :param stopped: Stopped by ``stop_after_failures``; they count as failures.
    """

    expected: int
    succeeded: int
    failed: int
    skipped: int
    missing: int
    stopped: int

    @classmethod
    def of(cls, states: Iterable[State] | Mapping[State, int], *, stopped: int = 0) -> Tally:
        """Count states, or take their numbers; ``stopped`` is how many of the skipped were stopped."""
        counts = Counter(states)
        return cls(
            expected=counts.total() - counts["removed"],
            succeeded=counts["success"],
            failed=sum(counts[state] for state in FAILED_STATES),
            skipped=counts["skipped"],
            missing=counts["missing"],
            stopped=stopped,
        )


class Verdict(NamedTuple):
    """
    What a fan-in decides.

    :param counted: Number of branches that the threshold was measured against.
    :param succeeded: Of these, successes and what ``count_skipped`` takes for them.
    :param reason: Half a sentence for the log.
    :param empty: Whether there was nothing to fan in.
    """

    state: VerdictState
    counted: int
    succeeded: int
    needed: int
    reason: str
    empty: bool = False


def as_written(ratio: float | Fraction | Decimal) -> Fraction:
    """Turn a ratio into the fraction that its author wrote: 0.28 of 25 is 7, not 8."""
    return Fraction(float.__repr__(ratio)) if isinstance(ratio, float) else Fraction(ratio)


def decide(tally: Tally, policy: Policy) -> Verdict:
    """Decide what a fan-in does, once nothing but its branches can have gone wrong."""
    free_skips = tally.skipped - tally.stopped
    counted = tally.expected - (free_skips if policy.count_skipped == "exclude" else 0)
    succeeded = tally.succeeded + (free_skips if policy.count_skipped == "success" else 0)
    needed = policy.needed(counted)
    verdict = partial(Verdict, counted=counted, succeeded=succeeded, needed=needed)
    if tally.expected == 0:
        states: dict[OnEmpty, VerdictState] = {"succeed": "success", "fail": "failed", "skip": "skipped"}
        reason = f"there are no branches, and on_empty is {policy.when_empty!r}"
        return verdict(state=states[policy.when_empty], reason=reason, empty=True)
    if free_skips == tally.expected and policy.count_skipped == "exclude":
        reason = f"every branch was skipped ({tally.skipped} of {tally.expected})"
        return verdict(state="skipped", reason=reason)
    reason = f"{succeeded} of {counted} {'branch' if counted == 1 else 'branches'} succeeded, {needed} needed"
    if tally.stopped:
        reason += f", {tally.stopped} stopped by stop_after_failures"
    if succeeded < needed:
        if free_skips and policy.count_skipped == "exclude":
            reason += f", {free_skips} skipped and not counted"
        return verdict(state="failed", reason=reason)
    is_degraded = tally.failed or tally.missing or tally.stopped
    return verdict(state="degraded" if is_degraded else "success", reason=reason)
