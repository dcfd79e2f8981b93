"""What a run reuses: planned by the task that cuts the items, read by the fan-in between what ran."""

from __future__ import annotations

import json
import logging
from array import array
from dataclasses import dataclass, field
from functools import lru_cache, partial
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.execution_time.results import Page
from airflow_fanout.rules.names import IndexedNames
from airflow_fanout.rules.outcomes import LostValue, Ruling
from airflow_fanout.rules.records import ReuseRecord
from airflow_fanout.rules.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import timedelta

    from airflow_fanout.rules.outcomes import BranchOutcome
    from airflow_fanout.storage.reuse_store import Index, Place, ReuseStore

log = logging.getLogger(__name__)

PAGE_SIZE = 500
"""Items of a page, and of a stretch of reused ones, whose values lie side by side."""

FIELDS = 5
"""Numbers of a stretch."""

REUSED = Ruling(state="success", is_reused=True)


class Planned(NamedTuple):
    """
    What is to be done in a run.

    :param to_run: Indexes of the items that run, among all.
    """

    to_run: Sequence[int]
    record: ReuseRecord


def plan_reuse(
    store: ReuseStore,
    index: Index | None,
    items: Iterable[tuple[str | None, str | None]],
    *,
    is_named: bool,
) -> Planned:
    """
    Look all items up, and write a plan: stretches of values that are there, and items that have to run.

    :param index: What is stored; None to use nothing of it, and to leave out what is damaged later on.
    :param items: Fingerprint and name of each; None for a fingerprint that can't be made.
    """
    to_run = array("q")
    total = unknown = 0

    def lines() -> Iterator[str]:
        nonlocal total, unknown
        stretch: list[
            Any
        ] = []  # first item, the one after the last, part, first byte, the one after the last
        names: list[str | None] = []
        for position, (fingerprint, name, place) in enumerate(_located(items, index)):
            total += 1
            follows = stretch and place is not None and [place.part, place.start] == [stretch[2], stretch[4]]
            if stretch and (not follows or len(names) == PAGE_SIZE):
                yield json.dumps([*stretch, names] if is_named else stretch)
                stretch, names = [], []
            if place is None:
                to_run.append(position)
                unknown += fingerprint is None
                yield json.dumps([position, fingerprint, name] if is_named else [position, fingerprint])
                continue
            names.append(name)
            stretch = stretch or [position, position, place.part, place.start, place.stop]
            stretch[1], stretch[4] = position + 1, place.stop
        if stretch:
            yield json.dumps([*stretch, names] if is_named else stretch)
        parts = [] if index is None else [[part.name, part.size] for part in index.parts]
        yield json.dumps({"total": total, "parts": parts, "is_named": is_named, "mends": index is None})

    name = store.write_plan(lines())
    record = ReuseRecord(
        root=str(store.root), plan=name, total=total, reused=total - len(to_run), unknown=unknown
    )
    return Planned(to_run, record)


def _located(
    items: Iterable[tuple[str | None, str | None]], index: Index | None
) -> Iterator[tuple[str | None, str | None, Place | None]]:
    """Fingerprint, name and the place of the value of each item, a page of them looked up at once."""
    left = iter(items)
    while page := list(islice(left, PAGE_SIZE)):
        known = [fingerprint for fingerprint, _ in page if fingerprint is not None]
        places: Mapping[str, Place] = {} if index is None else index.find(known)
        yield from ((fingerprint, name, places.get(fingerprint or "")) for fingerprint, name in page)


