"""What came of each branch, and the read-only mapping that a fan-in's function is given; on the worker."""

from __future__ import annotations

import logging
import math
import threading
import time
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, ItemsView, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, chain
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Self, cast

from airflow_fanout.exceptions import BranchesRunningError, MergeConflictError
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.outcomes import BranchOutcome, LostValue, Ruling
from airflow_fanout.rules.policy import FAILED_STATES, MISSING_STATES, STATES, State
from airflow_fanout.rules.run_lengths import RunLengths, counts, spans
from airflow_fanout.rules.wording import counted, listing

if TYPE_CHECKING:
    from airflow_fanout.execution_time.combination import Combination, Entry
    from airflow_fanout.execution_time.stored_results import StoredValues
    from airflow_fanout.rules.identity import Match

log = logging.getLogger(__name__)

PROGRESS_EVERY = 5.0
"""Seconds between two progress lines."""

VALUES_HELD = 500
"""Branches whose values are kept in memory where pages are smaller than that."""

NOT_KEPT = "the group has combine=, and what that made of all values is results.combined"


class Page:
    """
    Consecutive branches whose values are read together; all else is known when the page is made.

    :param start: Index of the first branch among all.
    :param rulings: What became of each. This and the other sequences take the memory of their changes where
        they are :class:`RunLengths`.
    :param instances: Task id and map index of each one's last task.
    :param tries: How often the branch of an index was called; None where that is not known.
    :param load: Reads the values of the successful ones: by index within the page, a :class:`LostValue` in
        place of one that is gone. Where values are combined, only of those that are gone.
    :param entries: Where values are combined, reads them, or what was made of them, in declared order.
    :param stored: Where values are in files, these; they are read one after another, and not kept.
    :param parts: Paths of the files whose values count.
    """

    def __init__(
        self,
        *,
        start: int,
        names: Sequence[str],
        rulings: Sequence[Ruling],
        instances: Sequence[tuple[str, int]],
        durations: Sequence[float | None],
        load: Callable[[], Mapping[int, Any]],
        entries: Callable[[], Iterable[Entry]] | None = None,
        tries: Callable[[int], int | None] | None = None,
        stored: StoredValues | None = None,
        parts: Sequence[str] = (),
    ) -> None:
        self.states = _states(rulings)
        for start_of_run, _, state in spans(self.states):
            if state not in STATES:
                task_id, _ = instances[start_of_run]
                message = f"{task_id!r} is finished in a state that is not known: {state!r}"
                raise ValueError(message)
        self.names, self.durations, self._tries = names, durations, tries
        self._entries, self.stored, self.parts = entries, stored, parts
        self._start, self._rulings, self._instances = start, rulings, instances
        self._load: Callable[[], Mapping[int, Any]] | None = load
        self._values: Mapping[int, Any] = {}

    @classmethod
    def of(
        cls,
        outcomes: Sequence[BranchOutcome],
        start: int = 0,
        entries: Callable[[], Iterable[Entry]] | None = None,
        parts: Sequence[str] = (),
    ) -> Self:
        """Make a page of outcomes with their values; the first one's index among all is ``start``."""
        return cls(
            start=start,
            names=[outcome.name for outcome in outcomes],
            rulings=[
                Ruling(
                    state=outcome.state,
                    error=outcome.error,
                    is_stopped=outcome.is_stopped,
                    is_reused=outcome.reused,
                )
                for outcome in outcomes
            ],
            instances=[(outcome.task_id, outcome.map_index) for outcome in outcomes],
            durations=[outcome.duration for outcome in outcomes],
            tries=[outcome.tries for outcome in outcomes].__getitem__,
            load=lambda: {index: outcome.value for index, outcome in enumerate(outcomes)},
            entries=entries,
            parts=parts,
        ).settle()

    def __len__(self) -> int:
        """Return the number of branches."""
        return len(self._rulings)

    @cached_property
    def stopped_count(self) -> int:
        """Number of branches that ``stop_after_failures`` did not let start."""
        return sum(stop - start for start, stop, ruling in spans(self._rulings) if ruling.is_stopped)

    @property
    def state_counts(self) -> Counter[State]:
        """How many branches there are by state."""
        return counts(self.states)

    def indexes(self, states: Collection[State]) -> Iterator[int]:
        """Indexes of the branches in these states, in order."""
        runs = (range(start, stop) for start, stop, state in spans(self.states) if state in states)
        return chain.from_iterable(runs)

    @property
    def reused_names(self) -> Iterator[str]:
        """Names of those whose value is that of an earlier run."""
        return (name for name, r in zip(self.names, self._rulings, strict=True) if r.is_reused)

    @cached_property
    def reused_count(self) -> int:
        """Number of branches whose value is that of an earlier run."""
        return sum(stop - start for start, stop, ruling in spans(self._rulings) if ruling.is_reused)

    def settle(self) -> Self:
        """Read the values now and keep them; a success whose value is gone becomes missing."""
        if self.stored is None and self._load is not None:
            self._values, self._load = self._load(), None
            self._rulings = [r.of_value(self._values.get(index)) for index, r in enumerate(self._rulings)]
            self.states = _states(self._rulings)
        return self

    def instances(self) -> Iterator[tuple[str, tuple[str, int]]]:
        """Name of each branch, with its instance; of items in files, only those of their task instance."""
        if self.stored is not None:
            runs = spans(self._instances)
            yield from ((instance_name(*instance), instance) for _, _, instance in runs)
            return
        for name, ruling, instance in zip(self.names, self._rulings, self._instances, strict=True):
            yield name, ruling.culprit or instance

    def success_seconds(self) -> Iterator[tuple[float, str | None]]:
        """Durations of the branches that succeeded, with their names; of items in files, those together."""
        if self.stored is None:
            timed = zip(self.names, self.states, self.durations, strict=True)
            yield from ((s, name) for name, state, s in timed if state == "success" and s is not None)
        elif "success" in self.states and self.stored.results.success_seconds is not None:
            yield self.stored.results.success_seconds, None

    def longest(self) -> tuple[float, str] | None:
        """Duration and name of the success that took longest; None if none is known."""
        if self.stored is None:
            timed = ((s, name) for s, name in self.success_seconds() if name is not None)
            return max(timed, key=lambda timing: timing[0], default=None)
        longest = self.stored.results.longest
        if longest is None or "success" not in self.states:
            return None
        return longest.seconds, self.names[longest.position]

    def work_seconds(self) -> Iterator[float]:
        """Durations of all branches but the removed; of items in files, those together."""
        if self.stored is None:
            timed = zip(self.states, self.durations, strict=True)
            yield from (s for state, s in timed if s is not None and state != "removed")
        elif self.stored.results.seconds is not None:
            yield self.stored.results.seconds

    def value_at(self, index: int, pairs: Iterator[tuple[int, Any]]) -> Any:
        """Take the value of a success out of those that are read in order; raises if it is not among them."""
        found, value = next(pairs, (-1, None))
        if found != index:
            raise self._gone([index])
        return value

    def _gone(self, indexes: Sequence[int]) -> BranchesRunningError:
        names = [self.names[index] for index in indexes]
        message = f"Values are gone since they were counted: {listing(names)}"
        return BranchesRunningError(message, names=names)

    @property
    def is_combined(self) -> bool:
        """Whether the values are combined, and none is kept by its name."""
        return self._entries is not None

    def read_entries(self) -> Iterable[Entry]:
        """Return what is to be combined; raises if a value is gone since it was counted as a success."""
        self.read()
        return () if self._entries is None else self._entries()

    def read(self) -> Mapping[int, Any]:
        """Return the values by index; raises if one is gone since it was counted as a success."""
        values = self._values if self._load is None else self._load()
        gone = [index for index, value in values.items() if isinstance(value, LostValue)]
        if lost := [index for index in gone if self.states[index] == "success"]:
            raise self._gone(lost)
        return values

    def outcome(self, index: int, value: Any = None) -> BranchOutcome:
        """Return the outcome of a branch within the page, with the value that was read."""
        ruling = self._rulings[index]
        task_id, map_index = ruling.culprit or self._instances[index]
        error = ruling.error if self.stored is None else self.stored.error(index, ruling.error)
        return BranchOutcome(
            name=self.names[index],
            index=self._start + index,
            state=cast("State", ruling.state),
            value=value if ruling.state == "success" else None,
            error=error,
            task_id=task_id,
            map_index=map_index,
            duration=self.durations[index],
            is_stopped=ruling.is_stopped,
            tries=None if self._tries is None else self._tries(index),
            reused=ruling.is_reused,
        )


