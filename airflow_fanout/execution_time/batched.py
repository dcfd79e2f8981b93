"""Items of a batched group -> one outcome each, by what their batches recorded."""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_fanout.exceptions import CombineError, ItemsError
from airflow_fanout.execution_time.combination import Combination, Entry, entries_of, is_folded
from airflow_fanout.execution_time.results import Page, arranged
from airflow_fanout.execution_time.reused import ReusePlan
from airflow_fanout.execution_time.stored_results import StoredValues
from airflow_fanout.execution_time.wiring import cleared_items, lost_items, refuse_unfinished
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE, RunReader, at_once
from airflow_fanout.rules.identity import CHANGED, Execution, Match, match_names
from airflow_fanout.rules.instances import States, instances_of, runs_mark
from airflow_fanout.rules.names import SPLIT, IndexedNames, indexed_names, instance_name
from airflow_fanout.rules.outcomes import LostValue, believed, judge_items
from airflow_fanout.rules.records import (
    ITEM_FAILED,
    RETURN_VALUE,
    REUSE_KEY,
    BatchRecord,
    batch_key,
    part_key,
    read_bounds,
    read_reuse,
    source_mark_in,
)
from airflow_fanout.rules.run_lengths import RunLengths
from airflow_fanout.rules.wording import on_one_line
from airflow_fanout.serialization.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from airflow_fanout.execution_time.reused import GroupReuse
    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.rules.records import Bounds, Record
    from airflow_fanout.serialization.declaration import DeclaredGroup

log = logging.getLogger(__name__)


def batch_pages(reader: RunReader, states: States, source: Source, start: int) -> Iterator[Page]:
    """
    Find the outcome of every item.

    Requests: one for the bounds of the batches, one to count their values, and two for each batch, its record
    and its values; one more for each part of one that died before it reported. The names of its items take
    one, if it died so, or ran what was cut before. If the items' task has run again since they were cut: what
    it takes to ask that.
    """
    if source.group is None or source.never_expands(states):
        return
    if source.reuse is not None:
        yield from _pages_with_reused(reader, states, source, source.reuse, start)
    else:
        yield from _ran_pages(reader, states, source, start)


def _pages_with_reused(
    reader: RunReader, states: States, source: Source, reuse: GroupReuse, start: int
) -> Iterator[Page]:
    """Put what ran, and what did not because its value is stored, into the order of all; one request more."""
    group: Any = source.group
    split_id = group.prefix + SPLIT
    prefix = group.prefix if source.by_prefix else ""
    plan = reuse.plan = _reuse_plan(reader, split_id)
    reuse.ran = [*_ran_pages(reader, states, source, start, plan.names_to_run(group.label))]
    names = plan.all_names(group.label, prefix)
    pages = plan.pages(reuse.ran, names=names, start=start, task_id=split_id)
    expected = names if group.count is None else [prefix + name for name in group.known_names]
    if len(expected) == len(names) and (plan.names is None or [*expected] == [*names]):
        yield from pages
        return
    log.info("%s: %s", source.task_id, CHANGED)
    mixed = list(pages)
    executions = [
        Execution(position=position, name=name, title=f"{source.task_id} item {position}")
        for position, name in enumerate(chain.from_iterable(page.names for page in mixed))
    ]
    matches = match_names(expected, executions) or []
    yield arranged(mixed, matches, start, lambda _: (split_id, -1))


def _reuse_plan(reader: RunReader, split_task_id: str) -> ReusePlan:
    from airflow.sdk import ObjectStoragePath

    from airflow_fanout.storage.reuse_store import ReuseStore

    try:
        value = reader.value(split_task_id, -1, REUSE_KEY)
    except FileNotFoundError as gone:  # the body of an object-storage XCom
        raise lost_items(split_task_id, gone) from None
    if value is NOTHING:
        raise cleared_items(split_task_id)
    record = read_reuse(value)
    if record is None:
        message = f"expected what is reused from {split_task_id!r}, found {on_one_line(repr(value))}"
        raise ItemsError(message)
    return ReusePlan.read(ReuseStore(ObjectStoragePath(record.root)), record.plan)


