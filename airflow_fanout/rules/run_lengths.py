"""Sequences in which the same value often comes many times in a row, in the memory of its changes."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, chain, groupby, repeat
from typing import Any, TypeVar, overload

T = TypeVar("T")
Other = TypeVar("Other")


class RunLengths(Sequence[T]):
    """
    A sequence that is kept as values and how often each comes in a row.

    :param runs: Values, and how often each comes; neighbours that are equal become one.
    """

    def __init__(self, runs: Iterable[tuple[T, int]]) -> None:
        values: list[T] = []
        counts: list[int] = []
        for value, count in runs:
            if count and values and values[-1] == value:
                counts[-1] += count
            elif count:
                values.append(value)
                counts.append(count)
        self._values, self._stops = values, list(accumulate(counts))

    @property
    def runs(self) -> list[tuple[T, int]]:
        """Values, and how often each comes in a row."""
        return [(value, stop - start) for start, stop, value in self.spans()]

    def spans(self) -> Iterator[tuple[int, int, T]]:
        """Index of the first, and of that after the last, of equal values in a row, and the value."""
        yield from zip([0, *self._stops], self._stops, self._values, strict=False)

    def map(self, function: Callable[[T], Other]) -> RunLengths[Other]:
        """Make another sequence of what a function makes of each value."""
        return RunLengths((function(value), count) for value, count in self.runs)

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __iter__(self) -> Iterator[T]:
        return chain.from_iterable(repeat(value, count) for value, count in self.runs)

    @overload
    def __getitem__(self, place: int) -> T: ...

    @overload
    def __getitem__(self, place: slice) -> list[T]: ...

    def __getitem__(self, place: int | slice) -> T | list[T]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        return self._values[bisect_right(self._stops, range(len(self))[place])]

    def __contains__(self, value: object) -> bool:
        return value in self._values

    def count(self, value: Any) -> int:
        """Count how often a value comes."""
        return sum(count for of_run, count in self.runs if of_run == value)


def spans(values: Sequence[T]) -> Iterator[tuple[int, int, T]]:
    """Index of the first, and of that after the last, of equal values in a row, and the value."""
    if isinstance(values, RunLengths):
        yield from values.spans()
        return
    start = 0
    for value, group in groupby(values):
        stop = start + sum(1 for _ in group)
        yield start, stop, value
        start = stop


def counts(values: Sequence[T]) -> Counter[T]:
    """Count how often each value comes."""
    counter: Counter[T] = Counter()
    if not isinstance(values, RunLengths):
        counter.update(values)
        return counter
    for value, count in values.runs:
        counter[value] += count
    return counter
