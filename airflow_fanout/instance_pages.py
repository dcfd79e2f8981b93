"""The instances of anybody's mapped task, in pages -> their outcomes; on the worker."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_fanout.branch_outcomes import read_one, read_one_by_one
from airflow_fanout.exceptions import BranchesRunningError, UnreadableValueError
from airflow_fanout.instance_states import States, instances_of
from airflow_fanout.names import instance_name
from airflow_fanout.results import BranchOutcome, Page, ReadyPage
from airflow_fanout.sources import instance_source
from airflow_fanout.stored_values import values_lie_elsewhere
from airflow_fanout.xcom import PAGE_SIZE, RunReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_fanout.policy import State
    from airflow_fanout.sources import Source

__all__ = ["read_instances"]

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
