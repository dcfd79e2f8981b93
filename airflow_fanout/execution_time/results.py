"""What came of each branch, and the read-only mapping that a fan-in's function is given; on the worker."""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from functools import cached_property
from itertools import accumulate, chain
from typing import Any, Protocol

from airflow_fanout.exceptions import MergeConflictError
from airflow_fanout.rules.outcomes import BranchOutcome
from airflow_fanout.rules.policy import FAILED_STATES, MISSING_STATES, State
from airflow_fanout.rules.wording import counted, listing

__all__ = ["FanInResults", "Page", "ReadyPage"]

log = logging.getLogger(__name__)

PROGRESS_EVERY = 5.0
"""Seconds between two progress lines."""

OUTCOMES_HELD = 500
"""Outcomes that are kept in memory where pages are smaller than that."""


class Page(Protocol):
    """A run of consecutive branches whose outcomes are read together."""

    def __len__(self) -> int:
        """Return the number of branches."""

    @property
    def states(self) -> Sequence[State]:
        """State of each branch, in order; known without reading a value."""

    @property
    def stopped(self) -> int:
        """How many of the skipped were stopped by ``stop_after_failures``."""

    def find(self, name: str) -> int | None:
        """Return the place of a branch within the page, or None if it is not here."""

    def durations(self) -> Iterator[tuple[str, float | None]]:
        """Yield name and duration of each branch, in order; known without reading a value."""

    def peek(self, place: int) -> BranchOutcome:
        """Return the outcome of a branch within the page, without its value; reads nothing."""

    def read(self) -> Sequence[BranchOutcome]:
        """Return the outcomes, values included, in order."""


class ReadyPage:
    """
    A page that is in memory.

    :param outcomes: The outcomes, in order.
    :param stopped: How many of the skipped were stopped by ``stop_after_failures``.
    """

    def __init__(self, outcomes: Sequence[BranchOutcome], *, stopped: int = 0) -> None:
        self.stopped = stopped
        self._outcomes = tuple(outcomes)
        self._places = {outcome.name: place for place, outcome in enumerate(self._outcomes)}
        self.states = tuple(outcome.state for outcome in self._outcomes)

    def __len__(self) -> int:
        """Return the number of branches."""
        return len(self._outcomes)

    def find(self, name: str) -> int | None:
        """Return the place of a branch within the page, or None."""
        return self._places.get(name)

    def durations(self) -> Iterator[tuple[str, float | None]]:
        """Yield name and duration of each branch."""
        return ((outcome.name, outcome.duration) for outcome in self._outcomes)

    def peek(self, place: int) -> BranchOutcome:
        """Return the outcome of a branch."""
        return self._outcomes[place]

    def read(self) -> Sequence[BranchOutcome]:
        """Return the outcomes."""
        return self._outcomes