def _states(rulings: Sequence[Ruling]) -> Sequence[State]:
    if isinstance(rulings, RunLengths):
        return cast("Sequence[State]", rulings.map(attrgetter("state")))
    return cast("list[State]", [ruling.state for ruling in rulings])


def arranged(
    pages: Iterable[Page],
    matches: Sequence[Match],
    start: int,
    instance_at: Callable[[int], tuple[str, int]],
    entries: Callable[[], Iterable[Entry]] | None = None,
) -> Page:
    """
    Put branches into the order that their names give them; reads all values.

    :param matches: Their executions are indexes among all that the pages tell of.
    :param instance_at: Task id and map index of what would run the branch at a position.
    """
    pages = [page.settle() for page in pages]
    outcomes = list(_Ledger(pages).outcomes(STATES))
    parts = [path for page in pages for path in page.parts]
    arranged_outcomes = [_arranged(each, outcomes, instance_at(n)) for n, each in enumerate(matches)]
    return Page.of(arranged_outcomes, start, entries, parts)


def _arranged(match: Match, outcomes: Sequence[BranchOutcome], instance: tuple[str, int]) -> BranchOutcome:
    if match.execution is not None and match.ruling is None:
        return replace(outcomes[match.execution], name=match.name)
    task_id, map_index = instance
    duration, tries = None, None
    if match.execution is not None:
        ran = outcomes[match.execution]
        task_id, map_index, duration, tries = ran.task_id, ran.map_index, ran.duration, ran.tries
    ruling = match.ruling or Ruling(state="missing")
    return BranchOutcome(
        name=match.name,
        index=0,
        state=cast("State", ruling.state),
        error=ruling.error,
        task_id=task_id,
        map_index=map_index,
        duration=duration,
        tries=tries,
    )


