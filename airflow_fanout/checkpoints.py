"""What a batch has done, kept in Airflow's task state store so that a retry need not do it again; on the worker."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow_fanout.batch import FAILED, SKIPPED, SUCCEEDED

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from airflow_fanout.batch import Batch

__all__ = ["Checkpoints", "Done", "Store", "fingerprint"]

PIECE_SIZE = 60_000
"""Characters of one entry; Airflow warns above 65,536 bytes (``[state_store] max_value_storage_bytes``)."""

KEY = "airflow_fanout"


class Store(Protocol):
    """The part of Airflow's ``context["task_state_store"]`` that is used."""

    def get(self, key: str) -> Any:
        """Return what is kept under a key; None if there is nothing."""

    def set(self, key: str, value: Any) -> None:
        """Keep a value that is JSON."""

    def delete(self, key: str) -> None:
        """Forget a key."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """
    An item that an earlier try has done.

    :param state: What became of it.
    :param value: What it returned.
    :param error: What it raised, or why it was skipped.
    :param seconds: How long it took.
    """

    state: str
    value: Any
    error: str | None
    seconds: float | None


def fingerprint(*parts: Any) -> str | None:
    """
    Make a short text that tells values from others; None if they can't be serialized.

    :param parts: The values.
    """
    from airflow.sdk.serde import serialize

    try:
        said = json.dumps(serialize(list(parts)), sort_keys=True)
    except (TypeError, ValueError, AttributeError, RecursionError):
        return None
    return hashlib.sha256(said.encode()).hexdigest()[:20]


class Checkpoints:
    """
    Saves what has ended since the last time, in entries of a bounded size.

    :param store: Airflow's task state store, which outlives a try.
    :param fingerprint_of: Fingerprint of the item of a place; None if it has none.
    :param log: Where to say what can't be saved.
    """

    def __init__(
        self, store: Store, fingerprint_of: Callable[[int], str | None], log: logging.Logger | Any
    ) -> None:
        self._store, self._fingerprint_of, self._log = store, fingerprint_of, log
        self._pieces = 0
        self._saved = 0
        self._unsaved: dict[str, int] = {}

    def load(self) -> Mapping[str, Done]:
        """Return what earlier tries have saved, by fingerprint."""
        from airflow.sdk.serde import deserialize

        found: dict[str, Done] = {}
        while (piece := self._store.get(f"{KEY}_{self._pieces}")) is not None:
            self._pieces += 1
            for print_, state, value, error, seconds in piece:
                found[print_] = Done(state=state, value=deserialize(value), error=error, seconds=seconds)
        return found

    def save(self, batch: Batch, *, keep_final_failures: bool) -> None:
        """
        Save what has ended since the last time.

        :param batch: The batch.
        :param keep_final_failures: Whether a retry will come, which must not run them again.
        """
        ended = batch.ended[self._saved :]
        self._saved += len(ended)
        for piece in self._in_pieces(self._entries(batch, ended, keep_final_failures=keep_final_failures)):
            self._store.set(f"{KEY}_{self._pieces}", piece)
            self._pieces += 1

    def forget(self) -> None:
        """Delete all: the batch has succeeded, and clearing it is to run all of it again."""
        for number in range(self._pieces):
            self._store.delete(f"{KEY}_{number}")
        self._pieces = 0

    def log_unsaved(self) -> None:
        """Say what a retry will have to do again."""
        for why, count in self._unsaved.items():
            self._log.warning(
                "%s results can't be kept for a retry, which runs those items again: %s", count, why
            )

    def _entries(
        self, batch: Batch, places: Iterable[int], *, keep_final_failures: bool
    ) -> Iterator[tuple[list[Any], int]]:
        from airflow.sdk.serde import serialize

        for place in places:
            state = batch.states[place]
            kept = state in {SUCCEEDED, SKIPPED} or (
                state == FAILED and place in batch.final and keep_final_failures
            )
            if not kept:
                continue
            print_ = self._fingerprint_of(place)
            if print_ is None:
                self._skip("the item, or an argument, can't be serialized")
                continue
            try:
                value = serialize(batch.values.get(place))
                entry = [print_, state, value, batch.errors.get(place), batch.seconds[place]]
                size = len(json.dumps(entry))
            except (TypeError, ValueError, AttributeError, RecursionError) as unfit:
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
