"""What was declared, and what the server knows of it -> one outcome for every branch."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import BranchesRunningError, UnreadableValueError
from airflow_fanout.execution_time.results import Page, ReadyPage
from airflow_fanout.execution_time.sources import instance_source
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE, RunReader, at_once
from airflow_fanout.rules.instances import (
    InstanceState,
    States,
    failed_before_last,
    instances_at,
    instances_of,
    total_duration,
)
from airflow_fanout.rules.names import PLACEHOLDER, instance_name, natural_key
from airflow_fanout.rules.outcomes import (
    GONE,
    MARKED_BY_HAND,
    BranchOutcome,
    not_stored,
    recorded_error,
    why_missing,
)
from airflow_fanout.rules.records import NO_EXCEPTION_RECORDED, RETURN_VALUE, STOPPED
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.stored_values import values_lie_elsewhere

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from airflow_fanout.execution_time.sources import Source
    from airflow_fanout.rules.policy import State
    from airflow_fanout.serialization.declaration import DeclaredGroup


__all__ = [
    "branch_duration",
    "collect",
    "read_instances",
    "read_one",
    "read_one_by_one",
    "read_record",
    "refuse_cleared",
    "removed_branches",
]


def collect(reader: RunReader, states: States, sources: Sequence[Source], key: str) -> list[Page]:
    """
    Find the outcome of every branch, in the order of the sources.

    :param reader: Reads the run.
    :param states: States of the run's finished instances.
    :param sources: What was declared.
    :param key: XCom key of each branch's value.
    :raises BranchesRunningError: If a branch is not finished: it was cleared after the fan-in had been
        started.
    """
    _refuse_unfinished(reader, states, sources)
    pages: list[Page] = []
    index = 0
    for mapped, alike in groupby(sources, key=lambda source: source.mapped):
        read = _read_mapped if mapped else read_one_by_one
        for page in read(reader, states, alike, key, index):
            pages.append(page)
            index += len(page)
    return pages


def _read_mapped(
    reader: RunReader, states: States, sources: Iterable[Source], key: str, index: int
) -> Iterator[Page]:
    for source in sources:
        if source.naming is None:
            pages = read_instances(reader, states, source, key, index)
        else:
            pages = source.naming.read(reader, states, source, key, index)
        for page in pages:
            yield page
            index += len(page)


def _refuse_unfinished(reader: RunReader, states: States, sources: Sequence[Source]) -> None:
    unfinished = [s.name for s in sources if not s.mapped and (s.task_id, s.map_index) not in states]
    # A mapped group of this package finds out by itself.
    mapped = [source.task_id for source in sources if source.mapped and source.naming is None]
    if mapped:
        finished = sum(task_id in set(mapped) for task_id, _ in states)
        running = reader.instance_count(mapped) - finished
        if running:
            unfinished.append(f"{running} instances of {listing(mapped)}")
    if unfinished:
        message = (
            f"Branches are not finished: {listing(unfinished)}. They were cleared after this fan-in had been "
            "started, or added to the Dag file after the run had. It takes them in when it runs again."
        )
        raise BranchesRunningError(message, names=unfinished)


def refuse_cleared(reader: RunReader, states: States, pages: Iterable[Page]) -> None:
    """
    Refuse to take for None, or for missing, what a branch has lost because it runs again.

    Airflow deletes what a task pushed when its next try starts; that try may have ended already.

    :param reader: Reads the run.
    :param states: States of the run's finished instances, as they were before any value was read.
    :param pages: What was read.
    :raises BranchesRunningError: If a branch is no longer what it was then.
    """
    now = reader.states()
    heads = (page.peek(place) for page in pages for place in range(len(page)))
    names = [
        head.name
        for head in heads
        if now.get((head.task_id, head.map_index)) != states[head.task_id, head.map_index]
    ]
    if names:
        message = (
            f"Branches are not finished: {listing(names)}. They were cleared while this fan-in was reading. "
            "It takes them in when it runs again."
        )
        raise BranchesRunningError(message, names=names)


def read_one_by_one(
    reader: RunReader, states: States, sources: Iterable[Source], key: str, index: int
) -> Iterator[Page]:
    """
    Find the outcome of every branch, with a request or more for each, some at the same time.

    :param reader: Reads the run.
    :param states: States of the run's finished instances.
    :param sources: The branches.
    :param key: XCom key of each branch's value.
    :param index: Place of the first of them.
    """
    outcomes = at_once(
        lambda each: read_one(reader, states, each[1], key, each[0]), list(enumerate(sources, index))
    )
    # Airflow knows no reason of a skip; whatever there is says that it was stopped.
    stopped = sum(outcome.state == "skipped" and outcome.error is not None for outcome in outcomes)
    yield ReadyPage(outcomes, stopped=stopped)


def read_one(reader: RunReader, states: States, source: Source, key: str, index: int) -> BranchOutcome:
    """
    Find the outcome of one branch, or of one instance of a mapped task.

    :param reader: Reads the run.
    :param states: States of the run's finished instances.
    :param source: The branch.
    :param key: XCom key of its value.
    :param index: Its place among the declared.
    """
    found = states[source.task_id, source.map_index]
    task_id, map_index = source.task_id, source.map_index
    state: State
    value: Any = None
    error: str | None = None
    match found.state:
        case "success":
            state, value, error = _read_value(reader, found, source, key)
        case "failed":
            state, error = "failed", _why_failed(reader, source, task_id, map_index)
        case "upstream_failed":
            state = "upstream_failed"
            if own := failed_before_last(states, source.task_ids, source.map_index):
                state, (task_id, map_index) = "failed", own
                error = _why_failed(reader, source, task_id, map_index)
        case "skipped":
            state, error = "skipped", _why_stopped(reader, states, source)
        case "removed":
            state = "removed"
        case unknown:
            message = f"{source.task_id!r} is finished in a state that is not known: {unknown!r}"
            raise ValueError(message)
    return BranchOutcome(
        name=source.name,
        index=index,
        state=state,
        value=value,
        error=error,
        task_id=task_id,
        map_index=map_index,
        duration=branch_duration(states, source),
    )


def branch_duration(states: States, source: Source) -> float | None:
    """
    Add up the seconds of a branch's tasks; None if none of them ever started.

    :param states: States of the run's finished instances.
    :param source: The branch.
    """
    found = [states[source.task_id, source.map_index]]
    for task_id in source.task_ids[:-1]:
        found += instances_at(states, task_id, source.map_index).values()
    return total_duration(found)


def _why_failed(reader: RunReader, source: Source, task_id: str, map_index: int) -> str | None:
    if not source.recorded:
        return None
    return recorded_error(read_record(reader, task_id, map_index), "failed") or NO_EXCEPTION_RECORDED


def _why_stopped(reader: RunReader, states: States, source: Source) -> str | None:
    """Why a branch was not let start; None if it was skipped for another reason."""
    if not source.stoppable:
        return None
    first = states.get((source.task_ids[0], source.map_index))
    if first is None or first.state != "skipped" or not first.duration:
        return None  # Airflow skipped it, without a process of its own that could have asked
    return recorded_error(read_record(reader, source.task_ids[0], source.map_index), STOPPED)


def _read_value(
    reader: RunReader, found: InstanceState, source: Source, key: str
) -> tuple[State, Any, str | None]:
    try:
        value = reader.value(source.task_id, source.map_index, key)
    except FileNotFoundError as gone:  # the body of an object-storage XCom
        return "missing", None, f"{GONE}: {gone}"
    if value is not NOTHING:
        return "success", value, None
    why = _why_nothing(reader, found, source, key)
    return ("success", None, None) if why is None else ("missing", None, why)


def read_record(reader: RunReader, task_id: str, map_index: int) -> Mapping[str, Any]:
    """What a branch's task recorded of itself; nothing if it did not, or if that is gone."""
    try:
        return reader.record(task_id, map_index) or {}
    except FileNotFoundError as gone:  # the body of an object-storage XCom
        return not_stored(gone)


