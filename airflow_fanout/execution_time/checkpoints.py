"""What a batch has done, kept in Airflow's task state store for its next try; on the worker."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, Protocol

from airflow_fanout.execution_time.batch import Done
from airflow_fanout.rules.records import ITEM_SKIPPED, ITEM_SUCCEEDED

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from airflow_fanout.execution_time.batch import Batch


__all__ = ["Checkpoints", "Store", "fingerprint"]

PIECE_SIZE = 60_000
"""Characters of one entry; Airflow warns above 65,536 bytes (``[state_store] max_value_storage_bytes``)."""

ITEMS_AT_ONCE = 800
"""Items after which to look whether the batch has ended: about an entry of the smallest results."""

KEY = "airflow_fanout"

FINAL_KEY = f"{KEY}_final"


class Store(Protocol):
    """The part of Airflow's ``context["task_state_store"]`` that is used."""

    def get(self, key: str) -> Any:
        """Return what is kept under a key; None if there is nothing."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value that is JSON."""

    def delete(self, key: str) -> None:
        """Forget a key."""


def fingerprint(*parts: Any) -> str | None:
    """
    Make a short text that tells values from others; None if they can't be serialized.

    :param parts: The values.
    """
    from airflow.sdk.serde import serialize

    try:
        said = json.dumps(_in_order(serialize(list(parts))), sort_keys=True)
    except Exception:  # whatever a serializer of the author's raises
        return None
    return hashlib.sha256(said.encode()).hexdigest()[:20]


def _in_order(said: Any) -> Any:
    """Put the members of sets, which every process orders as it likes, into one order."""
    if isinstance(said, dict):
        ordered = {name: _in_order(each) for name, each in said.items()}
        if said.get("__classname__") in {"builtins.set", "builtins.frozenset"}:
            ordered["__data__"] = sorted(ordered["__data__"], key=json.dumps)
        return ordered
    return [_in_order(each) for each in said] if isinstance(said, list) else said


class Checkpoints:
    """
    Saves what has ended since the last time, in entries of a bounded size.

    :param store: Airflow's task state store, which outlives a try.
    :param fingerprint_of: Fingerprint of the item of a place; None if it has none.
    :param log: Where to say what can't be saved.
    :param retried: Whether a retry comes if this try fails, which must not run again what failed for good. If
        not, whoever clears the batch has mended something, and all that failed runs again.
    """

    def __init__(
        self,
        store: Store,
        fingerprint_of: Callable[[int], str | None],
        log: logging.Logger | Any,
        *,
        retried: bool,
    ) -> None:
        self._store, self.fingerprint_of, self._log = store, fingerprint_of, log
        self._retried = retried
        self._pieces = {KEY: 0, FINAL_KEY: 0}
        self._saved = 0
        self._unsaved: dict[str, int] = {}

    def load(self) -> Mapping[str, Done]:
        """Return what earlier tries have saved, by fingerprint."""
        entries: list[Any] = []
        try:
            for key in self._pieces:
                while (piece := self._store.get(f"{key}_{self._pieces[key]}")) is not None:
                    self._pieces[key] += 1
                    entries += piece
        except Exception as unfit:
            self._log.warning("What an earlier try has done can't be read, all else runs again: %s", unfit)
        if not self._retried:
            self.forget_final_failures()  # now: this try may be killed
        return dict(self._read(entries))

    def _read(self, entries: Iterable[Any]) -> Iterator[tuple[str, Done]]:
        for entry in entries:
            try:
                yield entry[0], _done(entry)
            except Exception as unfit:  # a class that may not be deserialized, or is no longer there
                self._log.warning("A result of an earlier try can't be read, it runs again: %s", unfit)

    def save(self, batch: Batch, *, give_up: Callable[[], bool] = lambda: False) -> None:
        """
        Save what has succeeded, was skipped, or failed for good, since the last time.

        :param batch: The batch.
        :param give_up: Asked between entries whether to leave the rest for another time.
        """
        until = len(batch.ended)
        while self._saved < until and not give_up():
            ended = batch.ended[self._saved : min(self._saved + ITEMS_AT_ONCE, until)]
            self._saved += len(ended)
            self._append(
                KEY,
                batch,
                [place for place in ended if batch.states[place] in {ITEM_SUCCEEDED, ITEM_SKIPPED}],
            )
            if self._retried:
                self._append(FINAL_KEY, batch, [place for place in ended if place in batch.final])

    def forget_final_failures(self) -> None:
        """Delete them: no retry will come, and whoever clears the batch has mended something."""
        self._delete(FINAL_KEY)

    def _append(self, key: str, batch: Batch, places: Iterable[int]) -> None:
        for piece in self._in_pieces(self._entries(batch, places)):
            if self._set(f"{key}_{self._pieces[key]}", piece):
                self._pieces[key] += 1

    def _delete(self, key: str) -> None:
        try:
            while self._pieces[key]:  # from the end, so that what is left can still be found
                self._store.delete(f"{key}_{self._pieces[key] - 1}")
                self._pieces[key] -= 1
        except Exception as unfit:
            self._log.warning("What was saved can't be deleted, and may be used again: %s", unfit)

    def _set(self, key: str, piece: Any) -> bool:
        """Keep an entry; a store that does not work costs a retry some work, and must not fail the batch."""
        try:
            self._store.set(key, piece)
        except Exception as unfit:
            self._log.warning("What is done can't be saved, a retry will do it again: %s", unfit)
            return False
        return True

    def forget(self) -> None:
        """Delete all: the batch has succeeded, and clearing it is to run all of it again."""
        for key in self._pieces:
            self._delete(key)

    def log_unsaved(self) -> None:
        """Say what a retry will have to do again."""
        for why, count in self._unsaved.items():
            self._log.warning(
                "%s results can't be kept for a retry, which runs those items again: %s", count, why
            )

    def _entries(self, batch: Batch, places: Iterable[int]) -> Iterator[tuple[list[Any], int]]:
        from airflow.sdk.serde import serialize

        for place in places:
            state = batch.states[place]
            print_ = self.fingerprint_of(place)
            if print_ is None:
                self._skip("the item, or an argument, can't be serialized")
                continue
            try:
                value = serialize(batch.values.get(place))
                took = batch.seconds[place], batch.cpu_seconds[place]
                entry = [print_, state, value, batch.errors.get(place), *took]
                size = len(json.dumps(entry))
            except Exception as unfit:  # whatever a serializer of the author's raises
                self._skip(f"{type(unfit).__name__}: {unfit}"[:200])
                continue
            if size > PIECE_SIZE:
                self._skip(f"a result takes more than {PIECE_SIZE:,} characters")
                continue
            yield entry, size

    def _skip(self, why: str) -> None:
        self._unsaved[why] = self._unsaved.get(why, 0) + 1

    @staticmethod
    def _in_pieces(entries: Iterable[tuple[list[Any], int]]) -> Iterator[list[list[Any]]]:
        piece: list[list[Any]] = []
        room = PIECE_SIZE
        for entry, size in entries:
            if size > room and piece:
                yield piece
                piece, room = [], PIECE_SIZE
            piece.append(entry)
            room -= size + 2
        if piece:
            yield piece


def _done(entry: Sequence[Any]) -> Done:
    from airflow.sdk.serde import deserialize

    _, state, value, error, seconds, cpu_seconds = entry
    return Done(state=state, value=deserialize(value), error=error, seconds=seconds, cpu_seconds=cpu_seconds)
