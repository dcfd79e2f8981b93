"""Alternated pairs of measurements, and what follows from them; plain values only."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Comparison", "Pair", "Target", "alternated"]

T = TypeVar("T")


def alternated(
    runs: int, ours: Callable[[], T], by_hand: Callable[[], T], *, warm_up: bool = True
) -> list[tuple[T, T]]:
    """
    Measure in pairs whose order is swapped every time, so that neither side has the quieter machine.

    :param runs: Number of pairs.
    :param ours: Measures the Dag with this package.
    :param by_hand: Measures the same Dag by hand.
    :param warm_up: Whether to measure one pair before, which is thrown away.
    :return: Pairs ``(ours, by hand)``, whichever was measured first.
    """
    pairs = []
    for number in range(-1 if warm_up else 0, runs):
        if number % 2 == 0:
            first = ours()
            pair = first, by_hand()
        else:
            first = by_hand()
            pair = ours(), first
        pairs.append(pair)
    return pairs[1:] if warm_up else pairs


@dataclass(frozen=True, kw_only=True)
class Pair:
    """
    Both sides, measured one right after the other.

    :param ours: The Dag with this package.
    :param by_hand: The same Dag by hand.
    """

    ours: float
    by_hand: float

    @property
    def ratio(self) -> float:
        """How many times as much as by hand."""
        return self.ours / self.by_hand

    @property
    def difference(self) -> float:
        """How much more than by hand."""
        return self.ours - self.by_hand


@dataclass(frozen=True, kw_only=True)
class Target:
    """
    What is promised.

    :param of: What it limits: the ratio or the difference (their medians), or what this package takes (at
        most).
    :param at_most: The limit.
    """

    of: Literal["ratio", "difference", "ours"]
    at_most: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """
    One measurement of both sides.

    :param name: What was measured.
    :param unit: Unit of the two sides: ``"s"``, ``"ms"``, ``"µs"``, ``"MB"`` or ``"requests"``.
    :param pairs: The pairs, in the order in which they were measured.
    :param target: What is promised; None where there is nothing to promise.
    """

    name: str
    unit: str
    pairs: tuple[Pair, ...]
    target: Target | None = None

    @property
    def ratio(self) -> float:
        """The pairs' median ratio: within a pair, the machine was as busy for one as for the other."""
        return statistics.median(pair.ratio for pair in self.pairs)

    @property
    def ratio_range(self) -> tuple[float, float]:
        """The pairs' lowest and highest ratio."""
        ratios = [pair.ratio for pair in self.pairs]
        return min(ratios), max(ratios)

    @property
    def ours(self) -> float:
        """The median with this package."""
        return statistics.median(pair.ours for pair in self.pairs)

    @property
    def by_hand(self) -> float:
        """The median by hand."""
        return statistics.median(pair.by_hand for pair in self.pairs)

    @property
    def met(self) -> bool:
        """Whether the target is met, if there is one."""
        if self.target is None:
            return True
        measured = {
            "ratio": self.ratio,
            "difference": statistics.median(pair.difference for pair in self.pairs),
            "ours": max(pair.ours for pair in self.pairs),
        }
        return measured[self.target.of] <= self.target.at_most

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON has it."""
        low, high = self.ratio_range
        return {
            "name": self.name,
            "unit": self.unit,
            "ratio": self.ratio,
            "ratio_range": [low, high],
            "ours": {"median": self.ours, "all": [pair.ours for pair in self.pairs]},
            "by_hand": {"median": self.by_hand, "all": [pair.by_hand for pair in self.pairs]},
            "target": self.target and {"of": self.target.of, "at_most": self.target.at_most},
            "met": self.met if self.target else None,
        }
