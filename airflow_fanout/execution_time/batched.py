"""Items of a batched group -> one outcome each, by what their batches recorded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import BranchesRunningError, ItemsError
from airflow_fanout.execution_time.ledger import read_record, refuse_cleared
from airflow_fanout.execution_time.results import Page, ReadyPage
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE, RunReader
from airflow_fanout.rules.instances import States, instances_of, unexpanded_state
from airflow_fanout.rules.outcomes import (
    GONE,
    MARKED_BY_HAND,
    BranchOutcome,
    state_of_batch,
    state_of_item,
)
from airflow_fanout.rules.records import (
    ITEM_FAILED,
    ITEM_STOPPED,
    RETURN_VALUE,
    batch_key,
    error_of,
    is_of_batch,
    seconds_of,
)
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from airflow_fanout.execution_time.sources import Source
    from airflow_fanout.rules.policy import State


__all__ = ["BatchNaming", "failures_of_others"]


@dataclass(frozen=True, kw_only=True)
class BatchNaming:
    """
    How the items of a batched group are called.

    :param prefix: What comes before each name; "" but for a fan-in by prefix.
    :param label: What the names of items without one of their own begin with.
    :param names: All names, if they are known from the Dag file and not numbered.
    :param split_task_id: Id of the task that cut the items into batches.
    :param may_be_named: Whether items that came at run time may have names.
    """

    prefix: str
    label: str
    names: Sequence[str] | None
    split_task_id: str
    may_be_named: bool

    def read(self, reader: RunReader, states: States, source: Source, key: str, index: int) -> Iterator[Page]:
        """
        Find the outcome of every item.

        Requests: one for the places of the batches, one to count their values, and two for each batch, its
        record and its values (or the names of its items, if it died before it reported).
        """
        instances = instances_of(states, source.task_id)
        if not instances or unexpanded_state(states, source.task_id) is not None:
            return
        try:
            places = reader.value(self.split_task_id, -1, RETURN_VALUE)
        except FileNotFoundError as gone:  # the body of an object-storage XCom
            message = (
                f"Nobody knows which items there are: what {self.split_task_id!r} returned is no longer "
                f"stored ({gone}); clear it, with the batches that come after it"
            )
            raise ItemsError(message) from None
        if places is NOTHING:  # its next try has begun, or somebody has deleted it
            message = (
                f"{self.split_task_id!r} no longer says which items there are; it was cleared after this "
                "fan-in had been started, which takes them in when it runs again."
            )
            raise BranchesRunningError(message, names=[self.split_task_id])
        if missing := [number for number in range(len(places)) if number not in instances]:
            names = [f"{source.task_id}[{number}]" for number in missing]
            message = (
                f"Batches are not finished: {listing(names)}. They were cleared after this fan-in had been "
                "started. It takes them in when it runs again."
            )
            raise BranchesRunningError(message, names=names)
        reading = _Reading(reader, states, source, self)
        pages = [
            reading.page(number, instances[number].state, start, stop, index + start)
            for number, (start, stop) in enumerate(places)
        ]
        if reading.all_left_values({found.state for found in instances.values()}):
            yield from pages
            return
        for page in pages:
            yield ReadyPage(page.read_once(), stopped=page.stopped)


class _Reading:
    """Reads batch after batch, and remembers whether their items have names, and how many have reported."""

    def __init__(self, reader: RunReader, states: States, source: Source, naming: BatchNaming) -> None:
        self._reader, self._run, self._source, self._naming = reader, states, source, naming
        self._may_be_named = naming.may_be_named
        self._reported = 0
        self._asked_for_names = False

    def all_left_values(self, found: Collection[str]) -> bool:
        """
        Whether no batch's value is gone, which has to be found out before the verdict.

        A batch that reports has pushed its value before. If False, it is not sure.

        :param found: States of the instances of the task.
        """
        if values_lie_elsewhere():  # they can be gone though they are counted
            return False
        if not {"success", "failed"}.issuperset(found):  # these may have kept the value of an earlier try
            return False
        if self._reader.found_nothing and self._asked_for_names:
            # A batch has left nothing, for which the states are asked for once more, and its names were too:
            # there is no request left of those that a fan-in may send.
            return False
        return self._reader.value_count(self._source.task_id, RETURN_VALUE) == self._reported

    def page(self, number: int, found: str, start: int, stop: int, index: int) -> _BatchPage:
        """Account for the items of one batch."""
        task_id, count = self._source.task_id, stop - start
        record: Mapping[str, Any] = {}
        if found in {"success", "failed"}:
            record = read_record(self._reader, task_id, number)
        reported = is_of_batch(record) and len(record["states"]) == count
        self._reported += reported
        letters = record["states"] if reported else ""
        errors: dict[int, str] = {}
        if reported:
            states = [state_of_item(letter, found) for letter in letters]
            stopped = error_of(record["stopped"]) or "not started"
            for place, letter in enumerate(letters):
                if letter == ITEM_STOPPED:
                    errors[place] = stopped
                elif states[place] == "missing":
                    errors[place] = MARKED_BY_HAND
                # A skipped item's is not looked at: an outcome's error says that it was stopped.
                elif states[place] == "failed" and (error := error_of(record["errors"].get(str(place)))):
                    errors[place] = error
        else:
            state, error = state_of_batch(found, record)
            states = [state] * count
            errors = {} if error is None else dict.fromkeys(range(count), error)
        return _BatchPage(
            reader=self._reader,
            run=self._run,
            task_id=task_id,
            map_index=number,
            index=index,
            names=self._names(record if reported else None, number, start, stop),
            states=states,
            errors=errors,
            seconds=[seconds_of(each) for each in record["seconds"]] if reported else [None] * count,
            stopped=letters.count(ITEM_STOPPED),
            prefix_length=len(self._naming.prefix),
        )

    def _names(self, record: Mapping[str, Any] | None, number: int, start: int, stop: int) -> Sequence[str]:
        naming = self._naming
        names = None if naming.names is None else naming.names[start:stop]
        if names is None and self._may_be_named:
            if record is not None:
                names = record["names"]
            else:
                payload: Any = NOTHING
                self._asked_for_names = True
                with suppress(FileNotFoundError):  # the body of an object-storage XCom
                    payload = self._reader.value(naming.split_task_id, -1, batch_key(number))
                names = payload["names"] if isinstance(payload, dict) else None
                if names is None and payload is NOTHING:
                    return self._numbered(start, stop)  # which says nothing about the other batches
            self._may_be_named = names is not None
        if names is None:
            return self._numbered(start, stop)
        return [naming.prefix + name for name in names] if naming.prefix else names

    def _numbered(self, start: int, stop: int) -> Sequence[str]:
        label = self._naming.prefix + self._naming.label
        return [f"{label}_{place}" for place in range(start, stop)]


class _BatchPage:
    """The items of one batch, whose values are read when they are asked for."""

    def __init__(
        self,
        *,
        reader: RunReader,
        run: States,
        task_id: str,
        map_index: int,
        index: int,
        names: Sequence[str],
        states: Sequence[State],
        errors: Mapping[int, str],
        seconds: Sequence[float | None],
        stopped: int,
        prefix_length: int,
    ) -> None:
        self._reader, self._run, self._index = reader, run, index
        self._task_id, self._map_index = task_id, map_index
        self._names, self._errors, self._seconds = names, errors, seconds
        self.states, self.stopped = states, stopped
        self._prefix_length = prefix_length

    def __len__(self) -> int:
        return len(self.states)

    def find(self, name: str) -> int | None:
        return self._places.get(name)

    @cached_property
    def _places(self) -> Mapping[str, int]:
        return {name: place for place, name in enumerate(self._names)}

    def durations(self) -> Iterator[tuple[str, float | None]]:
        return zip(self._names, self._seconds, strict=True)

    def peek(self, place: int) -> BranchOutcome:
        return self._outcome(place, None, None)

    def read(self) -> Sequence[BranchOutcome]:
        outcomes = self.read_once()
        if self.states.count("success") > sum(outcome.state == "success" for outcome in outcomes):
            refuse_cleared(self._reader, self._run, [self])
            # The verdict took them for successes: what comes of it would be less than it says.
            gone = [each.name for each, was in zip(outcomes, self.states, strict=True) if each.state != was]
            batch = f"{self._task_id}[{self._map_index}]"
            message = f"Values of {batch} are gone since they were counted: {listing(gone)}"
            raise BranchesRunningError(message, names=gone)
        return outcomes

    def read_once(self) -> Sequence[BranchOutcome]:
        """Read outcomes, for whoever asks himself whether what is gone runs again."""
        values: Any = {}
        gone = None
        if "success" in self.states:
            try:
                values = self._reader.value(self._task_id, self._map_index, RETURN_VALUE)
            except FileNotFoundError as missing:  # the body of an object-storage XCom
                values, gone = {}, f"{GONE}: {missing}"
        if not isinstance(values, Mapping):
            values, gone = {}, GONE
        return [self._outcome(place, values, gone) for place in range(len(self))]

    def _outcome(self, place: int, values: Mapping[str, Any] | None, gone: str | None) -> BranchOutcome:
        name, state = self._names[place], self.states[place]
        own = name[self._prefix_length :]
        outcome = BranchOutcome(
            name=name,
            index=self._index + place,
            state=state,
            value=values.get(own) if values is not None and state == "success" else None,
            error=self._errors.get(place),
            task_id=self._task_id,
            map_index=self._map_index,
            duration=self._seconds[place],
        )
        if state == "success" and values is not None and own not in values:
            return replace(outcome, state="missing", error=gone or GONE)
        return outcome


def failures_of_others(reader: RunReader, task_id: str, map_index: int, *, split_task_id: str) -> int:
    """
    Count the failed items of the batches that have failed.

    Requests: one, one for each 500 batches if one has failed, and one if one of those has left no record.

    :param reader: Reads the run.
    :param task_id: Id of the mapped task.
    :param map_index: The batch that asks.
    :param split_task_id: Id of the task that knows the places of the batches.
    """
    failed = {
        at
        for (of, at), found in reader.states().items()
        if of == task_id and at >= 0 and at != map_index and found.state == "failed"
    }
    if not failed:
        return 0
    count, start, more = 0, 0, True
    while more:
        records = reader.record_page(task_id, start, start + PAGE_SIZE)
        for record in records:
            match record:
                case {"state": "batch", "map_index": int(number), "states": str(states)} if number in failed:
                    failed.remove(number)
                    count += states.count(ITEM_FAILED)
        start, more = start + PAGE_SIZE, len(records) == PAGE_SIZE
    if failed:  # batches that died before they reported
        places: object = NOTHING
        with suppress(FileNotFoundError):  # the body of an object-storage XCom
            places = reader.value(split_task_id, -1, RETURN_VALUE)
        known = places if isinstance(places, list) else []
        count += sum(stop - start for number, (start, stop) in enumerate(known) if number in failed)
    return count