def _why_nothing(reader: RunReader, found: InstanceState, source: Source, key: str) -> str | None:
    """Why a success has no value; None if it returned None, which Airflow does not push."""
    if key != RETURN_VALUE:
        # With a map_index, siblings push under the same key: a None pushed by hand can't be told apart.
        pushed_none = source.map_index < 0 and reader.pushed_none(source.task_id, key)
        return None if pushed_none else why_missing(key)
    if source.recorded:
        record = read_record(reader, source.task_id, source.map_index)
        if record.get("state") != "success":
            return recorded_error(record, "success") or MARKED_BY_HAND
        return GONE if record.get("has_value") else None
    # Airflow gives a task that never ran a duration of exactly 0 when it is marked success by hand, and an
    # EmptyOperator, which it does not run.
    return None if found.duration or found.operator == "EmptyOperator" else MARKED_BY_HAND


log = logging.getLogger(__name__)


def read_instances(reader: RunReader, states: States, source: Source, key: str, index: int) -> Iterator[Page]:
    """
    Read every instance: in pages where positions are identities, one by one where they are not.

    :param reader: Reads the run.
    :param states: States of the run's finished instances.
    :param source: The mapped task.
    :param key: XCom key of each instance's value.
    :param index: Place of the first of them.
    """
    instances = instances_of(states, source.task_id)
    if not instances:
        return
    succeeded = sum(instance.state == "success" for instance in instances.values())
    values = reader.value_count(source.task_id, key)
    if succeeded == values == len(instances):
        places = list(instances)
        for start in range(0, len(places), PAGE_SIZE):
            page = _MappedPage(
                reader,
                states,
                source,
                key,
                index=index,
                start=start,
                places=places[start : start + PAGE_SIZE],
            )
            # A value that is gone has to be found out before the verdict.
            yield ReadyPage(page.read()) if values_lie_elsewhere() else page
        return
    log.info(
        "%s: %s of %s instances succeeded and %s values came; positions don't tell whose they are, "
        "so the values are read one by one",
        source.task_id,
        succeeded,
        len(instances),
        values,
    )
    yield from read_one_by_one(
        reader, states, [instance_source(source, map_index) for map_index in instances], key, index
    )