class _Ledger:
    """Pages as one sequence of outcomes, of which one page is in memory at a time, or several small ones."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self.pages = tuple(pages)
        self._starts = [0, *accumulate(len(page) for page in self.pages)]
        self._held: OrderedDict[int, Sequence[BranchOutcome]] = OrderedDict()
        self._told = 0.0
        self._found = 0

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, place: int) -> BranchOutcome:
        number = bisect_right(self._starts, place) - 1
        page = self.pages[number]
        if page.states[place - self._starts[number]] != "success":
            return page.peek(place - self._starts[number])
        if number not in self._held:
            while self._held and sum(map(len, self._held.values())) + len(page) > OUTCOMES_HELD:
                self._held.popitem(last=False)
            self._held[number] = page.read()
            self._tell(number)
        return self._held[number][place - self._starts[number]]

    def _tell(self, number: int) -> None:
        """Say how far a reader is that takes long."""
        now = time.monotonic()
        if now - self._told >= PROGRESS_EVERY:
            if self._told:
                log.info("%s of %s branches read", self._starts[number + 1], len(self))
            self._told = now

    def states(self) -> Iterator[State]:
        for page in self.pages:
            yield from page.states

    def __iter__(self) -> Iterator[BranchOutcome]:
        return map(self.__getitem__, range(len(self)))

    def find(self, name: str) -> int | None:
        # From the page of the last name on, so that a loop over names asks one page or two for each.
        for number in chain(range(self._found, len(self.pages)), range(self._found)):
            place: int | None = self.pages[number].find(name)
            if place is not None:
                self._found = number
                return self._starts[number] + place
        return None

    def places(self, wanted: Callable[[State], bool]) -> Iterator[int]:
        return (place for place, state in enumerate(self.states()) if wanted(state))


class _Outcomes(Mapping[str, BranchOutcome]):
    """Every declared branch's outcome by name, in declared order, read page by page."""

    def __init__(self, ledger: _Ledger) -> None:
        self._ledger = ledger

    def __getitem__(self, name: str) -> BranchOutcome:
        place = self._ledger.find(name)
        if place is None:
            raise KeyError(name)
        return self._ledger[place]

    def __iter__(self) -> Iterator[str]:
        return (name for page in self._ledger.pages for name, _ in page.durations())

    def __len__(self) -> int:
        return len(self._ledger)

    def __repr__(self) -> str:
        return f"<outcomes of {counted(len(self), 'branch', 'branches')}>"

    def items(self) -> ItemsView[str, BranchOutcome]:
        return _Items(self, self._pairs)

    def values(self) -> ValuesView[BranchOutcome]:
        return _Values(self, self._pairs)

    def _pairs(self) -> Iterator[tuple[str, BranchOutcome]]:
        return ((outcome.name, outcome) for outcome in self._ledger)


