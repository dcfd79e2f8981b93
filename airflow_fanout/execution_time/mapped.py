"""Instances of a mapped group -> one outcome each, by what they recorded; runs on the worker."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import BranchesRunningError, UnreadableValueError
from airflow_fanout.execution_time.ledger import branch_duration, read_one, read_record
from airflow_fanout.execution_time.results import Page, ReadyPage
from airflow_fanout.execution_time.xcom import PAGE_SIZE, RunReader, Values
from airflow_fanout.rules.instances import States, failed_before_last, instances_of
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.outcomes import MARKED_BY_HAND, BranchOutcome, recorded_error
from airflow_fanout.rules.records import NO_EXCEPTION_RECORDED, RETURN_VALUE, STOPPED
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow_fanout.execution_time.sources import Source
    from airflow_fanout.rules.policy import State


__all__ = ["InstanceNaming"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class InstanceNaming:
    """
    How the instances of a mapped group are called.

    :param label: What the names of branches without one of their own begin with; None for Airflow's own
        names, ``id[map_index]``.
    :param names: The names, if they are known from the Dag file.
    :param ask: Asks the task that returned the items, for its names (None if it was a list) and their number;
        None where a task can have returned nothing but a list. Takes a request.
    """

    label: str | None
    names: Sequence[str] | None = None
    ask: Callable[[], tuple[Sequence[str] | None, int]] | None = None

    def read(self, reader: RunReader, states: States, source: Source, key: str, index: int) -> Iterator[Page]:
        """
        Find the outcome of every instance.

        Requests: one that asks for the items or counts the instances, two for each 500 instances, records and
        values, and, above 500, one that counts the values. For each task before the last that has failed, or
        was stopped: one for each such instance, at most one for each 500. More only where somebody else has
        pushed or deleted values.
        """
        group = _MappedGroup(reader, states, source, self)
        if not group.map_indexes:
            return
        group.refuse_unfinished()
        # Of all groups together, no more than a page of values is in memory before anybody asks.
        having_values = group.having_values(key, ahead=index + len(group.map_indexes) <= PAGE_SIZE)
        for start in range(0, len(group.map_indexes), PAGE_SIZE):
            places = group.map_indexes[start : start + PAGE_SIZE]
            page: Page
            if having_values is None:
                page = ReadyPage(
                    [group.read_alone(each, key, index + start + n) for n, each in enumerate(places)]
                )
            else:
                page = _GroupPage(group, key, places, index + start, having_values)
            # A value that is gone has to be found out before the verdict.
            yield ReadyPage(page.read(), stopped=page.stopped) if values_lie_elsewhere() else page


class _MappedGroup:
    """The instances of a mapped group, with what they recorded."""

    def __init__(self, reader: RunReader, states: States, source: Source, naming: InstanceNaming) -> None:
        self.reader, self.states, self.source, self._naming = reader, states, source, naming
        self.instances = instances_of(states, source.task_id)
        self.map_indexes = list(self.instances)
        self._records: dict[str, Mapping[int, Mapping[str, Any]]] = {}
        self._ahead: Values | None = None

    def records(self, task_id: str) -> Mapping[int, Mapping[str, Any]]:
        """What the instances of one of the group's tasks recorded, by map index; read once."""
        if task_id not in self._records:
            wanted = self._wanted(task_id)
            # Not as many: for a record that isn't there, a fan-in asks for the states once more.
            if len(wanted) < -(-len(self.map_indexes) // PAGE_SIZE):
                self._records[task_id] = self._each_record(task_id, wanted)
            else:
                self._records[task_id] = self._by_instance(task_id, self._record_pages(task_id))
        return self._records[task_id]

    def _wanted(self, task_id: str) -> Sequence[int]:
        """Instances whose records are looked at; of a task before the last, those that say why it ended."""
        if task_id == self.source.task_id:
            return self.map_indexes
        found = ((n, self.states.get((task_id, n))) for n in self.map_indexes)
        return [n for n, its in found if its is not None and its.state in {"failed", "skipped"}]

    def _each_record(self, task_id: str, map_indexes: Sequence[int]) -> Mapping[int, Mapping[str, Any]]:
        return {n: read_record(self.reader, task_id, n) for n in map_indexes if (task_id, n) in self.states}

    def _record_pages(self, task_id: str) -> Sequence[dict[str, Any] | None]:
        found: list[dict[str, Any] | None] = []
        for start in range(0, len(self.map_indexes), PAGE_SIZE):
            page = self.reader.record_page(task_id, start, start + PAGE_SIZE)
            found += page
            if len(page) < PAGE_SIZE:
                break
        return found

    def _by_instance(
        self, task_id: str, found: Sequence[dict[str, Any] | None]
    ) -> Mapping[int, Mapping[str, Any]]:
        """
        Say whose each record is.

        It says so itself, and the server gives them by map index: where the one doesn't go together with the
        other, all are read one by one.
        """
        records: dict[int, Mapping[str, Any]] = {}
        last = -1
        for record in found:
            claimed = None if record is None else record.get("map_index")
            if not isinstance(claimed, int) or claimed <= last:
                log.info("%s: a record is gone, or not its instance's; all are read one by one", task_id)
                return self._each_record(task_id, self._wanted(task_id))
            records[claimed], last = record or {}, claimed
        return records

    @cached_property
    def own(self) -> Mapping[int, Mapping[str, Any]]:
        """What the instances of the last task recorded."""
        return self.records(self.source.task_id)

    @cached_property
    def _asked(self) -> tuple[Sequence[str] | None, int] | None:
        """What the task that returned the items says, where an instance's record doesn't tell its name."""
        if self._naming.ask is None or self._naming.label is None or self._naming.names is not None:
            return None
        told = [record["name"] for record in self.own.values() if "name" in record]
        if told and all(name is None for name in told):
            return None  # items in a list, all of which are numbered
        names = {name for name in told if isinstance(name, str) and name}
        return None if len(names) == len(self.map_indexes) else self._naming.ask()

    def name(self, map_index: int) -> str:
        """Name of an instance."""
        if self._naming.label is None:
            return instance_name(self.source.task_id, map_index)
        names = self._naming.names
        if names is None and self._asked is not None:
            names = self._asked[0]
        if names is not None and map_index < len(names):
            return names[map_index]
        told = self.own.get(map_index, {}).get("name")
        if self._naming.ask is not None and self._asked is None and isinstance(told, str) and told:
            return told
        return f"{self._naming.label}_{map_index}"

    def refuse_unfinished(self) -> None:
        """Refuse to account for instances of which some are running again."""
        if self._asked is not None:
            missing = [n for n in range(self._asked[1]) if n not in self.instances]
        else:
            count = self.reader.instance_count([self.source.task_id])
            missing = [n for n in range(count) if n not in self.instances][: count - len(self.instances)]
        if missing:
            names = [self.name(map_index) for map_index in missing]
            message = (
                f"Branches are not finished: {listing(names)}. They were cleared after this fan-in had been "
                "started. It takes them in when it runs again."
            )
            raise BranchesRunningError(message, names=names)

    def having_values(self, key: str, *, ahead: bool) -> list[int] | None:
        """
        Map indexes of those that have pushed a value, in order; None if nobody can tell.

        The server gives values by map index, and without it: whose they are follows from the records, unless
        a value was pushed or deleted by hand.

        :param key: XCom key of the values.
        :param ahead: Whether to ask for all of them, which tells how many they are.
        """
        succeeded = [n for n, found in self.instances.items() if found.state == "success"]
        if not succeeded:
            return []  # whatever lies there, it is no value
        expected: list[int] | None = succeeded if len(succeeded) == len(self.instances) else None
        if key == RETURN_VALUE:
            expected = sorted(n for n, record in self.own.items() if record.get("has_value") is True)
        why = "not every instance succeeded"
        if expected is not None:
            count = self._value_count(key, ahead=ahead)
            if count == len(expected):
                return expected
            why = f"{count} came, {len(expected)} are expected"
        self._ahead = None
        log.info(
            "%s: positions don't tell whose the values under %r are, so they are read one by one: %s",
            self.source.task_id,
            key,
            why,
        )
        return None

    def _value_count(self, key: str, *, ahead: bool) -> int:
        """
        Count the values.

        To ask for all of them instead spares a request, which pays for the records of one task before the
        last. With those of a second, a fan-in sends one more than 4 and 2 for each page: what ended, what
        still runs, what was recorded and the values are told by no other request.
        """
        task_id = self.source.task_id
        if not ahead:
            return self.reader.value_count(task_id, key)
        # One more than there can be, to see any that should not be there.
        self._ahead = self.reader.page(task_id, key, 0, len(self.map_indexes) + 1)
        return len(self._ahead)

    def values(self, key: str, start: int, stop: int) -> Values:
        """Values by position; those that were asked for ahead are kept until then, and no longer."""
        ahead, self._ahead = self._ahead, None
        return self.reader.page(self.source.task_id, key, start, stop) if ahead is None else ahead

    def instance(self, map_index: int) -> Source:
        """One instance as a source of its own."""
        return replace(self.source, name=self.name(map_index), mapped=False, map_index=map_index, naming=None)

    def read_alone(self, map_index: int, key: str, index: int) -> BranchOutcome:
        """One instance with its value, whose identity then is certain."""
        return read_one(self.reader, self.states, self.instance(map_index), key, index)

    def head(self, map_index: int, key: str, index: int) -> BranchOutcome:
        """What can be said of one instance without its value."""
        state, error, task_id, at = self._judge(map_index, key)
        return BranchOutcome(
            name=self.name(map_index),
            index=index,
            state=state,
            error=error,
            task_id=task_id,
            map_index=at,
            duration=branch_duration(self.states, self.instance(map_index)),
        )

    def _judge(self, map_index: int, key: str) -> tuple[State, str | None, str, int]:
        task_ids, last = self.source.task_ids, self.source.task_id
        match self.instances[map_index].state:
            case "success":
                record = self.own.get(map_index, {})
                recorded = record.get("state") == "success" or key != RETURN_VALUE
                error = None if recorded else recorded_error(record, "success") or MARKED_BY_HAND
                return "success" if recorded else "missing", error, last, map_index
            case "failed":
                return "failed", self._error(last, map_index), last, map_index
            case "upstream_failed":
                inner = failed_before_last(self.states, task_ids, map_index)
                if inner is None:
                    return "upstream_failed", None, last, map_index
                return "failed", self._error(*inner), *inner
            case "skipped":
                return "skipped", self._why_stopped(map_index), last, map_index
            case "removed":
                return "removed", None, last, map_index
            case unknown:
                message = f"{last!r} is finished in a state that is not known: {unknown!r}"
                raise ValueError(message)

    def _error(self, task_id: str, map_index: int) -> str:
        return recorded_error(self.records(task_id).get(map_index, {}), "failed") or NO_EXCEPTION_RECORDED

    def _why_stopped(self, map_index: int) -> str | None:
        first = self.source.task_ids[0]
        ran = self.states.get((first, map_index))
        if not self.source.stoppable or ran is None or ran.state != "skipped" or not ran.duration:
            return None
        return recorded_error(self.records(first).get(map_index, {}), STOPPED)


class _GroupPage:
    """Up to 500 instances, whose values are read when they are asked for."""

    def __init__(
        self,
        group: _MappedGroup,
        key: str,
        places: Sequence[int],
        index: int,
        having_values: Sequence[int],
    ) -> None:
        self._group, self._key = group, key
        self._heads = [group.head(map_index, key, index + n) for n, map_index in enumerate(places)]
        self._map_indexes = places
        self._names = {head.name: n for n, head in enumerate(self._heads)}
        self._start = sum(n < places[0] for n in having_values)
        self._having = [n for n in having_values if places[0] <= n <= places[-1]]
        self.states: Sequence[State] = [head.state for head in self._heads]
        self.stopped = sum(head.state == "skipped" and head.error is not None for head in self._heads)

    def __len__(self) -> int:
        return len(self._heads)

    def find(self, name: str) -> int | None:
        return self._names.get(name)

    def durations(self) -> Iterator[tuple[str, float | None]]:
        return ((head.name, head.duration) for head in self._heads)

    def peek(self, place: int) -> BranchOutcome:
        return self._heads[place]

    def read(self) -> Sequence[BranchOutcome]:
        task_id, stop = self._group.source.task_id, self._start + len(self._having)
        try:
            values = list(self._group.values(self._key, self._start, stop)) if self._having else []
        except (FileNotFoundError, UnreadableValueError):  # one by one tells whose
            return [
                self._group.read_alone(map_index, self._key, head.index)
                for map_index, head in zip(self._map_indexes, self._heads, strict=True)
            ]
        if len(values) != len(self._having):
            message = (
                f"{len(values)} values of {len(self._having)} {task_id!r} are left: "
                "they were cleared while they were being read"
            )
            raise BranchesRunningError(message, names=[task_id])
        found = dict(zip(self._having, values, strict=True))
        return [
            replace(head, value=found.get(map_index)) if head.state == "success" else head
            for map_index, head in zip(self._map_indexes, self._heads, strict=True)
        ]