@dataclass(kw_only=True)
class ReusePlan:
    """
    What was planned, as the fan-in reads it.

    :param names: Names of all items, if they have names of their own.
    :param to_run: Indexes of the items that ran.
    :param stretches: Of reused items, five numbers each: the first, the one after the last, the number of
        their part, and the bytes there.
    """

    store: ReuseStore
    name: str
    total: int = 0
    names: list[str] | None = None
    to_run: array[int] = field(default_factory=lambda: array("q"))
    stretches: array[int] = field(default_factory=lambda: array("q"))
    parts: Sequence[tuple[str, int]] = ()
    mends: bool = False

    @classmethod
    def read(cls, store: ReuseStore, name: str) -> ReusePlan:
        """Read a plan; raises ``ReuseStoreError`` if it is gone, or not whole."""
        plan = cls(store=store, name=name)
        names: list[str] = []
        for line in store.plan_lines(name):
            if isinstance(line, dict):
                plan.total, plan.parts, plan.mends = line["total"], line["parts"], line["mends"]
                plan.names = names if line["is_named"] else None
            elif len(line) < FIELDS:
                plan.to_run.append(line[0])
                names += line[2:]
            else:
                plan.stretches.extend(line[:FIELDS])
                names += [name for some in line[FIELDS:] for name in some]
        return plan

    def all_names(self, label: str, prefix: str = "") -> Sequence[str]:
        """Names of all items, in declared order."""
        if self.names is None:
            return IndexedNames(prefix + label, self.total)
        return [prefix + name for name in self.names] if prefix else self.names

    def names_to_run(self, label: str) -> Sequence[str]:
        """Names of the items that ran, in declared order."""
        names = self.all_names(label)
        return names if len(self.to_run) == self.total else [names[index] for index in self.to_run]

    def fingerprints(self) -> Iterator[str | None]:
        """Fingerprints of the items that ran, in declared order; None of one that has none."""
        for line in self.store.plan_lines(self.name):
            if isinstance(line, list) and len(line) < FIELDS:
                yield line[1]

    def pages(self, ran: Sequence[Page], *, names: Sequence[str], start: int, task_id: str) -> Iterator[Page]:
        """
        Put what was reused between what ran, in declared order; what is no longer declared comes last.

        :param ran: Pages of what ran, in the order of ``to_run``.
        :param names: Names of all items.
        :param start: Index of the first among all that the fan-in collects.
        :param task_id: Id of the task that found what could be reused.
        """
        if not self.stretches:
            yield from ran
            return
        used = {*self.stretches[2::FIELDS]}
        gone = {part for part in used if not self.store.has(*self.parts[part])}
        values_of = lru_cache(maxsize=2)(lambda number: ran[number].read())
        new_page = partial(_MixedPage, self, values_of, (task_id, -1))
        page = new_page(start)
        places = ((number, index) for number, each in enumerate(ran) for index in range(len(each)))
        for first, stop, *place in self._in_order():
            if place:
                page.add_reused(names[first:stop], *place, is_gone=place[0] in gone)
            else:
                number, index = next(places)
                page.add_ran(ran[number].outcome(index), number, index)
            if len(page.names) >= PAGE_SIZE:
                yield page.build()
                page = new_page(start + stop)
        for number, index in places:
            page.add_ran(ran[number].outcome(index), number, index)
        if page.names:
            yield page.build()

    def _in_order(self) -> Iterator[Sequence[int]]:
        """Stretches, and one that ran as its bounds alone, in declared order."""
        columns = [self.stretches[column::FIELDS] for column in range(FIELDS)]
        ran = ((index, index + 1) for index in self.to_run)
        return merge(zip(*columns, strict=True), ran, key=itemgetter(0))


@dataclass(kw_only=True)
class GroupReuse:
    """
    What a fan-in has to store of a group once it has decided.

    :param plan: What was planned, and ``ran`` the pages of what ran, once these have been read.
    """

    expire_after: timedelta | None
    plan: ReusePlan | None = None
    ran: Sequence[Page] = ()

    def store_new(self) -> None:
        """Store the values of the items that ran and succeeded."""
        if self.plan is None:
            return
        store = self.plan.store
        if self.plan.to_run:
            count = add_new(self.plan, self.ran, self.expire_after)
            log.info("%s stored for later runs in %s", counted(count, "value", "values"), store.root)
        store.tidy()


