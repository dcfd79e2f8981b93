"""Values of a batch's items on their way into files below ``results_path``, and from there to the fan-in."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any, overload

from airflow_fanout.exceptions import BranchesRunningError
from airflow_fanout.execution_time.recording import redacted_error
from airflow_fanout.rules.names import names_digest
from airflow_fanout.rules.records import (
    ITEM_FAILED,
    ITEM_SKIPPED,
    ITEM_SUCCEEDED,
    BatchRecord,
    ItemSeconds,
    StoredPart,
    StoredResults,
)
from airflow_fanout.rules.wording import on_one_line
from airflow_fanout.storage.parts import (
    Row,
    check_format,
    delete,
    failed_name,
    lost,
    part_name,
    read_errors,
    read_part,
    write_failed,
    write_part,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airflow_fanout.execution_time.batch import Batch, ItemResult
    from airflow_fanout.execution_time.checkpoints import ValueParts
    from airflow_fanout.rules.outcomes import LostValue
    from airflow_fanout.serialization.declaration import ResultsFormat

ERRORS_RECORDED = 20
"""Failures, and reasons of skips, that the record of a batch tells; a file has all failures."""

SLOWEST_RECORDED = 10


class ResultsWriter:
    """
    Writes the values of a batch below ``results_path``, and what failed.

    :param folder: As rendered.
    :param labels: Names of the items.
    :param items: What they were given, for those that fail.
    """

    def __init__(
        self,
        folder: str,
        results_format: ResultsFormat,
        *,
        ti: Any,
        start: int,
        labels: Sequence[str],
        items: Sequence[Any],
        is_named: bool,
        log: Any,
    ) -> None:
        check_format(results_format)
        self._folder, self._format = folder.rstrip("/"), results_format
        self._batch, self._try, self._start = ti.map_index, ti.try_number, start
        self._labels, self._items, self._log = labels, items, log
        self._digest = names_digest(labels) if is_named else None
        self._parts: dict[StoredPart, set[int]] = {}  # of a batch that has not ended
        self._replaced: list[str] = []
        self._refused: dict[int, str] = {}
        self._number = 0

    def write(self, batch: Batch, so_far: ValueParts | None) -> StoredResults:
        """
        Write the values of a batch, and what failed; a value that can't be written fails its item alone.

        :param so_far: Of a batch that has not ended: which values are to be written again, and when.
        :raises UnwritableResultsError: If the storage refuses.
        """
        for index, error in self._refused.items():  # of a snapshot, which the next one knows nothing of
            batch.fail(index, error)
        successes = [index for index, result in _results(batch) if result.status == ITEM_SUCCEEDED]
        if so_far is None:
            parts = [self._write_part(batch, successes, str(self._try))]
            self._replaced += [part.path for part in self._parts]
            self._parts = {}
        else:
            so_far.push(successes, lambda indexes, _: self._write_next_part(batch, indexes))
            parts = list(self._parts)
        failed = [(index, result) for index, result in _results(batch) if result.status == ITEM_FAILED]
        failed_path = f"{self._folder}/{failed_name(self._batch, self._try)}"
        if failed:
            write_failed(
                failed_path,
                ((self._labels[n], self._start + n, result.error, self._items[n]) for n, result in failed),
            )
        elif so_far is None and self._number:
            self._replaced.append(failed_path)
        return self._results(batch, parts, failed_path if failed else None)

    def delete_replaced(self) -> None:
        """Delete what this task wrote before, once a record names what counts."""
        earlier = [f"{self._folder}/{failed_name(self._batch, number)}" for number in range(1, self._try)]
        paths, self._replaced = [*self._replaced, *earlier], []
        try:
            for path in paths:
                delete(path)
        except Exception as error:  # costs room, and must not fail the batch
            self._log.warning("What an earlier try wrote can't be deleted: %s", error)

    def _write_part(self, batch: Batch, indexes: Sequence[int], number: str) -> StoredPart:
        def refuse(row: Row, error: Exception) -> None:
            text = redacted_error(error)
            self._log.error("The value of %s can't be written: %s", on_one_line(row.name), text)
            index = row.position - self._start
            self._refused[index] = f"its value can't be written as {self._format}: {text}"
            batch.fail(index, self._refused[index])

        path = f"{self._folder}/{part_name(self._batch, number, self._format)}"
        rows = [Row(self._labels[n], self._start + n, batch.results[n].value) for n in indexes]
        return write_part(path, rows, self._format, refuse)

    def _write_next_part(self, batch: Batch, indexes: Sequence[int]) -> None:
        """Write a part of a batch that has not ended, which may hold again what others hold."""
        part = self._write_part(batch, indexes, f"{self._try}-{self._number}")
        self._number += 1
        held = set(indexes)
        replaced = [other for other, others in self._parts.items() if others <= held]
        self._replaced += [other.path for other in replaced]
        self._parts = {o: others for o, others in self._parts.items() if o not in replaced} | {part: held}

    def _results(self, batch: Batch, parts: Sequence[StoredPart], failed_path: str | None) -> StoredResults:
        timed = [
            ItemSeconds(index, self._labels[index], result.seconds)
            for index, result in _results(batch)
            if result.seconds is not None
        ]
        succeeded = [each for each in timed if batch.results[each.position].status == ITEM_SUCCEEDED]
        worked = [each for each in timed if batch.results[each.position].status != ITEM_SKIPPED]
        names: dict[str, str] = {}
        if self._digest is not None:
            ended = {index for index, result in _results(batch) if result.status == ITEM_SUCCEEDED}
            names = {str(n): name for n, name in enumerate(self._labels) if n not in ended}
        cpu = [result.cpu_seconds for _, result in _results(batch) if result.cpu_seconds is not None]
        return StoredResults(
            parts=parts,
            failed_path=failed_path,
            names_digest=self._digest,
            names=names,
            skips=_skips(batch),
            recorded=len(timed),
            seconds=_sum(timed),
            success_seconds=_sum(succeeded),
            longest=max(succeeded, key=attrgetter("seconds"), default=None),
            slowest=heapq.nlargest(SLOWEST_RECORDED, worked, key=attrgetter("seconds")),
            cpu_seconds=round(math.fsum(cpu), 6) if cpu else None,
        )


def recorded_columns(batch: Batch, stored: StoredResults) -> dict[str, Any]:
    """What the record of a batch says of its items, where their values are in files."""
    failures = ((n, r.error) for n, r in _results(batch) if r.status == ITEM_FAILED and r.error is not None)
    return {
        "errors": {str(index): error for index, error in islice(failures, ERRORS_RECORDED)},
        "tries": {str(index): result.tries for index, result in _results(batch) if result.tries != 1},
        "results": stored,
    }


def written_values(batch: Batch, stored: StoredResults) -> dict[str, Any]:
    """What a batch returns in place of its values: where they are, and how many items ended how."""
    statuses = Counter(result.status for _, result in _results(batch))
    return {
        "part": stored.parts[0].path,
        "succeeded": statuses[ITEM_SUCCEEDED],
        "failed": statuses[ITEM_FAILED],
        "skipped": statuses[ITEM_SKIPPED],
        "failed_items": stored.failed_path,
    }


def _results(batch: Batch) -> Iterator[tuple[int, ItemResult]]:
    results = ((index, batch.results.get(index)) for index in range(batch.size))
    return ((index, result) for index, result in results if result is not None)


def _sum(timed: Sequence[ItemSeconds]) -> float | None:
    return round(math.fsum(each.seconds for each in timed), 6) if timed else None


def _skips(batch: Batch) -> list[tuple[int, int, str]]:
    """Reasons of the first skipped items in a row; neighbours with one reason are told together."""
    skipped = (
        (index, result.error)
        for index, result in _results(batch)
        if result.status == ITEM_SKIPPED and result.error is not None
    )
    skips: list[tuple[int, int, str]] = []
    numbered = ((index - number, index, reason) for number, (index, reason) in enumerate(skipped))
    for (_, reason), run in groupby(numbered, key=itemgetter(0, 2)):
        indexes = [index for _, index, _ in run]
        skips.append((indexes[0], indexes[-1] + 1, reason))
        if len(skips) == ERRORS_RECORDED:
            break
    return skips


class StoredValues:
    """Values of a batch's items in files, as a fan-in reads them; ``title`` is that of the batch."""

    def __init__(self, record: BatchRecord, results: StoredResults, title: str) -> None:
        self.results = results
        self._record, self._title = record, title
        self._known = {int(index): name for index, name in results.names.items()}

    def find_lost(self) -> LostValue | None:
        """Ask the storage, one request a file, whether one is gone or was changed; what is lost then."""
        return next(filter(None, map(lost, self.results.parts)), None)

    def read(self) -> Iterator[tuple[int, Any]]:
        """
        Read the values, by index within the batch, in order.

        :raises BranchesRunningError: If a file is gone since it was counted.
        """
        return ((row.position - self._record.start, row.value) for row in self._rows(with_values=True))

    def _rows(self, *, with_values: bool) -> Iterator[Row]:
        parts = [read_part(part.path, with_values=with_values) for part in self.results.parts]
        try:
            last = -1
            for row in heapq.merge(*parts, key=attrgetter("position")):
                if row.position != last:  # two parts of a batch that died may hold the same
                    yield row
                last = row.position
        except FileNotFoundError as gone:
            message = f"Values are gone since they were counted: {gone}"
            raise BranchesRunningError(message, names=[self._title]) from None

    def names(self) -> StoredNames:
        """Names of the items, as they are asked for."""
        return StoredNames(self, self._known, len(self._record.statuses))

    def all_names(self) -> list[str]:
        """Read the names of all items; of those that did not succeed the record has them."""
        names = dict(self._known)
        names |= {row.position - self._record.start: row.name for row in self._rows(with_values=False)}
        return [names[index] for index in range(len(self._record.statuses))]

    def error(self, index: int, error: str | None) -> str | None:
        """Return an item's error as the judge has it, or as the file of all failures tells it."""
        path = self.results.failed_path
        if path is None or error != self._record.told_elsewhere:
            return error
        try:
            return _errors(path).get(self._record.start + index)
        except FileNotFoundError:
            return f"{error}, which is no longer stored"


@lru_cache(maxsize=1)
def _errors(path: str) -> Mapping[int, str | None]:
    return read_errors(path)


class StoredNames(Sequence[str]):
    """Names of a batch's items that are in the files of their values, read when they are asked for."""

    def __init__(self, values: StoredValues, known: Mapping[int, str], count: int) -> None:
        self._values, self._known, self._count = values, known, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(_all_names(self._values))

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(self._count))]
        index = range(self._count)[place]
        return self._known.get(index) or _all_names(self._values)[index]


@lru_cache(maxsize=2)
def _all_names(values: StoredValues) -> Sequence[str]:
    return values.all_names()
