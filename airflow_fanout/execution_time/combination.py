"""The values of a group with ``combine=``, folded into one where they arise, and once more in the fan-in."""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_fanout.exceptions import CombineError
from airflow_fanout.execution_time.recording import redacted_error
from airflow_fanout.execution_time.transport import stored_value
from airflow_fanout.rules.wording import typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


class Entry(NamedTuple):
    """
    A value that is to be folded with others of its key.

    :param title: Whose it is, for messages: an item, or those that were folded before.
    :param key: None without ``combine_by``.
    """

    title: str
    key: str | None
    value: Any


@dataclass(frozen=True, kw_only=True)
class Combination:
    """How a group folds its values: its ``combine`` and ``combine_by``."""

    combine: Callable[[Any, Any], Any]
    combine_by: Callable[[Any], str] | None = None

    def entry(self, name: str, value: Any) -> Entry:
        """
        Make the entry of an item's value, which is a copy: a function may change what it is given.

        :raises CombineError: If ``combine_by`` raises, or returns no text.
        """
        with suppress(Exception):  # what can't be copied is shared
            value = copy.deepcopy(value)
        key = None
        if self.combine_by is not None:
            try:
                key = self.combine_by(value)
            except Exception as error:
                message = f"combine_by of {name!r} raised {redacted_error(error)}"
                raise CombineError(message) from error
            if not isinstance(key, str):
                message = f"combine_by of {name!r}: expected a text, found {typed(key)}"
                raise CombineError(message)
        return Entry(repr(name), key, value)

    def fold(self, entries: Iterable[Entry]) -> dict[str | None, Entry]:
        """
        Fold values in order: one for each key, in order of first appearance.

        :raises CombineError: If ``combine`` raises; it names the two.
        """
        folded: dict[str | None, Entry] = {}
        last_titles: dict[str | None, str] = {}
        for title, key, value in entries:
            so_far = folded.get(key)
            if so_far is None:
                folded[key] = Entry(title, key, value)
            else:
                try:
                    folded[key] = so_far._replace(value=self.combine(so_far.value, value))
                except Exception as error:
                    message = f"combine of {last_titles[key]} and {title} raised {redacted_error(error)}"
                    raise CombineError(message) from error
            last_titles[key] = title
        return folded

    def fold_batch(
        self, names: Sequence[str], values: Mapping[int, Any]
    ) -> tuple[list[list[Any]], dict[int, CombineError]]:
        """
        Fold the values of a batch's items, by their index there.

        :return: What the batch pushes, ``[[key, value], …]``, for a database may keep no order of a mapping;
            and the errors of items whose values are lost: one's own of ``combine_by``, or all have the same.
        """
        entries, errors = [], {}
        for index, value in values.items():
            try:
                entries.append(self.entry(names[index], value))
            except CombineError as error:
                errors[index] = error
        try:
            return [[key, _stored(entry)] for key, entry in self.fold(entries).items()], errors
        except CombineError as error:
            return [], {**dict.fromkeys(values, error), **errors}

    def result(self, entries: Iterable[Entry]) -> Any:
        """Fold all there is: one value, None of nothing; with ``combine_by`` a mapping by key."""
        values = {key: entry.value for key, entry in self.fold(entries).items()}
        return values.get(None) if self.combine_by is None else values


def _stored(folded: Entry) -> Any:
    try:
        return stored_value(folded.value)
    except ValueError as refusal:
        message = f"what combine made of {folded.title} and those after it: {refusal}"
        raise CombineError(message) from refusal


def entries_of(folded: Sequence[Sequence[Any]], first: str, last: str) -> list[Entry]:
    """Read what a batch pushed of the values of its items, from the first success to the last."""
    title = repr(first) if first == last else f"{first!r} to {last!r}"
    return [Entry(title, key, value) for key, value in folded]


def is_folded(stored: object) -> bool:
    """Whether what a batch pushed is the fold of some values, and not values by name."""
    return isinstance(stored, list) and bool(stored) and all(map(_is_pair, stored))


def _is_pair(value: object) -> bool:
    match value:
        case [None | str(), _]:
            return True
    return False
