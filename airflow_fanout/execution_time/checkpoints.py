"""Results of a batch's items, kept in Airflow's task state store for its next try."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from airflow_fanout.execution_time.batch import ItemResult
from airflow_fanout.execution_time.xcom import answered_in_process
from airflow_fanout.rules.records import ITEM_FAILED
from airflow_fanout.rules.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airflow_fanout.execution_time.batch import Batch


PIECE_SIZE = 60_000
"""Characters of one piece; Airflow warns above 65,536 bytes (``[state_store] max_value_storage_bytes``)."""

ITEMS_AT_ONCE = 800
"""Items after which to look whether the batch has ended: about a piece of the smallest results."""

CHECKPOINT_EVERY = 2.0
"""Seconds between two checkpoints; with the time that one takes, well below the 5 s that may be lost."""

REPORT_EVERY = 0.00004
"""Seconds between two reports before the end, for each item, whose record each time takes a tenth of that."""

WRITE_FAILURE_EVERY = 0.0001
"""The same for each item that has not ended, where it is written as failed; that takes a fifth of it."""

PARTS_MERGED = 8
"""Parts of a batch's values that are put into one."""

PROGRESS_EVERY = 5.0
"""Seconds between two progress lines."""

KEY = "airflow_fanout"


def fingerprint(*values: Any) -> str | None:
    """Make a short text that tells values from others; None if they can't be serialized."""
    from airflow.sdk.serde import serialize

    try:
        text = json.dumps(ordered(serialize(list(values))), sort_keys=True)
    except Exception:  # whatever a serializer of the author's raises
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def ordered(value: Any) -> Any:
    """Put the members of sets, which every process orders as it likes, into one order."""
    if isinstance(value, dict):
        members = {name: ordered(member) for name, member in value.items()}
        if value.get("__classname__") in {"builtins.set", "builtins.frozenset"}:
            members["__data__"] = sorted(members["__data__"], key=json.dumps)
        return members
    return [ordered(member) for member in value] if isinstance(value, list) else value


class Checkpoints:
    """
    Saves the results of items, in pieces of a bounded size.

    What failed for good is not run again by Airflow's retries, but is if somebody clears the task: they have
    mended something.

    :param store: Airflow's task state store, which outlives a try; None where Airflow has none (before 3.3).
    :param fingerprint_of: Fingerprint of the item of an index; None if it has none.
    :param max_tries: The task instance's, which Airflow raises when somebody clears it.
    """

    def __init__(
        self,
        store: Any,
        fingerprint_of: Callable[[int], str | None],
        log: Any,
        *,
        max_tries: int,
    ) -> None:
        self._store, self._fingerprint_of, self._log = store, fingerprint_of, log
        self._max_tries = max_tries
        self._pieces = self._saved = 0
        self._unsaved: Counter[str] = Counter()
        self._saving = threading.Lock()

    def restore(self, batch: Batch) -> None:
        """Give a batch the results of earlier tries."""
        pieces: list[Any] = []
        try:
            while self._store is not None and (piece := self._store.get(f"{KEY}_{self._pieces}")) is not None:
                self._pieces += 1
                pieces += piece
        except Exception as error:
            self._log.warning("Results of an earlier try can't be read, those items run again: %s", error)
        if saved := dict(filter(None, map(self._read, pieces))):
            for index in range(batch.size):
                result = saved.get(self._fingerprint_of(index) or "")
                if result is None:
                    continue
                if _runs_again(result):
                    batch.earlier_tries[index] = result.tries
                else:
                    batch.reuse(index, result)

    def _read(self, entry: Any) -> tuple[str, ItemResult] | None:
        from airflow.sdk.serde import deserialize

        try:
            item, max_tries, *fields = entry
            result = ItemResult(*fields)
            result = result._replace(value=deserialize(result.value))
        except Exception as error:  # such as a class that is no longer there, or may not be deserialized
            self._log.warning("A result of an earlier try can't be read, its item runs again: %s", error)
            return None
        return None if result.is_final and max_tries != self._max_tries else (item, result)

    def save(self, batch: Batch, *, give_up: Callable[[], bool] = lambda: False) -> None:
        """
        Save what has succeeded, was skipped, or failed, since the last time; of what runs again its tries.

        :param give_up: Asked between pieces whether to leave the rest for another time.
        """
        is_behind = self._store is not None
        while is_behind and not give_up():
            with self._saving:
                indexes = batch.ended[self._saved : self._saved + ITEMS_AT_ONCE]
                for piece in self._pieces_of(batch, indexes):
                    self._append(piece)
                self._saved += len(indexes)
            # What ends meanwhile waits for the next time: else it would be saved one by one, a request each.
            is_behind = len(indexes) == ITEMS_AT_ONCE

    def _append(self, piece: list[Any]) -> None:
        try:
            self._store.set(f"{KEY}_{self._pieces}", piece)
        except Exception as error:  # costs a retry some work, and must not fail the batch
            self._log.warning("Results can't be saved, a retry runs those items again: %s", error)
        else:
            self._pieces += 1

    def keep(self, batch: Batch) -> None:
        """Save the rest, and say which results a retry can't use."""
        self.save(batch)
        for reason, count in self._unsaved.items():
            results = counted(count, "result", "results")
            self._log.warning("%s can't be kept, a retry runs those items again: %s", results, reason)

    def forget(self) -> None:
        """Delete all: the batch has succeeded, and clearing it is to run all of it again."""
        try:
            while self._pieces:  # from the end, so that what is left can still be found
                self._store.delete(f"{KEY}_{self._pieces - 1}")
                self._pieces -= 1
        except Exception as error:
            self._log.warning("Saved results can't be deleted, and may be used again: %s", error)

    def _pieces_of(self, batch: Batch, indexes: Iterable[int]) -> Iterator[list[list[Any]]]:
        piece: list[list[Any]] = []
        room = PIECE_SIZE
        for index in indexes:
            result = batch.results[index]
            if _runs_again(result):
                if self._fingerprint_of(index) is None:
                    continue
                result = ItemResult(ITEM_FAILED, tries=result.tries)
            entry, size = self._entry(index, result)
            if size > room and piece:
                yield piece
                piece, room = [], PIECE_SIZE
            if entry is not None:
                piece.append(entry)
                room -= size + 2
        if piece:
            yield piece

    def _entry(self, index: int, result: ItemResult) -> tuple[list[Any] | None, int]:
        """Make the entry of a result, with its size; None if it can't be saved."""
        from airflow.sdk.serde import serialize

        item, reason = self._fingerprint_of(index), "the item, or an argument, can't be serialized"
        if item is not None:
            try:
                entry = [item, self._max_tries, *result._replace(value=serialize(result.value))]
                size = len(json.dumps(entry))
            except Exception as error:  # whatever a serializer of the author's raises
                reason = f"{type(error).__name__}: {error}"[:200]
            else:
                if size <= PIECE_SIZE:
                    return entry, size
                reason = f"a result takes more than {PIECE_SIZE:,} characters"
        self._unsaved[reason] += 1
        return None, 0