class _MappedPage:
    """Up to 500 instances of a mapped task all of which succeeded and pushed a value."""

    def __init__(
        self,
        reader: RunReader,
        states: States,
        source: Source,
        key: str,
        *,
        index: int,
        start: int,
        places: Sequence[int],
    ) -> None:
        self._reader, self._run, self._source, self._key = reader, states, source, key
        self._index, self._start, self._map_indexes = index + start, start, places
        self._name = re.compile(re.escape(source.name) + r"\[(0|[1-9][0-9]*)\]")
        self._places = {map_index: place for place, map_index in enumerate(places)}
        self.states: Sequence[State] = ["success"] * len(places)
        self.stopped = 0

    def __len__(self) -> int:
        return len(self._map_indexes)

    def find(self, name: str) -> int | None:
        found = self._name.fullmatch(name)
        return self._places.get(int(found[1])) if found else None

    def durations(self) -> Iterator[tuple[str, float | None]]:
        return (
            (instance_name(self._source.name, map_index), self._duration(map_index))
            for map_index in self._map_indexes
        )

    def peek(self, place: int) -> BranchOutcome:
        map_index = self._map_indexes[place]
        return BranchOutcome(
            name=instance_name(self._source.name, map_index),
            index=self._index + place,
            state="success",
            task_id=self._source.task_id,
            map_index=map_index,
            duration=self._duration(map_index),
        )

    def read(self) -> Sequence[BranchOutcome]:
        task_id, count = self._source.task_id, len(self)
        try:
            values = list(self._reader.page(task_id, self._key, self._start, self._start + count))
        except (FileNotFoundError, UnreadableValueError):  # one by one tells whose
            instances = [instance_source(self._source, map_index) for map_index in self._map_indexes]
            return [
                read_one(self._reader, self._run, instance, self._key, self._index + place)
                for place, instance in enumerate(instances)
            ]
        if len(values) != count:
            message = (
                f"{len(values)} values of {count} {task_id!r} are left: "
                "they were cleared while they were being read"
            )
            raise BranchesRunningError(message, names=[self._source.name])
        return [replace(self.peek(place), value=value) for place, value in enumerate(values)]

    def _duration(self, map_index: int) -> float | None:
        return self._run[self._source.task_id, map_index].duration


def removed_branches(
    states: States, group: DeclaredGroup, known_task_ids: Iterable[str], *, map_index: int, index: int
) -> list[BranchOutcome]:
    """
    Outcomes of what ran in a group and is no longer declared: the Dag file changed during the run.

    :param states: States of the run's finished instances.
    :param group: The group; its branches' ids start with the group's.
    :param known_task_ids: Ids of all tasks that are declared now.
    :param map_index: Instances of this mapped task group alone; -1 outside of one.
    :param index: Place of the first of them.
    """
    known = {*known_task_ids, group.prefix + PLACEHOLDER}
    inner = sorted(
        {
            task_id.removeprefix(group.prefix + branch.name)
            for branch in group.branches
            for task_id in branch.task_ids
        },
        key=len,
        reverse=True,
    )
    lasts = tuple(
        {
            branch.last_task_id.removeprefix(group.prefix + branch.name)
            for branch in group.branches
            if len(branch.task_ids) > 1
        }
    )
    still_declared = tuple(f"{group.prefix}{branch.name}." for branch in group.branches)
    gone: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for task_id, at in states:
        if not task_id.startswith(group.prefix) or task_id in known or (map_index >= 0 and at != map_index):
            continue
        if task_id.startswith(still_declared):
            continue  # a task that a branch has lost
        name = task_id.removeprefix(group.prefix)
        # Tasks of one branch have the same endings in each: '.extract', '.load'.
        ending = next((each for each in inner if each and name.endswith(each)), "")
        gone.setdefault((name.removesuffix(ending), at), []).append((task_id, at))
    for name, at in sorted(gone, reverse=True):
        # Within a branch there may be mapped tasks, a teardown, and tasks of a kind that no other branch has.
        owner = next((each for each in _may_be_of(name, at) if each in gone), None)
        if owner is not None:
            gone[owner] += gone.pop((name, at))
    ordered = sorted(gone.items(), key=lambda pair: (natural_key(pair[0][0]), pair[0][1]))
    return [
        BranchOutcome(
            name=name if map_index >= 0 or at < 0 else instance_name(name, at),
            index=index + place,
            state="removed",
            error="it is no longer declared",
            task_id=max(
                (i for i, _ in instances), key=lambda task_id: (task_id.endswith(lasts), natural_key(task_id))
            ),
            map_index=at,
            duration=total_duration(states[instance] for instance in instances),
        )
        for place, ((name, at), instances) in enumerate(ordered)
    ]


def _may_be_of(name: str, at: int) -> Iterator[tuple[str, int]]:
    """What a name within a removed branch would be part of, the nearest first."""
    if at >= 0:
        yield name, -1
    while "." in name:
        name = name.rpartition(".")[0]
        yield from dict.fromkeys([(name, at), (name, -1)])
