"""Items of a batched group -> one outcome each, by what their batches recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import BranchesRunningError, ItemsError
from airflow_fanout.execution_time.results import Page
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE, RunReader
from airflow_fanout.rules.instances import States, instances_of, unexpanded_state
from airflow_fanout.rules.names import SPLIT, instance_name
from airflow_fanout.rules.outcomes import LostValue, judge_items
from airflow_fanout.rules.records import ITEM_FAILED, RETURN_VALUE, BatchRecord, batch_key
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.rules.records import Record
    from airflow_fanout.serialization.declaration import DeclaredGroup


def batch_pages(reader: RunReader, states: States, source: Source, start: int) -> Iterator[Page]:
    """
    Find the outcome of every item.

    Requests: one for the bounds of the batches, one to count their values, and two for each batch, its record
    and its values (or the names of its items, if it died before it reported).
    """
    instances = instances_of(states, source.task_id)
    if not instances or unexpanded_state(states, source.task_id) is not None or source.group is None:
        return
    bounds = _bounds(reader, source.group.prefix + SPLIT)
    if missing := [number for number in range(len(bounds)) if number not in instances]:
        names = [instance_name(source.task_id, number) for number in missing]
        message = (
            f"Batches are not finished: {listing(names)}. They were cleared after this fan-in had been "
            "started. It takes them in when it runs again."
        )
        raise BranchesRunningError(message, names=names)
    batches = _Batches(reader, source, source.group)
    pages = [
        batches.page(number, str(instances[number].state), first, stop - first, start + first)
        for number, (first, stop) in enumerate(bounds)
    ]
    if not batches.all_left_values({str(instance.state) for instance in instances.values()}):
        pages = [page.settle() for page in pages]
    yield from pages


def _bounds(reader: RunReader, split_task_id: str) -> Sequence[tuple[int, int]]:
    """Index of the first item, and of the one after the last, of each batch."""
    try:
        bounds = reader.value(split_task_id, -1, RETURN_VALUE)
    except FileNotFoundError as gone:  # the body of an object-storage XCom
        message = (
            f"The items are not known: what {split_task_id!r} returned is no longer stored ({gone}). "
            "Clear it, with the batches that come after it"
        )
        raise ItemsError(message) from None
    if bounds is NOTHING:  # its next try has begun, or somebody has deleted it
        message = (
            f"{split_task_id!r} no longer says which items there are: it was cleared after this fan-in had "
            "been started, which takes them in when it runs again."
        )
        raise BranchesRunningError(message, names=[split_task_id])
    return [(first, stop) for first, stop in bounds]


class _Batches:
    """Reads batch after batch, and remembers whether their items have names, and how many have reported."""

    def __init__(self, reader: RunReader, source: Source, group: DeclaredGroup) -> None:
        self._reader, self._task_id, self._group = reader, source.task_id, group
        self._prefix = group.prefix if source.by_prefix else ""
        self._may_have_names = source.may_have_names
        self._report_count = 0
        self._asked_for_names = False

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

    def page(self, number: int, state: str, first: int, count: int, start: int) -> Page:
        """Account for the items of one batch: ``first`` is an index in the group, ``start`` among all."""
        record: Record | None = None
        if state in {"success", "failed"}:
            record = self._reader.record(self._task_id, number)
        if isinstance(record, BatchRecord) and len(record.statuses) != count:
            record = None
        seconds: Sequence[float | None] = [None] * count
        if isinstance(record, BatchRecord):
            self._report_count += 1
            seconds = record.seconds
        names = self._names(record, number, first, count)
        return Page(
            start=start,
            names=names,
            rulings=judge_items(state, record, count, "present"),
            instances=[(self._task_id, number)] * count,
            durations=seconds,
            load=lambda: self._values(number, names, record),
        )

    def _values(self, number: int, names: Sequence[str], record: Record | None) -> Mapping[int, Any]:
        """Read the values of a batch's successful items, by their index within it."""
        successes = [] if not isinstance(record, BatchRecord) else record.successes
        if not successes:
            return {}
        values: object = None
        lost = LostValue()
        try:
            values = self._reader.value(self._task_id, number, RETURN_VALUE)
        except FileNotFoundError as gone:  # the body of an object-storage XCom
            lost = LostValue(str(gone))
        by_name = values if isinstance(values, Mapping) else {}
        cut = len(self._prefix)
        return {index: by_name.get(names[index][cut:], lost) for index in successes}

    def _names(self, record: Record | None, number: int, first: int, count: int) -> Sequence[str]:
        names: Sequence[str] | None = self._group.names
        if names is not None:
            names = names[first : first + count]
        elif isinstance(record, BatchRecord):
            names, self._may_have_names = record.names, record.names is not None
        elif self._may_have_names:
            names = self._stored_names(number)
        if names is None:
            names = [f"{self._group.label}_{index}" for index in range(first, first + count)]
        return [self._prefix + name for name in names] if self._prefix else names

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
        if isinstance(bounds, list):
            count += sum(stop - first for number, (first, stop) in enumerate(bounds) if number in failed)
    return count
