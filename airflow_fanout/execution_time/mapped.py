"""Instances of a mapped group -> one outcome each, by what they recorded."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_fanout.execution_time.results import Page, arranged
from airflow_fanout.execution_time.wiring import refuse_unfinished
from airflow_fanout.execution_time.xcom import PAGE_SIZE, BranchReader, RunReader, Values, at_once
from airflow_fanout.rules.identity import CHANGED, Execution, match_names
from airflow_fanout.rules.instances import InstanceState, States, instances_of
from airflow_fanout.rules.names import indexed_name, indexed_names, instance_name
from airflow_fanout.rules.outcomes import believed, branch_duration, judge_branch
from airflow_fanout.rules.records import RETURN_VALUE, BatchRecord, name_in
from airflow_fanout.serialization.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.rules.outcomes import BranchOutcome, BranchTasks, ValueState
    from airflow_fanout.rules.records import Record

log = logging.getLogger(__name__)


def group_pages(reader: RunReader, states: States, source: Source, key: str, start: int) -> Iterator[Page]:
    """
    Find the outcome of every instance.

    Requests: one that asks for the items, two for each 500 instances, records and values, and, above 500, one
    that counts the values and one for each page but the last, which tells whether an instance has started
    again. Of several tasks, if only the first knows its name: one for each 500. For each task before the last
    that has failed, or skipped itself: one for each such instance, at most one for each 500. More only where
    somebody else has pushed or deleted values, or the Dag, or the items, changed while the branches ran.
    """
    group = _MappedGroup(reader, states, source, key)
    if source.never_expands(states):
        return
    refuse_unfinished(reader, source.task_id, states, group.expected)
    pages = group.pages(start)
    matches = match_names(group.expected, group.executions)
    if matches is None:
        yield from pages
        return
    log.info("%s: %s", source.task_id, CHANGED)
    yield arranged(pages, matches, start, lambda position: (source.task_id, position))


class _MappedGroup:
    """The instances of a mapped group, read for the judge in pages."""

    def __init__(self, reader: RunReader, states: States, source: Source, key: str) -> None:
        self._reader, self._states, self._source, self._key = reader, states, source, key
        self._task_id = source.task_id
        self._group_id = "" if source.group is None else source.group.group_id
        self._instances = instances_of(states, source.task_id)
        self.map_indexes = list(self._instances)
        self._records: dict[str, Mapping[int, Record | None]] = {}
        self._having_values: list[int] = []
        self._values_ahead: Values | None = None

    def instances(self, task_id: str, map_index: int) -> Mapping[int, InstanceState]:
        """The instance of one of the group's tasks, by its index."""
        instance = self._states.get((task_id, map_index))
        return {} if instance is None else {map_index: instance}

    def record(self, task_id: str, map_index: int) -> Record | None:
        """Record that an instance left."""
        return self._records_of(task_id).get(map_index)

    def value_state(self, task_id: str, map_index: int, key: str) -> ValueState:
        """Whether an instance has pushed a value, as far as :meth:`find_values` knows."""
        return "present" if map_index in self._with_value else "absent"

    def _records_of(self, task_id: str) -> Mapping[int, Record | None]:
        """Records of the instances of one of the group's tasks, by map index; read once."""
        if task_id not in self._records:
            wanted = self._explaining(task_id)
            # Not as many: for a record that isn't there, a fan-in asks for the states once more.
            if len(wanted) < -(-len(self.map_indexes) // PAGE_SIZE):
                self._records[task_id] = self._each_record(task_id, wanted)
            else:
                self._records[task_id] = self._record_pages(task_id, wanted)
        return self._records[task_id]

    def _explaining(self, task_id: str) -> Sequence[int]:
        """Instances whose records are looked at: of a task before the last, those that say why it ended."""
        if task_id == self._task_id:
            return self.map_indexes
        states = {n: self._states.get((task_id, n)) for n in self.map_indexes}
        return [
            n for n, found in states.items() if found is not None and found.state in {"failed", "skipped"}
        ]

    def _each_record(self, task_id: str, map_indexes: Sequence[int]) -> Mapping[int, Record | None]:
        return {n: self._reader.record(task_id, n) for n in map_indexes if (task_id, n) in self._states}

    def _record_pages(self, task_id: str, wanted: Sequence[int]) -> Mapping[int, Record | None]:
        """
        Read records in pages.

        A record says whose it is, and the server gives records by map index: where the one contradicts the
        other, those that are wanted are read one by one.
        """
        records: list[Record | None] = []
        for start in range(0, len(self.map_indexes), PAGE_SIZE):
            page = self._reader.record_page(task_id, start, start + PAGE_SIZE)
            records += page
            if len(page) < PAGE_SIZE:
                break
        owners = [getattr(record, "map_index", None) for record in records]
        known = [owner for owner in owners if owner is not None]
        if len(known) < len(owners) or known != sorted(set(known)):
            log.info("%s: a record is gone, or not its instance's; all are read one by one", task_id)
            return self._each_record(task_id, wanted)
        return dict(zip(known, records, strict=True))

    @cached_property
    def _yielded(self) -> tuple[Sequence[str] | None, int]:
        """Names, None of a list, and number of what the items' task has yielded last."""
        ask = self._source.ask_items
        return (None, len(self.map_indexes)) if ask is None else ask()

    @cached_property
    def expected(self) -> Sequence[str]:
        """Names of what was declared, or of what the items' task has yielded last."""
        group = self._source.group
        names: Sequence[str] | None = None if group is None else group.names
        count = None if group is None else group.count
        if count is None:
            names, count = self._yielded
        if self._source.by_prefix or group is None:
            return [instance_name(self._task_id, index) for index in range(count)]
        return indexed_names(group.label, count) if names is None else names

    @cached_property
    def executions(self) -> list[Execution]:
        """Which branch each instance ran, in the order of their indexes."""
        names = self._names_that_ran()
        states = {n: instance.state for n, instance in self._instances.items()}
        return [
            Execution(
                position=n,
                name=names.get(n),
                title=instance_name(self._task_id, n),
                is_removed=state == "removed",
            )
            for n, state in states.items()
        ]

    def _names_that_ran(self) -> Mapping[int, str]:
        """
        Names by map index: of the last task, what failed before it, or, of named items, the first.

        Branches without names of their own are called by their number, unless they recorded another. By a
        prefix all are called by their index, but for what ran a batch, which is none of them.
        """
        *earlier, last = self._source.tasks.task_ids
        names = self._names_by(last, self.map_indexes)
        if self._source.by_prefix:
            records = self._records_of(last)
            return {n: name for n, name in names.items() if isinstance(records.get(n), BatchRecord)}
        for task_id in reversed(earlier):
            names = self._names_by(task_id, self._explaining(task_id)) | names
        group = self._source.group
        if group is None:
            return names
        if (group.names if group.count is not None else self._yielded[0]) is None:
            return {n: indexed_name(group.label, n) for n in self.map_indexes} | names
        if earlier and len(names) < len(self.map_indexes):
            # Of items of run time the first task alone is sure to be given its own, and so to know the name.
            self._records[earlier[0]] = self._record_pages(earlier[0], self.map_indexes)
            names = self._names_by(earlier[0], self.map_indexes) | names
        return names

    def _names_by(self, task_id: str, map_indexes: Sequence[int]) -> dict[int, str]:
        names, records = {}, self._records_of(task_id)
        for n in map_indexes:
            instance = self._states.get((task_id, n))
            told = None if instance is None else believed(instance.state, records.get(n))
            if (name := name_in(told, self._group_id)) is not None:
                names[n] = name
        return names

    @cached_property
    def names(self) -> Mapping[int, str]:
        """Name of each instance: what it ran, or else what is at its position."""
        expected = dict(enumerate(self.expected))
        return {e.position: e.name or expected.get(e.position) or e.title for e in self.executions}

    def find_values(self, *, ahead: bool) -> bool:
        """
        Find out which instances have pushed a value; False if nobody can tell.

        The server gives values by map index, and without it: whose they are follows from the records, unless
        a value was pushed or deleted by hand.
        """
        successes = [n for n, instance in self._instances.items() if instance.state == "success"]
        if not successes:
            return True  # whatever lies there, it is no value
        expected: list[int] | None = successes if len(successes) == len(self._instances) else None
        if self._key == RETURN_VALUE:
            records = self._records_of(self._task_id)
            expected = [n for n in self.map_indexes if getattr(records.get(n), "has_value", None) is True]
        cause = "not every instance succeeded"
        if expected is not None:
            count = self._value_count(ahead=ahead)
            if count == len(expected):
                self._having_values = expected
                return True
            cause = f"found {count} values, expected {len(expected)}"
        self._values_ahead = None
        log.info(
            "%s: positions don't tell whose the values under %r are, so they are read one by one: %s",
            self._task_id,
            self._key,
            cause,
        )
        return False

    def _value_count(self, *, ahead: bool) -> int:
        """
        Count the values.

        To ask for all of them instead spares a request, which pays for the records of one task before the
        last. With those of a second, a fan-in sends one more than 4 and 2 for each page: what ended, what
        still runs, what was recorded and the values are told by no other request.
        """
        if not ahead:
            return self._reader.value_count(self._task_id, self._key)
        # One more than there can be, to see any that should not be there.
        self._values_ahead = self._reader.page(self._task_id, self._key, 0, len(self.map_indexes) + 1)
        return len(self._values_ahead)

    @cached_property
    def _with_value(self) -> frozenset[int]:
        return frozenset(self._having_values)

    def pages(self, start: int) -> Iterator[Page]:
        """Pages of the instances in the order of their indexes."""
        # Of all groups together, no more than a page of values is in memory before anybody asks.
        if not self.find_values(ahead=start + len(self.map_indexes) <= PAGE_SIZE):
            branches = [(self.names[n], self._source.instance(n).tasks) for n in self.map_indexes]
            yield Page.of(at_once(self._outcome, branches), start)
            return
        for offset in range(0, len(self.map_indexes), PAGE_SIZE):
            page = self.page(self.map_indexes[offset : offset + PAGE_SIZE], start + offset)
            # A value that is gone has to be found out before the verdict.
            yield page.settle() if values_lie_elsewhere() else page

    def _outcome(self, branch: tuple[str, BranchTasks]) -> BranchOutcome:
        return BranchReader(self._reader, self._states).outcome(*branch, self._key)

    def page(self, indexes: Sequence[int], start: int) -> Page:
        """Up to 500 instances, whose values are read when they are asked for."""
        tasks = [self._source.instance(n).tasks for n in indexes]
        records = self._records_of(self._task_id)
        if any(self._instances[n].state == "success" and records.get(n) is None for n in indexes):
            self._reader.found_nothing = True  # it may run again, so that its record is deleted
        return Page(
            start=start,
            names=[self.names[n] for n in indexes],
            rulings=[judge_branch(self, each, self._key) for each in tasks],
            instances=[(self._task_id, n) for n in indexes],
            durations=[branch_duration(self, each) for each in tasks],
            load=lambda: self._load(indexes),
        )

    def _load(self, indexes: Sequence[int]) -> Mapping[int, Any]:
        """Read the values of a page, by index within it."""
        having = [n for n in self._having_values if indexes[0] <= n <= indexes[-1]]
        if not having:
            return {}
        first = sum(n < indexes[0] for n in self._having_values)
        ahead, self._values_ahead = self._values_ahead, None
        reader = BranchReader(self._reader, self._states)
        is_last = having[-1] == self._having_values[-1]
        values = reader.page(self._task_id, self._key, having, first, ahead=ahead, is_last=is_last)
        positions = {n: position for position, n in enumerate(indexes)}
        return {positions[n]: values[position] for position, n in enumerate(having)}
