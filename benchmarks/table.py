"""The figures as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.pairs import Comparison

__all__ = ["figures"]

SMALL = 0.2
"""Ratios below are told as fractions."""


def figures(comparisons: Iterable[Comparison]) -> Table:
    """Return one row for each measurement, ratios first."""
    table = Table()
    for title in ("ratio", "spread"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("measured", no_wrap=True)
    for title in ("ours", "by hand", "pairs", "target"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("")
    for comparison in comparisons:
        low, high = comparison.ratio_range
        table.add_row(
            _times(comparison.ratio),
            _spread(low, high),
            comparison.name,
            _amount(comparison.ours, comparison.unit),
            _amount(comparison.by_hand, comparison.unit),
            str(len(comparison.pairs)),
            _target(comparison),
            "" if comparison.target is None else "met" if comparison.met else "missed",
        )
    return table


def _times(ratio: float) -> str:
    """Say a ratio; a small one as a fraction: its decimals would say nothing."""
    return f"1/{1 / ratio:.3g} ×" if ratio < SMALL else f"{ratio:.2f} ×"


def _spread(low: float, high: float) -> str:
    return f"{_times(low)[:-2]}–{_times(high)[:-2]}"


def _amount(amount: float, unit: str) -> str:
    if unit in {"ms", "µs", "MB"}:
        return f"{amount:.3g} {unit}"
    if unit != "s":
        return f"{amount:,g}"
    return f"{amount * 1000:.0f} ms" if amount < 1 else f"{amount:.1f} s"


def _target(comparison: Comparison) -> str:
    target = comparison.target
    if target is None:
        return ""
    limit = _times(target.at_most) if target.of == "ratio" else _amount(target.at_most, comparison.unit)
    return f"≤ +{limit}" if target.of == "difference" else f"≤ {limit}"