def _ran_pages(
    reader: RunReader,
    states: States,
    source: Source,
    start: int,
    names_to_run: Sequence[str] | None = None,
) -> Iterator[Page]:
    """
    Find the outcome of every item that was cut into batches.

    :param names_to_run: Names of these, if they are not all that are declared.
    """
    group: Any = source.group
    instances = instances_of(states, source.task_id)
    bounds, mark = _bounds(reader, group.prefix + SPLIT)
    names = [instance_name(source.task_id, number) for number in range(len(bounds))]
    refuse_unfinished(reader, source.task_id, states, names)
    yielded = None
    if source.ask_items is not None and mark != runs_mark(states, group.cut_from):
        yielded = source.ask_items()
    batches = _Batches(reader, source, group, bounds, names_to_run, yielded=yielded)
    reports = [batches.report(number, str(instance.state)) for number, instance in instances.items()]
    ran = [batches.read(report, lost, start) for report, lost in _with_what_is_lost(reports)]
    pages = [batch.page for batch in ran]
    in_xcoms = any(page.stored is None for page in pages)
    if in_xcoms and not batches.all_left_values({str(instance.state) for instance in instances.values()}):
        pages = [page.settle() for page in pages]
    matches = None
    in_order = None
    if not batches.are_in_place(ran):
        executions = [execution for batch in ran for execution in batch.executions()]
        matches = match_names(batches.expected(), executions)
    if matches is None:
        yield from pages
        return
    log.info("%s: %s", source.task_id, CHANGED)
    if source.combination is not None:
        in_order = partial(_arranged_entries, ran, matches)
    starts = [first for first, *_ in bounds]

    def instance_at(position: int) -> tuple[str, int]:
        return source.task_id, max(bisect_right(starts, position) - 1, 0)

    yield arranged(pages, matches, start, instance_at, in_order)


def _bounds(reader: RunReader, split_task_id: str) -> tuple[Sequence[Bounds], str | None]:
    """Bounds of each batch, and which run of the items' task was cut."""
    try:
        bounds = reader.value(split_task_id, -1, RETURN_VALUE)
    except FileNotFoundError as gone:  # the body of an object-storage XCom
        raise lost_items(split_task_id, gone) from None
    if bounds is NOTHING:
        raise cleared_items(split_task_id)
    cuts = read_bounds(bounds)
    if cuts is None:
        message = f"expected the bounds of batches from {split_task_id!r}, found {on_one_line(repr(bounds))}"
        raise ItemsError(message)
    return cuts, source_mark_in(bounds)


@dataclass(frozen=True, kw_only=True)
class _Report:
    """
    What a batch has left.

    :param files: Where its values are in files, these.
    """

    number: int
    state: str
    record: Record | None
    files: StoredValues | None

    @property
    def counted_files(self) -> StoredValues | None:
        """Files whose values count: not those of an earlier try, or of a batch that is no longer there."""
        is_counted = self.state != "removed" and believed(self.state, self.record) is not None
        return self.files if is_counted else None


def _with_what_is_lost(reports: Sequence[_Report]) -> Iterator[tuple[_Report, LostValue | None]]:
    """Ask the storage for the files of all batches, several at a time."""
    in_files = [report for report in reports if report.files is not None]
    # The first alone: it may have to ask Airflow for a connection.
    lost = [_lost(report) for report in in_files[:1]]
    lost += at_once(_lost, in_files[1:], are_elsewhere=True)
    by_number = {report.number: each for report, each in zip(in_files, lost, strict=True)}
    return ((report, by_number.get(report.number)) for report in reports)


def _lost(report: _Report) -> LostValue | None:
    return None if report.files is None else report.files.find_lost()


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """
    A batch that has ended.

    :param first: Index of its first item when it ran, among all.
    :param is_told: Whether the names are those that it recorded.
    :param is_removed: Whether Airflow has removed it: there are fewer batches now.
    :param is_in_place: Whether it ran what is to be run there now.
    """

    title: str
    first: int
    names: Sequence[str]
    is_told: bool
    is_removed: bool
    is_in_place: bool
    page: Page
    values: _BatchValues

    def executions(self) -> Iterator[Execution]:
        for index, name in enumerate(self.names):
            yield Execution(
                position=self.first + index,
                name=name if self.is_told else None,
                title=f"{self.title} item {index}",
                is_removed=self.is_removed,
            )