class _Ledger:
    """Pages as one sequence of outcomes, of which one page is in memory at a time, or several small ones."""

    def __init__(self, pages: Sequence[Page]) -> None:
        self.pages = tuple(pages)
        self._starts = [0, *accumulate(len(page) for page in self.pages)]
        self._held: OrderedDict[int, Mapping[int, Any]] = OrderedDict()
        self._lock = threading.Lock()  # a fan-in's function may use threads
        self._logged_at = 0.0

    def __len__(self) -> int:
        return self._starts[-1]

    def _read(self, number: int) -> Mapping[int, Any]:
        with self._lock:
            values = self._held.get(number)
            if values is None:
                while self._held and sum(len(self.pages[n]) for n in (*self._held, number)) > VALUES_HELD:
                    self._held.popitem(last=False)
                values = self._held[number] = self.pages[number].read()
                self._log_progress(number)
        return values

    def _log_progress(self, number: int) -> None:
        """Say how far a reader is that takes long."""
        now = time.monotonic()
        if now - self._logged_at >= PROGRESS_EVERY:
            if self._logged_at:
                log.info("%s of %s branches read", self._starts[number + 1], len(self))
            self._logged_at = now

    def states(self) -> Iterator[State]:
        return chain.from_iterable(page.states for page in self.pages)

    def state_counts(self) -> Counter[State]:
        return sum((page.state_counts for page in self.pages), Counter())

    def outcomes(self, states: Collection[State]) -> Iterator[BranchOutcome]:
        """Outcomes of the branches in these states, in order, page by page."""
        for number, page in enumerate(self.pages):
            has_values = not page.is_combined and "success" in states and "success" in page.states
            values = self._pairs(number) if has_values else iter(())
            for index in page.indexes(states):
                has_value = has_values and page.states[index] == "success"
                yield page.outcome(index, page.value_at(index, values) if has_value else None)

    def values(self) -> Iterator[tuple[str, Any]]:
        """Names and values of the branches that succeeded, in order, page by page."""
        for number, page in enumerate(self.pages):
            if "success" in page.states:
                pairs, names = self._pairs(number), page.names
                for index in page.indexes({"success"}):
                    yield names[index], page.value_at(index, pairs)

    def _pairs(self, number: int) -> Iterator[tuple[int, Any]]:
        """Indexes and values of the successes of a page; those that are in files are not kept."""
        page = self.pages[number]
        if page.stored is not None:
            self._log_progress(number)
            return page.stored.read()
        values = self._read(number)
        return ((index, values.get(index)) for index in page.indexes({"success"}))

    @cached_property
    def _positions(self) -> Mapping[str, int]:
        return {name: index for index, name in enumerate(self.names())}

    def names(self) -> Iterator[str]:
        return chain.from_iterable(page.names for page in self.pages)

    def find(self, name: str) -> tuple[int, int] | None:
        """Number of a branch's page, and its index in it; None if there is no branch of this name."""
        position = self._positions.get(name)
        if position is None:
            return None
        number = bisect_right(self._starts, position) - 1
        return number, position - self._starts[number]

    def outcome(self, name: str) -> BranchOutcome | None:
        """Outcome of the branch of a name; None if there is none."""
        if (found := self.find(name)) is None:
            return None
        number, index = found
        page = self.pages[number]
        has_value = not page.is_combined and page.states[index] == "success"
        return page.outcome(index, self._read(number).get(index) if has_value else None)

    def is_combined(self, name: str) -> bool:
        """Whether the value of a branch, if it has one, was combined with others."""
        found = self.find(name)
        return found is not None and self.pages[found[0]].is_combined

    def is_success(self, name: str) -> bool:
        """Whether a branch of this name succeeded; reads no value."""
        found = self.find(name)
        return found is not None and self.pages[found[0]].states[found[1]] == "success"


