"""Moments -> columns of a time line; a long time in which nothing ran is cut short; for the terminal."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime


__all__ = ["Cut", "TimeScale", "time_scale"]

LONG = 1.0
"""Share of the busy time: an idle time that is longer is cut, as before a branch that was cleared."""

MOST_CUTS = 3
"""However many idle times there are; the longest are cut."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """
    An idle time that is not drawn.

    :param column: The one column that stands for it.
    :param seconds: How long it was.
    """

    column: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A time that is drawn, from a column on, in so many columns."""

    start: datetime
    end: datetime
    column: int
    width: int


@dataclass(frozen=True, kw_only=True)
class TimeScale:
    """
    Where moments lie.

    :param pieces: The times that are drawn, in order.
    :param cuts: What lies between them.
    """

    pieces: tuple[_Piece, ...]
    cuts: tuple[Cut, ...]

    @property
    def seconds(self) -> float:
        """Seconds from the first moment to the last, idle times included."""
        return (self.pieces[-1].end - self.pieces[0].start).total_seconds()

    def column(self, moment: datetime) -> int:
        """Return the column at which a moment lies, from 0 to the width."""
        piece = next((each for each in reversed(self.pieces) if moment >= each.start), self.pieces[0])
        span = (piece.end - piece.start).total_seconds()
        if span <= 0:
            return piece.column if moment <= piece.start else piece.column + piece.width
        share = (moment - piece.start).total_seconds() / span
        return piece.column + round(min(max(share, 0.0), 1.0) * piece.width)


def time_scale(spans: Iterable[tuple[datetime, datetime]], width: int) -> TimeScale:
    """
    Make the scale of a time line.

    :param spans: First and last moment of all that is drawn, at least one.
    :param width: Columns of the line, at least twice :data:`MOST_CUTS` and one.
    """
    busy = _joined(sorted(spans))
    total = sum((end - start).total_seconds() for start, end in busy)
    gaps = [(after[0] - before[1]).total_seconds() for before, after in itertools.pairwise(busy)]
    longest = sorted(range(len(gaps)), key=lambda place: (-gaps[place], place))[:MOST_CUTS]
    cut = sorted(place for place in longest if gaps[place] > LONG * total)
    edges = [0, *(place + 1 for place in cut), len(busy)]
    times = [(busy[first][0], busy[last - 1][1]) for first, last in itertools.pairwise(edges)]
    widths = _divided([(end - start).total_seconds() for start, end in times], width - len(cut))
    columns = [sum(widths[:place]) + place for place in range(len(times))]
    return TimeScale(
        pieces=tuple(
            _Piece(start=start, end=end, column=column, width=wide)
            for (start, end), column, wide in zip(times, columns, widths, strict=True)
        ),
        cuts=tuple(
            Cut(column=column - 1, seconds=gaps[place])
            for column, place in zip(columns[1:], cut, strict=True)
        ),
    )


def _joined(spans: Iterable[tuple[datetime, datetime]]) -> list[tuple[datetime, datetime]]:
    """Put together what overlaps, of spans in order."""
    busy: list[tuple[datetime, datetime]] = []
    for start, end in spans:
        if busy and start <= busy[-1][1]:
            busy[-1] = busy[-1][0], max(busy[-1][1], end)
        else:
            busy.append((start, end))
    return busy


def _divided(seconds: list[float], width: int) -> list[int]:
    """Divide columns by seconds; each gets one at least, and the longest what is left over or lacking."""
    total = sum(seconds)
    widths = [max(1, round(each / total * width)) if total > 0 else 1 for each in seconds]
    widths[seconds.index(max(seconds))] += width - sum(widths)
    return widths