class ValueParts:
    """
    Says what values of a batch that has not ended are to be pushed again, and where.

    A report is a part of its own, and each eighth puts those before it into one; each 64th does so with
    these. So a value of one of n reports is pushed at most 1 + log8(n) times, in at most 7 * (1 + log8(n))
    parts, which have no gap: where one of more reports is, all those of fewer were.
    """

    def __init__(self) -> None:
        self.number = self._reports = 0
        self._parts: dict[int, list[int]] = {}

    def push(self, successes: Iterable[int], push: Callable[[list[int], int], object]) -> None:
        """
        Have the successes pushed that were not yet, with those that are put into one with them.

        :param push: Takes items, and the number of their part; what it raises changes nothing here.
        """
        new = set(successes).difference(*self._parts.values())
        if not new:
            return
        digit, level = self._reports + 1, 0
        while digit % PARTS_MERGED == 0:
            digit, level = digit // PARTS_MERGED, level + 1
        first = (PARTS_MERGED - 1) * level
        part = first + digit % PARTS_MERGED - 1
        indexes = sorted(new.union(*(items for number, items in self._parts.items() if number < first)))
        push(indexes, part)
        self._parts = {number: items for number, items in self._parts.items() if number >= first}
        self._parts[part] = indexes
        self._reports += 1
        self.number = max(self.number, part + 1)


def _runs_again(result: ItemResult) -> bool:
    """Whether a retry of the task runs an item again that has ended so."""
    return result.status == ITEM_FAILED and not result.is_final


class CheckpointThread:
    """
    A thread beside the items that saves their results and logs the batch's progress.

    :param report: Reports a batch that has not ended: after a kill, if no retry follows, it is all there is.
    :param writes_failures: Whether that writes what has not ended as failed, each time.
    """

    def __init__(
        self,
        log: Any,
        batch: Batch,
        checkpoints: Checkpoints,
        report: Callable[[Batch], object] = lambda snapshot: None,  # noqa: ARG005
        *,
        writes_failures: bool = False,
    ) -> None:
        self._log, self._batch, self._checkpoints, self._report = log, batch, checkpoints, report
        self._writes_failures = writes_failures
        self._ended, self._wanted, self._saved = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="fan-out-checkpoints")

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join(timeout=30)
        self._log.info("%s", self._batch.progress)

    def kill(self) -> None:
        """Save from a signal handler: the main thread may be in the midst of a request."""
        self._batch.close()
        if not self._ended.is_set():  # after a timeout Airflow kills the task, too
            self._saved.clear()
            self._wanted.set()
            self._saved.wait(timeout=3)

    def _run(self) -> None:
        logged = reported = time.monotonic()
        while not self._ended.is_set():
            is_killed = self._wanted.wait(CHECKPOINT_EVERY)
            self._wanted.clear()
            # When all items have ended, the task itself decides what is worth keeping. dag.test() answers one
            # thread at a time.
            if not self._ended.is_set() and not answered_in_process():
                self._checkpoints.save(self._batch, give_up=self._ended.is_set)
                is_due = time.monotonic() - reported >= self._report_seconds
                if is_killed or (is_due and not self._batch.is_retried):
                    self._report_so_far()
                    reported = time.monotonic()
            self._saved.set()
            if time.monotonic() - logged > PROGRESS_EVERY:
                logged = time.monotonic()
                self._log.info("%s", self._batch.progress)

    @property
    def _report_seconds(self) -> float:
        """Seconds between two reports, so that these take a small part of the time."""
        seconds = REPORT_EVERY * len(self._batch.results)
        return seconds + WRITE_FAILURE_EVERY * len(self._batch.pending) if self._writes_failures else seconds

    def _report_so_far(self) -> None:
        try:
            self._report(self._batch.snapshot())
        except Exception as error:  # such as of values that are too large together
            self._log.warning("What was done so far can't be reported before the end: %s", error)