class _Part(NamedTuple):
    """
    What there is of the values of some items of a batch.

    :param indexes: Of the items within the batch: one, or those whose values were folded.
    """

    indexes: Sequence[int]
    entries: Sequence[Entry]


@dataclass(kw_only=True)
class _BatchValues:
    """
    What a batch pushed: the values of its successful items by name, or what ``combine`` made of them.

    :param read: Reads that.
    :param names: What its items were called in it, and ``shown_names`` what messages call them.
    :param combination: How the group folds values now; then what was read is kept.
    """

    title: str
    read: Callable[[], Any]
    names: Sequence[str]
    shown_names: Sequence[str]
    successes: Sequence[int]
    combination: Combination | None

    def by_index(self) -> Mapping[int, Any]:
        """Values by the items' index, a ``LostValue`` for one that is gone; of folded ones, only those."""
        if not self.successes:
            return {}
        stored = self._stored if self.combination is not None else self._read()
        if is_folded(stored):
            self._check_fold(stored)
            return {}
        by_name = stored if isinstance(stored, Mapping) else {}
        lost = stored if isinstance(stored, LostValue) else LostValue()
        are_all = len(self.successes) == len(self.names)
        names = self.names if are_all else map(self.names.__getitem__, self.successes)
        return {index: by_name.get(name, lost) for index, name in zip(self.successes, names, strict=True)}

    def parts(self) -> Iterator[_Part]:
        """What is to be folded, in the order of the items, without what is gone."""
        if self.combination is None or not self.successes:
            return
        if is_folded(self._stored):
            self._check_fold(self._stored)
            first, last = (self.shown_names[self.successes[place]] for place in (0, -1))
            yield _Part(self.successes, entries_of(self._stored, first, last))
            return
        for index, value in self.by_index().items():
            if not isinstance(value, LostValue):
                yield _Part([index], [self.combination.entry(self.shown_names[index], value)])

    def entries(self) -> Iterator[Entry]:
        """What is to be folded, in the order of the items."""
        return chain.from_iterable(part.entries for part in self.parts())

    @cached_property
    def _stored(self) -> Any:
        return self._read()

    def _read(self) -> Any:
        try:
            return self.read()
        except FileNotFoundError as gone:  # the body of an object-storage XCom
            return LostValue(str(gone))

    def _check_fold(self, stored: Sequence[Any]) -> None:
        """Refuse values that were folded when the Dag file declared something else."""
        has_keys = {key is not None for key, _ in stored}
        if self.combination is None or has_keys != {self.combination.combine_by is not None}:
            how = "for each key" if True in has_keys else "into one"
            message = f"{self.title} combined its values {how} before the Dag file changed; clear it"
            raise CombineError(message)


def _arranged_entries(batches: Sequence[_Batch], matches: Sequence[Match]) -> Iterator[Entry]:
    """
    Put what is to be folded into the order that names give it.

    :raises CombineError: If items whose values were folded are no longer together, or are not all declared.
    """
    positions = {
        match.execution: at
        for at, match in enumerate(matches)
        if match.execution is not None and match.ruling is None
    }
    parts: list[tuple[list[int | None], _Part, _Batch]] = []
    first = 0
    for batch in batches:
        for part in batch.values.parts():
            found = [positions.get(first + index) for index in part.indexes]
            if found != [None]:  # of one that is no longer declared
                parts.append((found, part, batch))
        first += len(batch.names)
    parts.sort(key=lambda placed: min((at for at in placed[0] if at is not None), default=-1))
    last = -1
    for found, part, batch in parts:
        for at in found:
            if at is None or at <= last:
                message = (
                    f"{batch.title} combined the values of {part.entries[0].title} before the Dag, or its "
                    "items, changed, and they can't be told apart any more; clear it, with the fan-in"
                )
                raise CombineError(message)
            last = at
        yield from part.entries