class _PagedMapping(Mapping[str, Any]):
    """A mapping that can be gone through in the order of the pages, each read once."""

    def __init__(self, ledger: _Ledger) -> None:
        self._ledger = ledger

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        """Yield the items; to look up a million names would take an index of them."""
        raise NotImplementedError

    def items(self) -> ItemsView[str, Any]:
        """Names and values, in declared order, each page read once."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Values, in declared order, each page read once."""
        return _Values(self)


class _Items(ItemsView[str, Any]):
    _mapping: _PagedMapping

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping._pairs()  # noqa: SLF001 - a view of it


class _Values(ValuesView[Any]):
    _mapping: _PagedMapping

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._pairs())  # noqa: SLF001 - a view of it


class _Outcomes(_PagedMapping):
    """Every declared branch's outcome by name, in declared order."""

    def __getitem__(self, name: str) -> BranchOutcome:
        outcome = self._ledger.outcome(name)
        if outcome is None:
            raise KeyError(name)
        return outcome

    def __iter__(self) -> Iterator[str]:
        return self._ledger.names()

    def __len__(self) -> int:
        return len(self._ledger)

    def __repr__(self) -> str:
        return f"<outcomes of {counted(len(self), 'branch', 'branches')}>"

    def _pairs(self) -> Iterator[tuple[str, BranchOutcome]]:
        return ((outcome.name, outcome) for outcome in self._ledger.outcomes(STATES))


