"""Outcomes of branches -> what the fan-in decides; plain values in and out, for parse time and worker."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, get_args

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


@dataclass(frozen=True, kw_only=True)
class Policy:
    """
    How many failures a fan-in tolerates.

    :param min_success: Least number of successes, or None.
    :param min_success_ratio: Least share of the counted branches, 0 < ratio <= 1, or None.
    :param count_skipped: What a skipped branch counts as; without a tolerance it is always left out.
    :param on_empty: What zero items mean; None: ``"succeed"`` without a tolerance, ``"fail"`` with one.
    """

    min_success: int | None = None
    min_success_ratio: float | Fraction | Decimal | None = None
    count_skipped: CountSkipped = "exclude"
    on_empty: OnEmpty | None = None

    @property
    def tolerant(self) -> bool:
        """Whether any branch may fail."""
        return self.min_success is not None or self.min_success_ratio is not None

    @property
    def when_empty(self) -> OnEmpty:
        """What zero items mean, the default resolved."""
        if self.on_empty is not None:
            return self.on_empty
        return "fail" if self.tolerant else "succeed"

    @property
    def problem_states(self) -> frozenset[State]:
        """States that count against the run."""
        skipped: tuple[State, ...] = ("skipped",) if self.count_skipped == "failure" else ()
        states: set[State] = {*FAILED_STATES, "missing", *skipped}
        return frozenset(states)

    def needed(self, counted: int) -> int:
        """
        How many of ``counted`` branches have to succeed.

        :param counted: Number of branches that count.
        """
        if not self.tolerant:
            return counted
        return max(
            self.min_success or 0,
            0 if self.min_success_ratio is None else math.ceil(as_written(self.min_success_ratio) * counted),
        )


@dataclass(frozen=True, kw_only=True)
class Tally:
    """
    How many branches ended in which state.

    :param states: ``{state: number of branches}``; a state that is not named has none.
    :param stopped: How many of the skipped were stopped by ``stop_after_failures``; they count as failures.
    """

    states: Mapping[State, int] = field(default_factory=dict)
    stopped: int = 0

    @classmethod
    def of(cls, states: Iterable[State], *, stopped: int = 0) -> Tally:
        """Count states."""
        counts: dict[State, int] = dict.fromkeys(STATES, 0)
        for state in states:
            counts[state] += 1
        return cls(states=counts, stopped=stopped)

    @property
    def expected(self) -> int:
        """Declared branches: the skipped are among them, the removed are not."""
        return sum(self.states.get(state, 0) for state in STATES if state != "removed")

    @property
    def succeeded(self) -> int:
        """Branches that succeeded."""
        return self.states.get("success", 0)

    @property
    def failed(self) -> int:
        """Branches that failed, or could not start because something before them did."""
        return sum(self.states.get(state, 0) for state in FAILED_STATES)

    @property
    def skipped(self) -> int:
        """Branches that were skipped, the stopped among them."""
        return self.states.get("skipped", 0)

    @property
    def missing(self) -> int:
        """Branches that succeeded without leaving the value that they should have left."""
        return self.states.get("missing", 0)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """
    What a fan-in decides.

    :param state: What becomes of the fan-in.
    :param counted: Number of branches that the threshold was measured against.
    :param succeeded: Number of branches that were taken for successes, skipped ones by ``count_skipped``
        included.
    :param needed: Number of successes that were needed.
    :param reason: Half a sentence for the log.
    :param empty: Whether there was nothing to fan in.
    """

    state: Literal["success", "degraded", "failed", "skipped"]
    counted: int
    succeeded: int
    needed: int
    reason: str
    empty: bool = False


def as_written(ratio: float | Fraction | Decimal) -> Fraction:
    """
    Turn a ratio into the fraction that its author wrote: 0.28 of 25 is 7, not 8.

    :param ratio: The ratio; a float is taken by its shortest decimal form.
    """
    return Fraction(float.__repr__(ratio)) if isinstance(ratio, float) else Fraction(ratio)


def decide(tally: Tally, policy: Policy) -> Verdict:
    """
    Decide what a fan-in does, once nothing but its branches can have gone wrong.

    :param tally: How many branches ended in which state.
    :param policy: How many failures are tolerated.
    """
    free_skips = tally.skipped - tally.stopped
    excluded = free_skips if policy.count_skipped == "exclude" else 0
    counted = tally.expected - excluded
    succeeded = tally.succeeded + (free_skips if policy.count_skipped == "success" else 0)
    needed = policy.needed(counted)

    def verdict(
        state: Literal["success", "degraded", "failed", "skipped"], reason: str, *, empty: bool = False
    ) -> Verdict:
        return Verdict(
            state=state, counted=counted, succeeded=succeeded, needed=needed, reason=reason, empty=empty
        )

    if tally.expected == 0:
        what: dict[OnEmpty, Literal["success", "failed", "skipped"]] = {
            "succeed": "success",
            "fail": "failed",
            "skip": "skipped",
        }
        return verdict(
            what[policy.when_empty],
            f"there are no branches, and on_empty is {policy.when_empty!r}",
            empty=True,
        )
    if free_skips == tally.expected and policy.count_skipped == "exclude":
        return verdict("skipped", f"every branch was skipped ({tally.skipped} of {tally.expected})")
    said = f"{succeeded} of {counted} {'branch' if counted == 1 else 'branches'} succeeded, {needed} needed"
    if tally.stopped:
        said += f", {tally.stopped} stopped by stop_after_failures"
    if succeeded < needed:
        return verdict("failed", said)
    return verdict("degraded" if tally.failed or tally.missing or tally.stopped else "success", said)