class _Batches:
    """Reads batch after batch, and remembers whether their items have names, and how many have reported."""

    def __init__(
        self,
        reader: RunReader,
        source: Source,
        group: DeclaredGroup,
        bounds: Sequence[Bounds],
        names_to_run: Sequence[str] | None = None,
        *,
        yielded: tuple[Sequence[str] | None, int] | None = None,
    ) -> None:
        self._names_to_run, self._yielded = names_to_run, yielded
        self._reader, self._task_id, self._group, self._bounds = reader, source.task_id, group, bounds
        self._prefix = group.prefix if source.by_prefix else ""
        self._may_have_names, self._combination = source.may_have_names, source.combination
        self._report_count = 0
        self._asked_for_names = False
        self._names: dict[int, Sequence[str]] = {}  # of what is to be run now, by batch

    def all_left_values(self, states: Collection[str]) -> bool:
        """
        Whether it is sure that no batch's value is gone, which has to be found out before the verdict.

        A batch that reports has pushed its value before.
        """
        if values_lie_elsewhere():  # they can be gone though they are counted
            return False
        if not {"success", "failed"}.issuperset(states):  # these may have kept the value of an earlier try
            return False
        if self._reader.found_nothing and self._asked_for_names:
            # A batch has left nothing, for which the states are asked for once more, and its names were too:
            # there is no request left of those that a fan-in may send.
            return False
        return self._reader.value_count(self._task_id, RETURN_VALUE) == self._report_count

    def report(self, number: int, state: str) -> _Report:
        """Read what a batch recorded."""
        record: Record | None = None
        if state in {"success", "failed", "removed"}:
            record = self._reader.record(self._task_id, number)
        files = None
        if isinstance(record, BatchRecord) and record.results is not None:
            files = StoredValues(record, record.results, instance_name(self._task_id, number))
        return _Report(number=number, state=state, record=record, files=files)

    def read(self, report: _Report, lost: LostValue | None, start: int) -> _Batch:
        """
        Put together what there is of a batch.

        :param lost: What is lost, if its values are in files that are gone.
        :param start: Index of the group's first branch among all.
        """
        number, state, record = report.number, report.state, report.record
        first, seconds, tries = self._bounds_of(number)[0], None, None
        if isinstance(record, BatchRecord):
            self._report_count += state != "removed" and record.parts is None
            first, seconds, tries = record.start, record.seconds, record.tries_of
            is_in_place = record.cut == self._bounds_of(number)
            names = self._recorded_names(number, record, report.files, lost, is_in_place=is_in_place)
            is_named_here = self._group.names is not None or self._names_to_run is not None
            if is_in_place and not is_named_here:
                self._names[number], self._may_have_names = names, record.is_named
        else:
            names = self._names_now(number)
        own_names = self._shown(names)
        title = instance_name(self._task_id, number)
        first_now, names_now = self._bounds_of(number)[0], self._names_now(number)
        files = report.counted_files
        has_values = isinstance(record, BatchRecord) and state != "removed"
        if files is not None and self._combination is None:
            has_values = False  # a page reads them from the files
        values = _BatchValues(
            title=title,
            read=partial(self._read_values, number, record, files, names),
            names=names,
            shown_names=own_names,
            successes=record.successes if has_values else (),  # type: ignore[union-attr]
            combination=self._combination,
        )
        page = Page(
            start=start + first,
            names=own_names,
            rulings=judge_items(state, record, len(names), lost or "present"),
            instances=RunLengths([((self._task_id, number), len(names))]),
            durations=seconds or RunLengths([(None, len(names))]),
            load=values.by_index if files is None else lambda: dict(files.read()),
            entries=None if self._combination is None else values.entries,
            tries=tries,
            stored=files,
            parts=[] if files is None or lost is not None else [part.path for part in files.results.parts],
        )
        return _Batch(
            title=title,
            first=first,
            names=own_names,
            is_told=isinstance(record, BatchRecord),
            is_removed=state == "removed",
            is_in_place=first == first_now and (names is names_now or [*names] == [*names_now]),
            page=page,
            values=values,
        )

    def _recorded_names(
        self,
        number: int,
        record: BatchRecord,
        files: StoredValues | None,
        lost: LostValue | None,
        *,
        is_in_place: bool,
    ) -> Sequence[str]:
        """Names of the items that a batch ran; where they are in files that are gone, as far as known."""
        label, now = self._group.label, None
        if self._group.names is not None:
            now = self._names_now(number)
        elif lost is not None and is_in_place and record.is_named:
            now = self._stored_names(number)
        names = record.item_names(label, now)
        if files is None or lost is not None or names is now or not record.is_named:
            return names
        return files.names()

    def _shown(self, names: Sequence[str]) -> Sequence[str]:
        """Names as the fan-in has them."""
        if not self._prefix:
            return names
        if isinstance(names, IndexedNames):
            return IndexedNames(self._prefix + names.label, len(names), first=names.indexes.start)
        return [self._prefix + name for name in names]

    def _read_values(
        self, number: int, record: Record | None, files: StoredValues | None, names: Sequence[str]
    ) -> Any:
        """Read the values that a batch pushed: at once, or in parts, if it died before it had reported."""
        if files is not None:
            return {names[index]: value for index, value in files.read()}
        parts = record.parts if isinstance(record, BatchRecord) else None
        if parts is None:
            return self._reader.value(self._task_id, number, RETURN_VALUE)
        values: dict[str, Any] = {}
        for part in range(parts):
            some = self._reader.value(self._task_id, number, part_key(part))
            values |= some if isinstance(some, Mapping) else {}
        return values

    def are_in_place(self, batches: Sequence[_Batch]) -> bool:
        """Whether the batches ran what is to be run now, and no more and no less."""
        if self._yielded is not None:
            return False
        total = self._bounds[-1][1] if self._bounds else 0
        count = self._group.count if self._names_to_run is None else len(self._names_to_run)
        is_whole = len(batches) == len(self._bounds) and count in {None, total}
        return is_whole and all(batch.is_in_place and not batch.is_removed for batch in batches)

    def expected(self) -> Sequence[str]:
        """Names of what was declared, or of what was cut last, or yielded since."""
        names: Sequence[str]
        if self._names_to_run is not None:
            names = self._names_to_run
        elif self._yielded is not None:
            now, count = self._yielded
            names = list(indexed_names(self._group.label, count) if now is None else now)
        elif self._group.count is None:
            names = [name for number in range(len(self._bounds)) for name in self._names_now(number)]
        else:
            names = list(self._group.known_names)
        return [self._prefix + name for name in names] if self._prefix else names

    def _bounds_of(self, number: int) -> Bounds:
        return self._bounds[number] if number < len(self._bounds) else (0, 0, 0)

    def _names_now(self, number: int) -> Sequence[str]:
        """Names of the items that are now at the positions of a batch."""
        if number not in self._names:
            first, stop, _ = self._bounds_of(number)
            names: Sequence[str] | None = None
            if self._names_to_run is not None:
                names = self._names_to_run[first:stop]
            elif self._group.names is not None:
                names = self._group.names[first:stop]
            elif self._may_have_names:
                names = self._stored_names(number)
            numbered = IndexedNames(self._group.label, stop - first, first=first)
            self._names[number] = numbered if names is None else names
        return self._names[number]

    def _stored_names(self, number: int) -> Sequence[str] | None:
        """Ask the task that cut the items for their names."""
        payload: Any = NOTHING
        self._asked_for_names = True
        with suppress(FileNotFoundError):  # the body of an object-storage XCom
            payload = self._reader.value(self._group.prefix + SPLIT, -1, batch_key(number))
        names = payload["names"] if isinstance(payload, dict) else None
        if names is None and payload is not NOTHING:
            self._may_have_names = False  # items in a list: the other batches need not be asked
        return names


def failures_of_others(reader: RunReader, task_id: str, map_index: int, *, split_task_id: str) -> int:
    """
    Count the failed items of the other batches that have failed.

    Requests: one, one for each 500 batches if one has failed, and one if one of those has left no record.
    """
    failed = {
        index
        for (of, index), instance in reader.states().items()
        if of == task_id and index >= 0 and index != map_index and instance.state == "failed"
    }
    if not failed:
        return 0
    count, start, is_last = 0, 0, False
    while not is_last:
        records = reader.record_page(task_id, start, start + PAGE_SIZE)
        for record in records:
            if isinstance(record, BatchRecord) and record.map_index in failed:
                failed.remove(record.map_index)
                count += record.statuses.count(ITEM_FAILED)
        start, is_last = start + PAGE_SIZE, len(records) < PAGE_SIZE
    if failed:  # batches that died before they reported
        bounds: object = None
        with suppress(FileNotFoundError):  # the body of an object-storage XCom
            bounds = reader.value(split_task_id, -1, RETURN_VALUE)
        cuts = read_bounds(bounds) or []
        count += sum(stop - first for number, (first, stop, _) in enumerate(cuts) if number in failed)
    return count
