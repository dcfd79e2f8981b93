"""What was declared, and what the server knows of it -> one outcome for every branch; runs on the worker."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import BranchesRunningError
from airflow_fanout.hooks import NO_EXCEPTION_RECORDED
from airflow_fanout.names import instance_name, listing, natural_key
from airflow_fanout.results import BranchOutcome, Page, ReadyPage
from airflow_fanout.xcom import NOTHING, PAGE_SIZE, InstanceState, RunReader, values_lie_elsewhere

if TYPE_CHECKING:
    from airflow_fanout.policy import State

__all__ = ["Source", "States", "collect", "instances_of", "removed_branches", "unexpanded_state"]

log = logging.getLogger(__name__)

States = Mapping[tuple[str, int], InstanceState]
"""``{(task_id, map_index): state}`` of the finished instances of a run."""

RETURN_VALUE = "return_value"

PLACEHOLDER = "no_branches"
"""Name of the task that stands in a group of zero branches."""

MARKED_BY_HAND = "it was marked success by hand, and pushed nothing"
GONE = "it returned a value, which is no longer stored"


@dataclass(frozen=True, kw_only=True)
class Source:
    """
    A task that a fan-in collects from.

    :param name: Name of its branch; of a mapped task, the part before ``[map_index]``.
    :param task_id: Full id of the task.
    :param mapped: Whether each of its instances is a branch.
    :param recorded: Whether it is a branch of this package, which records more than Airflow does.
    :param map_index: Instance that is read if the task is not mapped: -1, or that of the mapped task group
        which the fan-in runs in.
    """

    name: str
    task_id: str
    mapped: bool = False
    recorded: bool = False
    map_index: int = -1


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
    ready: list[BranchOutcome] = []
    index = 0
    for source in sources:
        if not source.mapped:
            ready.append(_read_one(reader, states[source.task_id, source.map_index], source, key, index))
            index += 1
            continue
        if ready:
            pages.append(ReadyPage(ready))
            ready = []
        mapped = _read_mapped(reader, instances_of(states, source.task_id), source, key, index)
        pages.extend(mapped)
        index += sum(map(len, mapped))
    if ready:
        pages.append(ReadyPage(ready))
    return pages


def instances_of(states: States, task_id: str) -> dict[int, InstanceState]:
    """Finished instances of a mapped task by map_index, in order; none if it never expanded."""
    found = {index: state for (of, index), state in states.items() if of == task_id and index >= 0}
    return dict(sorted(found.items()))


def unexpanded_state(states: States, task_id: str) -> str | None:
    """State of a mapped task that never expanded; None if it did, or is not finished."""
    unexpanded = states.get((task_id, -1))
    return None if unexpanded is None or instances_of(states, task_id) else unexpanded.state


def removed_branches(
    states: States, prefix: str, known_task_ids: Iterable[str], *, map_index: int, index: int
) -> list[BranchOutcome]:
    """
    Outcomes of what ran in a group and is no longer declared: the Dag file changed during the run.

    :param prefix: What the group's task ids start with, the dot included.
    :param known_task_ids: Ids of all tasks that are declared now.
    :param map_index: Instances of this mapped task group alone; -1 outside of one.
    :param index: Place of the first of them.
    """
    known = {*known_task_ids, prefix + PLACEHOLDER}
    gone = sorted(
        (
            (task_id, at)
            for task_id, at in states
            if task_id.startswith(prefix) and task_id not in known and (map_index < 0 or at == map_index)
        ),
        key=lambda instance: (natural_key(instance[0]), instance[1]),
    )
    return [
        BranchOutcome(
            name=name if map_index >= 0 or at < 0 else instance_name(name, at),
            index=index + place,
            state="removed",
            error="it is no longer declared",
            task_id=task_id,
            map_index=at,
            duration=states[task_id, at].duration,
        )
        for place, (task_id, at) in enumerate(gone)
        for name in (task_id.removeprefix(prefix),)
    ]


def _refuse_unfinished(reader: RunReader, states: States, sources: Sequence[Source]) -> None:
    unfinished = [s.name for s in sources if not s.mapped and (s.task_id, s.map_index) not in states]
    mapped = [source.task_id for source in sources if source.mapped]
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


def _read_one(reader: RunReader, found: InstanceState, source: Source, key: str, index: int) -> BranchOutcome:
    state, value, error = _judge(reader, found, source, key)
    return BranchOutcome(
        name=source.name,
        index=index,
        state=state,
        value=value,
        error=error,
        task_id=source.task_id,
        map_index=source.map_index,
        duration=found.duration,
    )


def _judge(
    reader: RunReader, found: InstanceState, source: Source, key: str
) -> tuple[State, Any, str | None]:
    """State, value and error of one instance."""
    match found.state:
        case "success":
            return _read_value(reader, found, source, key)
        case "failed" if source.recorded:
            record = _record(reader, source)
            error = record.get("error") if record.get("state") == "failed" else None
            return "failed", None, error or NO_EXCEPTION_RECORDED
        case "failed" | "upstream_failed" | "skipped" | "removed":
            return found.state, None, None
    message = f"{source.task_id!r} is finished in a state that is not known: {found.state!r}"
    raise ValueError(message)


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


def _record(reader: RunReader, source: Source) -> Mapping[str, Any]:
    """What a branch recorded of itself; nothing if it did not, or if that is gone."""
    try:
        return reader.record(source.task_id, source.map_index) or {}
    except FileNotFoundError:  # the body of an object-storage XCom
        return {}


def _why_nothing(reader: RunReader, found: InstanceState, source: Source, key: str) -> str | None:
    """Why a success has no value; None if it returned None, which Airflow does not push."""
    if key != RETURN_VALUE:
        # With a map_index, siblings push under the same key: a None pushed by hand can't be told apart.
        pushed_none = source.map_index < 0 and reader.pushed_none(source.task_id, key)
        return None if pushed_none else f"it pushed nothing under the key {key!r}"
    if source.recorded:
        record = _record(reader, source)
        if record.get("state") != "success":
            return MARKED_BY_HAND
        return GONE if record.get("has_value") else None
    # Airflow gives a task that never ran a duration of exactly 0 when it is marked success by hand, and an
    # EmptyOperator, which it does not run.
    return None if found.duration or found.operator == "EmptyOperator" else MARKED_BY_HAND


def _read_mapped(
    reader: RunReader, instances: Mapping[int, InstanceState], source: Source, key: str, index: int
) -> list[Page]:
    """Read in pages where positions are identities; one by one where they are not."""
    if not instances:
        return []
    succeeded = sum(instance.state == "success" for instance in instances.values())
    values = reader.value_count(source.task_id, key)
    if succeeded == values == len(instances):
        places = list(instances.items())
        pages: list[Page] = [
            _MappedPage(
                reader, source, key, index=index, start=start, instances=places[start : start + PAGE_SIZE]
            )
            for start in range(0, len(places), PAGE_SIZE)
        ]
        # A value that is gone has to be found out before the verdict.
        return [ReadyPage(page.read()) for page in pages] if values_lie_elsewhere() else pages
    log.info(
        "%s: %s of %s instances succeeded and %s values came; positions don't tell whose they are, "
        "so the values are read one by one",
        source.task_id,
        succeeded,
        len(instances),
        values,
    )
    return [
        ReadyPage(
            [
                _read_one(reader, found, _instance(source, map_index), key, index + place)
                for place, (map_index, found) in enumerate(instances.items())
            ]
        )
    ]


def _instance(source: Source, map_index: int) -> Source:
    return Source(
        name=instance_name(source.name, map_index),
        task_id=source.task_id,
        recorded=source.recorded,
        map_index=map_index,
    )


class _MappedPage:
    """Up to 500 instances of a mapped task all of which succeeded and pushed a value."""

    def __init__(
        self,
        reader: RunReader,
        source: Source,
        key: str,
        *,
        index: int,
        start: int,
        instances: Sequence[tuple[int, InstanceState]],
    ) -> None:
        self._reader, self._source, self._key = reader, source, key
        self._index, self._start, self._instances = index, start, instances
        self._name = re.compile(re.escape(source.name) + r"\[(0|[1-9][0-9]*)\]")
        self._places = {map_index: place for place, (map_index, _) in enumerate(instances)}
        self.states: Sequence[State] = ["success"] * len(instances)

    def __len__(self) -> int:
        return len(self._instances)

    def find(self, name: str) -> int | None:
        found = self._name.fullmatch(name)
        return self._places.get(int(found[1])) if found else None

    def durations(self) -> Iterator[tuple[str, float | None]]:
        return (
            (instance_name(self._source.name, map_index), instance.duration)
            for map_index, instance in self._instances
        )

    def read(self) -> Sequence[BranchOutcome]:
        try:
            values = list(
                self._reader.page(
                    self._source.task_id, self._key, self._start, self._start + len(self._instances)
                )
            )
        except FileNotFoundError:  # the body of an object-storage XCom; one by one tells whose
            return [
                _read_one(
                    self._reader,
                    instance,
                    _instance(self._source, map_index),
                    self._key,
                    self._index + self._start + place,
                )
                for place, (map_index, instance) in enumerate(self._instances)
            ]
        if len(values) != len(self._instances):
            message = (
                f"{len(values)} values of {len(self._instances)} {self._source.task_id!r} are left: "
                "they were cleared while they were being read"
            )
            raise BranchesRunningError(message, names=[self._source.name])
        return [
            BranchOutcome(
                name=instance_name(self._source.name, map_index),
                index=self._index + self._start + place,
                state="success",
                value=value,
                task_id=self._source.task_id,
                map_index=map_index,
                duration=instance.duration,
            )
            for place, ((map_index, instance), value) in enumerate(zip(self._instances, values, strict=True))
        ]