class _MixedPage:
    """A page of reused items and of some that ran, while it is made."""

    def __init__(
        self,
        plan: ReusePlan,
        values_of: Callable[[int], Mapping[int, Any]],
        split: tuple[str, int],
        start: int,
    ) -> None:
        self._plan, self._values_of, self._split, self._start = plan, values_of, split, start
        self.names: list[str] = []
        self._rulings: list[Ruling] = []
        self._instances: list[tuple[str, int]] = []
        self._durations: list[float | None] = []
        self._tries: list[int | None] = []
        self._ran: list[tuple[int, int, int]] = []
        self._reused: list[tuple[int, int, int, int, int]] = []

    def add_reused(
        self, names: Sequence[str], part: int, first_byte: int, last_byte: int, *, is_gone: bool
    ) -> None:
        ruling = REUSED
        if is_gone:
            error = f"{self._lost(part).error}; clear {self._split[0]}, which looks again what there is"
            ruling = Ruling(state="missing", error=error)
        else:
            self._reused.append((len(self.names), len(names), part, first_byte, last_byte))
        self._rulings += [ruling] * len(names)
        self._instances += [self._split] * len(names)
        self._durations += [None] * len(names)
        self._tries += [None] * len(names)
        self.names += names

    def add_ran(self, outcome: BranchOutcome, page: int, index: int) -> None:
        self._ran.append((len(self.names), page, index))
        self._rulings.append(Ruling(state=outcome.state, error=outcome.error, is_stopped=outcome.is_stopped))
        self._instances.append((outcome.task_id, outcome.map_index))
        self._durations.append(outcome.duration)
        self._tries.append(outcome.tries)
        self.names.append(outcome.name)

    def build(self) -> Page:
        return Page(
            start=self._start,
            names=self.names,
            rulings=self._rulings,
            instances=self._instances,
            durations=self._durations,
            tries=self._tries.__getitem__,
            load=self._load,
        )

    def _load(self) -> dict[int, Any]:
        values = {
            at: self._values_of(page).get(index)
            for at, page, index in self._ran
            if self._rulings[at].state == "success"
        }
        for part in dict.fromkeys(part for _, _, part, *_ in self._reused):
            values |= self._stored(part, [each for each in self._reused if each[2] == part])
        return values

    def _stored(self, part: int, stretches: Sequence[tuple[int, int, int, int, int]]) -> dict[int, Any]:
        store, (name, _) = self._plan.store, self._plan.parts[part]
        try:
            bodies = store.read(name, [(first, last) for *_, first, last in stretches])
        except FileNotFoundError:
            return {
                at: self._lost(part) for first, count, *_ in stretches for at in range(first, first + count)
            }
        values: dict[int, Any] = {}
        for (first, count, *_), body in zip(stretches, bodies, strict=True):
            stored = store.values_in(name, body, count)
            values |= {first + at: _deserialized(value, name) for at, value in enumerate(stored)}
        return values

    def _lost(self, part: int) -> LostValue:
        return LostValue(str(self._plan.store.root / self._plan.parts[part][0]))


def _deserialized(value: Any, part: str) -> Any:
    from airflow.sdk.serde import deserialize

    try:
        return deserialize(value)
    except Exception as cause:  # whatever a deserializer of the author's raises
        what = f"A value in {part}"
        raise UnreadableValueError(what, cause=cause) from cause


def add_new(plan: ReusePlan, ran: Sequence[Page], expire_after: timedelta | None) -> int:
    """Store the values of the items that ran and succeeded; return how many."""

    def entries() -> Iterator[tuple[str, Any]]:
        from airflow.sdk.serde import serialize

        fingerprints = plan.fingerprints()
        for page in ran:
            values: Mapping[int, Any] = {}
            some = list(islice(fingerprints, len(page)))
            wanted = [
                index
                for index, each in enumerate(some)
                if each is not None and page.states[index] == "success"
            ]
            if wanted:
                values = page.read()
            yield from ((str(some[index]), serialize(values.get(index))) for index in wanted)

    return plan.store.add(entries(), expire_after=expire_after, mends=plan.mends)