class FanInResults(_PagedMapping):
    """
    What the successful branches returned: ``{name: value}``, read-only, in declared order.

    Values are read as they are asked for, a page at a time, so that a loop over ``results.items()`` holds one
    page in memory however many branches there are.

    :param pages: Every declared branch, in declared order.
    :param combinations: How groups among these fold their values.
    """

    def __init__(self, pages: Sequence[Page], combinations: Sequence[Combination] = ()) -> None:
        super().__init__(_Ledger(pages))
        self._combinations = combinations
        self._combined: list[Any] = []
        self._combining = threading.Lock()

    def __getitem__(self, name: str) -> Any:
        """Return what the branch of this name returned; a KeyError tells why there is nothing."""
        outcome = self._ledger.outcome(name)
        if outcome is None:
            message = f"no branch is named {name!r}; branches: {listing(self.outcomes)}"
            raise KeyError(message)
        if outcome.state != "success":
            because = f" ({outcome.error})" if outcome.error else ""
            message = f"branch {name!r} has no value: it is {outcome.state}{because}"
            raise KeyError(message)
        if self._ledger.is_combined(name):
            message = f"the value of {name!r} isn't kept: {NOT_KEPT}"
            raise KeyError(message)
        return outcome.value

    def get(self, name: str, default: Any = None) -> Any:
        """Return what the branch of this name returned, or the default if it did not succeed."""
        return self[name] if name in self else default  # noqa: SIM401 - that is this method

    def __contains__(self, name: object) -> bool:
        """Whether a branch of this name succeeded."""
        return isinstance(name, str) and self._ledger.is_success(name)

    def __iter__(self) -> Iterator[str]:
        """Yield the names of the successful branches, in declared order."""
        return (name for name, state, _ in self.durations() if state == "success")

    def __len__(self) -> int:
        """Return the number of successful branches."""
        return self._success_count

    @cached_property
    def _success_count(self) -> int:
        return self.state_counts()["success"]

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

    @cached_property
    def reused(self) -> Sequence[str]:
        """Names of the branches that were not run, because an earlier run's value holds: ``reuse``."""
        return tuple(chain.from_iterable(page.reused_names for page in self._ledger.pages))

    @property
    def reused_count(self) -> int:
        """How many these are."""
        return sum(page.reused_count for page in self._ledger.pages)

    @property
    def parts(self) -> list[str]:
        """
        Paths of the files that hold the values of groups with ``results_path``, in declared order.

        Each batch has written one, or several if its task died on its last try. What is not among them is
        of another try, or of another run, and does not count.
        """
        return [path for page in self._ledger.pages for path in page.parts]

    @property
    def combined(self) -> Any:
        """
        What ``combine`` of the group made of the values of the successful branches, in declared order.

        None if none succeeded. With ``combine_by`` it is a dict by what that returned, in order of first
        appearance.
        """
        if len(self._combinations) != 1:
            found = "none does" if not self._combinations else f"{len(self._combinations)} groups do"
            message = f"expected one group that combines its values, FanOutGroup(combine=…), but {found}"
            raise AttributeError(message)
        with self._combining:
            if not self._combined:
                entries = chain.from_iterable(page.read_entries() for page in self._ledger.pages)
                self._combined.append(self._combinations[0].result(entries))
        return self._combined[0]

    @property
    def is_combined(self) -> bool:
        """Whether the values of all branches are combined, and none is kept by its name."""
        return len(self._combinations) == 1 and all(page.is_combined for page in self._ledger.pages)

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

    def flatten(self) -> Iterator[Any]:
        """
        Go through the elements of the lists that the successful branches returned, in declared order.

        They are read as they are asked for, as those of ``items()``.

        :raises TypeError: When it gets to a branch that returned something other than a list or tuple.
        """
        for branch, value in self.items():
            if not isinstance(value, list | tuple):
                message = (
                    f"flatten() goes through lists; branch {branch!r} returned {type(value).__name__}. "
                    f"Let it return a list, or take values as they are: results.values()"
                )
                raise TypeError(message)
            yield from value

    def problems(self, states: Collection[State]) -> Iterator[BranchOutcome]:
        """
        Outcomes of the branches in these states, and of the stopped, in declared order.

        :param states: The states.
        """
        wanted: set[State] = {*states, "skipped"} if self.stopped_count else {*states}
        for outcome in self._ledger.outcomes(wanted):
            if outcome.state in states or outcome.is_stopped:
                yield outcome

    def states(self) -> Iterator[State]:
        """State of every declared branch, in declared order; reads no values."""
        return self._ledger.states()

    def state_counts(self) -> Counter[State]:
        """How many of the declared branches there are by state; reads no values."""
        return self._ledger.state_counts()

    def success_seconds(self) -> float:
        """Durations of the branches that succeeded, added up; reads no values."""
        return math.fsum(s for page in self._ledger.pages for s, _ in page.success_seconds())

    def work_seconds(self) -> float:
        """Durations of all branches but the removed, added up; reads no values."""
        return math.fsum(chain.from_iterable(page.work_seconds() for page in self._ledger.pages))

    def longest(self) -> tuple[float, str] | None:
        """Duration and name of the branch that took longest of those that succeeded; None if unknown."""
        longest = filter(None, (page.longest() for page in self._ledger.pages))
        return max(longest, key=lambda timing: timing[0], default=None)

    @property
    def failed_paths(self) -> list[str]:
        """Paths of the files of failed items of groups with ``results_path``, in declared order."""
        paths = (page.stored.results.failed_path for page in self._ledger.pages if page.stored is not None)
        return [path for path in paths if path is not None]

    @property
    def stopped_count(self) -> int:
        """How many branches ``stop_after_failures`` did not let start; they are among the skipped."""
        return sum(page.stopped_count for page in self._ledger.pages)

    def durations(self) -> Iterator[tuple[str, State, float | None]]:
        """Name, state and duration of every declared branch, in declared order; reads no values."""
        for page in self._ledger.pages:
            yield from zip(page.names, page.states, page.durations, strict=True)

    def _part(self, states: Collection[State]) -> Mapping[str, BranchOutcome]:
        return {outcome.name: outcome for outcome in self._ledger.outcomes(states)}

    def _pairs(self) -> Iterator[tuple[str, Any]]:
        if self._combinations:
            message = f"values aren't kept: {NOT_KEPT}"
            raise KeyError(message)
        return self._ledger.values()
