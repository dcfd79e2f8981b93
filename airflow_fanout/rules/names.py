"""Names of branches: how they are made, ordered and checked."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time, timedelta
from enum import Enum
from functools import partial
from itertools import product
from numbers import Number
from pathlib import PurePath
from typing import Any, overload
from uuid import UUID

# Names of the task, or task group, that all branches of a mapped or batched group are instances of, of the
# task that counts them or cuts their items into batches, and of the task in a group of zero branches.
EACH = "each"
SPLIT = "split"
PLACEHOLDER = "no_branches"

# The longest ids that Airflow takes.
MAX_TASK_ID_LENGTH = 250
MAX_GROUP_ID_LENGTH = 200

_DIGITS = re.compile(r"([0-9]+)")
_USABLE = re.compile(r"[\w.-]+")


def natural_key(name: str) -> tuple[tuple[tuple[str, int, str], ...], str]:
    """Sort key that puts ``process_10`` after ``process_9``, however many digits a number has."""
    parts = _DIGITS.split(name)
    numbers = [number.lstrip("0") for number in parts[1::2]]
    keys = (*((len(number), number) for number in numbers), (-1, ""))
    return tuple((text, *key) for text, key in zip(parts[::2], keys, strict=True)), name


def indexed_name(label: str, index: int) -> str:
    """Name of a branch without a name of its own."""
    return f"{label}_{index}"


def indexed_names(label: str, count: int) -> tuple[str, ...]:
    """Names of ``count`` branches: ``label_0``, ``label_1``, …."""
    return tuple(IndexedNames(label, count))


class IndexedNames(Sequence[str]):
    """Names of branches without names of their own, from an index on, each made when it is asked for."""

    def __init__(self, label: str, count: int, *, first: int = 0) -> None:
        self.label, self.indexes = label, range(first, first + count)

    def __len__(self) -> int:
        return len(self.indexes)

    def __iter__(self) -> Iterator[str]:
        return map(partial(indexed_name, self.label), self.indexes)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> IndexedNames: ...

    def __getitem__(self, place: int | slice) -> str | IndexedNames:
        if isinstance(place, int):
            return indexed_name(self.label, self.indexes[place])
        first, stop, _ = place.indices(len(self))
        return IndexedNames(self.label, max(stop - first, 0), first=self.indexes.start + first)


class DuplicateNameError(ValueError):
    """
    Raised when two combinations of a product would have one name.

    :param argument: The first argument in which they differ.
    """

    def __init__(self, name: str, argument: str, items: Sequence[Mapping[str, Any]]) -> None:
        self.argument = argument
        both = " and ".join(
            ", ".join(f"{key}={reprlib.repr(value)}" for key, value in item.items()) for item in items
        )
        way_out = f"give names to the values, {argument}={{'name': value, …}}"
        super().__init__(f"{name!r} would be the name of both {both}; {way_out}")


def product_items(
    parts: Mapping[str, tuple[Sequence[str] | None, Sequence[Any]]],
) -> dict[str, dict[str, Any]]:
    """
    Combine each value of each argument with all of the others; the last one changes fastest.

    :param parts: Names, None for those that the values have by themselves, and values by argument.
    """
    named = [
        list(zip(names or _value_names(argument, values), values, strict=True))
        for argument, (names, values) in parts.items()
    ]
    items: dict[str, dict[str, Any]] = {}
    for combination in product(*named):
        name = "-".join(part for part, _ in combination)
        item = {argument: value for argument, (_, value) in zip(parts, combination, strict=True)}
        if (first := items.get(name)) is not None:
            argument = next((key for key in item if item[key] is not first[key]), next(iter(item)))
            raise DuplicateNameError(name, argument, [first, item])
        items[name] = item
    return items


_HAS_SHORT_TEXT = (str, Number, date, time, timedelta, PurePath, UUID, type(None))
_UNUSABLE = re.compile(r"[^\w.-]+")


def _value_names(argument: str, values: Sequence[Any]) -> list[str]:
    """Texts of values as a task id takes them; the place among the others, of what has no short one."""
    texts = [
        value.name if isinstance(value, Enum) else str(value) if isinstance(value, _HAS_SHORT_TEXT) else ""
        for value in values
    ]
    return [_UNUSABLE.sub("_", text) or indexed_name(argument, place) for place, text in enumerate(texts)]


class PartlyKnownNames(Sequence[str]):
    """
    Names of items of which only some are known; the others are told apart by their index among all.

    :param label: Id of their group, without its parents'.
    :param known: Names by index within these.
    """

    def __init__(self, label: str, count: int, *, first: int, known: Mapping[int, str]) -> None:
        self._label, self._indexes, self._known = label, range(first, first + count), known

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        index = range(len(self))[place]
        return self._known.get(index) or f"{self._label} item {self._indexes[index]}"


def names_digest(names: Iterable[str]) -> str:
    """Make a short text that tells names from others."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(json.dumps(name).encode())
    return digest.hexdigest()[:20]


def instance_name(task_id: str, map_index: int) -> str:
    """Name of a task instance: ``id[map_index]``, or the id alone if the task is not mapped."""
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def batch_name(group_id: str, number: int) -> str:
    """Name of a batch of a group's items."""
    return f"{group_id} batch {number}"


def text_problem(text: str) -> str | None:
    """Why a database would refuse a text; else None."""
    if "\0" in text:
        return f"{text!r} has a zero character, which PostgreSQL doesn't store"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f"{text!r} has a lone surrogate, which UTF-8 doesn't encode"
    return None


def name_problem(name: object, *, prefix: str = "", is_group: bool = False) -> str | None:
    """Why Airflow would refuse a name after ``prefix`` in an id, that of a group or of a task; else None."""
    if not isinstance(name, str):
        return f"expected a str, found {name!r} of type {type(name).__name__}"
    if not _USABLE.fullmatch(name):
        return f"{name!r} may have only letters, digits, '_', '-' and '.'"
    if is_group and "." in name:
        return f"{name!r} can't have a '.', because its branch is a @task_group"
    if is_group and len(name) > MAX_GROUP_ID_LENGTH:
        return f"{name!r} has {len(name)} characters; the id of a group has {MAX_GROUP_ID_LENGTH} at most"
    if (length := len(prefix) + len(name)) > MAX_TASK_ID_LENGTH:
        return f"{name!r} makes a task id of {length} characters; Airflow takes {MAX_TASK_ID_LENGTH}"
    return None