class FanInResults(Mapping[str, Any]):
    """
    What the successful branches returned: ``{name: value}``, read-only, in declared order.

    Values are read as they are asked for, a page at a time, so that a loop over ``results.items()`` holds one
    page in memory however many branches there are.

    :param pages: Every declared branch, in declared order.
    """

    def __init__(self, pages: Sequence[Page]) -> None:
        self._ledger = _Ledger(pages)

    def __getitem__(self, name: str) -> Any:
        """Return what the branch of this name returned; a KeyError tells why there is nothing."""
        place = self._ledger.find(name)
        if place is None:
            message = f"no branch is named {name!r}; branches: {listing(self.outcomes)}"
            raise KeyError(message)
        outcome = self._ledger[place]
        if outcome.state != "success":
            because = f" ({outcome.error})" if outcome.error else ""
            message = f"branch {name!r} has no value: it is {outcome.state}{because}"
            raise KeyError(message)
        return outcome.value

    def __contains__(self, name: object) -> bool:
        """Whether a branch of this name succeeded."""
        place = self._ledger.find(name) if isinstance(name, str) else None
        return place is not None and self._ledger[place].state == "success"

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the successful branches, in declared order."""
        return (outcome.name for outcome in self.successes())

    def __len__(self) -> int:
        """Return the number of successful branches."""
        return self._success_count

    def __repr__(self) -> str:
        """Return how many of the declared branches succeeded."""
        return f"<results of {len(self)} of {counted(len(self._ledger), 'branch', 'branches')}>"

    @property
    def outcomes(self) -> Mapping[str, BranchOutcome]:
        """Outcome of every declared branch by name, in declared order."""
        return _Outcomes(self._ledger)

    @cached_property
    def failed(self) -> Mapping[str, BranchOutcome]:
        """Outcomes of the branches that are ``failed`` or ``upstream_failed``, by name."""
        return self._part(FAILED_STATES)

    @cached_property
    def skipped(self) -> Mapping[str, BranchOutcome]:
        """Outcomes of the branches that were ``skipped``, by name."""
        return self._part({"skipped"})

    @cached_property
    def missing(self) -> Mapping[str, BranchOutcome]:
        """Outcomes of the branches that are ``missing`` or ``removed``, by name."""
        return self._part(MISSING_STATES)

    def merge(self) -> dict[str, Any]:
        """
        Unite the dicts that the successful branches returned.

        :raises MergeConflictError: If two branches wrote the same name.
        :raises TypeError: If a branch returned something other than a mapping.
        """
        merged: dict[Any, Any] = {}
        writers: dict[Any, list[str]] = {}
        for branch, value in self.items():
            if not isinstance(value, Mapping):
                message = (
                    f"merge() unites mappings; branch {branch!r} returned {type(value).__name__}. "
                    f"Take its value by name instead: results[{branch!r}]"
                )
                raise TypeError(message)
            for name in value:
                writers.setdefault(name, []).append(branch)
            merged.update(value)
        conflicts = {name: branches for name, branches in writers.items() if len(branches) > 1}
        if conflicts:
            raise MergeConflictError(conflicts)
        return merged

    @cached_property
    def _success_count(self) -> int:
        return sum(state == "success" for state in self._ledger.states())

    def successes(self) -> Iterator[BranchOutcome]:
        """Outcomes of the successful branches, in declared order, page by page."""
        for place in self._ledger.places(lambda state: state == "success"):
            outcome = self._ledger[place]
            if outcome.state == "success":  # a page may find out only when it is read that a value is gone
                yield outcome

    def outcomes_in(self, states: Iterable[State]) -> Iterator[BranchOutcome]:
        """
        Outcomes of the branches in these states, in declared order, page by page.

        :param states: The states.
        """
        wanted = frozenset(states)
        return map(self._ledger.__getitem__, self._ledger.places(wanted.__contains__))

    def problems(self, states: Collection[State]) -> Iterator[BranchOutcome]:
        """
        Outcomes of the branches in these states, and of the stopped, in declared order.

        :param states: The states.
        """
        wanted: set[State] = {*states, "skipped"} if self.stopped_count else {*states}
        for outcome in self.outcomes_in(wanted):
            # A skip has a reason only if it was a stop.
            if outcome.state in states or outcome.error is not None:
                yield outcome

    def states(self) -> Iterator[State]:
        """State of every declared branch, in declared order; reads no values."""
        return self._ledger.states()

    @property
    def stopped_count(self) -> int:
        """How many branches ``stop_after_failures`` did not let start; they are among the skipped."""
        return sum(page.stopped for page in self._ledger.pages)

    def durations(self) -> Iterator[tuple[str, State, float | None]]:
        """Name, state and duration of every declared branch, in declared order; reads no values."""
        for page in self._ledger.pages:
            for (name, duration), state in zip(page.durations(), page.states, strict=True):
                yield name, state, duration

    def _part(self, states: Iterable[State]) -> Mapping[str, BranchOutcome]:
        return {outcome.name: outcome for outcome in self.outcomes_in(states)}

    def items(self) -> ItemsView[str, Any]:
        """Names and values of the successful branches, in declared order, each page read once."""
        return _Items(self, self._pairs)

    def values(self) -> ValuesView[Any]:
        """Values of the successful branches, in declared order, each page read once."""
        return _Values(self, self._pairs)

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        return ((outcome.name, outcome.value) for outcome in self.successes())


class _Items(ItemsView[str, Any]):
    """Pairs in the order of the pages; ``ItemsView`` itself would look each name up again."""

    def __init__(self, mapping: Mapping[str, Any], pairs: Callable[[], Iterator[tuple[str, Any]]]) -> None:
        super().__init__(mapping)
        self._pairs = pairs

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._pairs()


class _Values(ValuesView[Any]):
    """Values in the order of the pages; ``ValuesView`` itself would look each name up again."""

    def __init__(self, mapping: Mapping[str, Any], pairs: Callable[[], Iterator[tuple[str, Any]]]) -> None:
        super().__init__(mapping)
        self._pairs = pairs

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._pairs())
