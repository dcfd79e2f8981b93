"""Values on their way through an XCom, where Airflow's encodings change some and refuse others."""

from __future__ import annotations

import copy
import json
import math
import re
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Any

from airflow_fanout.rules.wording import typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence


SMALLEST, LARGEST = -(2**63), 2**64 - 1
"""The ints of MessagePack, which a task and its supervisor talk in."""

PLAIN_DEPTH = 60
"""Depth to which a value needs no proof; Airflow can read 198 lists, or 98 tuples, within each other."""

PATH_LENGTH = 20
"""Names and indexes that a message spells out."""

ZERO = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""A zero character, as JSON has it: behind no backslash, or behind pairs of them."""

_NOT_PLAIN: Any = object()


class UnstorableValueError(ValueError):
    """Raised for a value that an XCom would change or refuse; says what it is, and where in the value."""


def stored_value(value: Any) -> Any:
    """
    Return a value as a reader of its XCom gets it: equal, and out of reach of whoever made it.

    The proof is Airflow's own encoding. Values of plain JSON types, which it leaves as they are, are copied.
    Nothing can be said for an XCom backend that is neither Airflow's nor its object storage.

    :raises UnstorableValueError: If an XCom would change or refuse it.
    """
    plain = _plain_copy(value, PLAIN_DEPTH)
    if plain is not _NOT_PLAIN:
        return plain
    if _has_foreign_backend():
        try:
            return copy.deepcopy(value)
        except Exception:  # such as of a lock
            return value
    try:
        stored = _sent_and_read(value)
    except Exception as error:  # also a serializer's of the author
        raise UnstorableValueError(_refusal_message(value, error)) from error
    if (change := _change(value, stored, "")) is not None:
        raise UnstorableValueError(change)
    return stored


def _plain_copy(value: Any, depth: int) -> Any:
    """Copy a value of plain JSON types that no encoding changes or refuses; ``_NOT_PLAIN`` of any other."""
    kind = type(value)
    members: Any = ()
    if kind is int or kind is float:
        is_plain = SMALLEST <= value <= LARGEST  # NaN is not between them
    elif kind is str:
        is_plain = _is_plain_text(value)
    elif depth and kind is dict:
        try:
            names = "".join(value)
        except TypeError:  # a name is no text
            return _NOT_PLAIN
        is_plain = "__" not in names and _is_plain_text(names)  # names of Airflow's own begin with them
        value = {name: _plain_copy(member, depth - 1) for name, member in value.items()}
        members = value.values()
    elif depth and (kind is list or kind is tuple):
        is_plain = True
        members = value = kind([_plain_copy(member, depth - 1) for member in value])
    else:
        is_plain = value is None or kind is bool
    return value if is_plain and _NOT_PLAIN not in members else _NOT_PLAIN


def _is_plain_text(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _has_foreign_backend() -> bool:
    from airflow.sdk.execution_time.xcom import XCom

    return XCom.__name__ not in {"BaseXCom", "XComObjectStorageBackend"}


def _sent_and_read(value: Any) -> Any:
    """Put a value through every encoding on its way into the database and back."""
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.comms import SetXCom, XComResult, _RequestFrame, _ResponseFrame

    # In a dict: as deep as it is to lie beside others.
    sent = SetXCom(key="", value=BaseXCom.serialize_value({"": value}), dag_id="", run_id="", task_id="")
    _RequestFrame(id=0, body=sent.model_dump()).as_bytes()  # from the task to its supervisor
    # From there to the API server, as its client does it.
    body = json.dumps(sent.value, ensure_ascii=False, allow_nan=False).encode()
    json.loads(body, parse_float=_check_float)  # into the database
    if ZERO.search(body):
        message = "PostgreSQL stores none"
        raise ValueError(message)
    read = XComResult.model_validate_json(b'{"key":"","value":%b}' % body)  # to the reader's supervisor
    _ResponseFrame(id=0, body=read.model_dump()).as_bytes()  # from there to the reader
    return BaseXCom.deserialize_value(read)[""]


def _check_float(text: str) -> None:
    """Refuse what PostgreSQL's JSONB, which writes no exponents, gives back as an int that no frame holds."""
    if not SMALLEST <= float(text) <= LARGEST:
        message = f"PostgreSQL returns {text} as an int beyond 64 bits"
        raise OverflowError(message)


def _refusal(value: Any) -> Exception | None:
    try:
        _sent_and_read(value)
    except Exception as error:
        return error
    return None


def _refusal_message(value: Any, error: Exception) -> str:
    path, depth = "", 0
    while depth < PATH_LENGTH and (member := _refused_member(value)) is not None:
        piece, value, error = member
        path, depth = path + piece, depth + 1
    at = f" at {path}" if path else ""
    what, why = f"a value of type {type(value).__name__}", f": {type(error).__name__}: {error}"
    match value:
        case float() if not math.isfinite(value):
            what, why = str(value).replace("nan", "NaN").replace("inf", "infinity"), ""
        case int():
            what, why = "an int beyond 64 bits", ""
        case str() if "\0" in value:
            what = "a zero character"
        case str():
            what, why = "a lone surrogate", ""
    return f"{what}{at} can't be stored in an XCom{why}"


def _refused_member(value: Any) -> tuple[str, Any, Exception] | None:
    """Find a refused member by halving, with the path to it; None if none is refused by itself."""
    members = list(_members(value))
    while members and (error := _refusal([member for _, member in members])) is not None:
        if len(members) == 1:
            return *members[0], error
        half = members[: len(members) // 2]
        members = members[len(half) :] if _refusal([member for _, member in half]) is None else half
    return None


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((f"[{name!r}]", member) for name, member in value.items())
        yield from ((f"[{name!r}]", name) for name in value)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", member) for index, member in enumerate(value))
    else:
        for name in getattr(type(value), "__dataclass_fields__", ()):
            yield f".{name}", getattr(value, name)


def _change(value: Any, stored: Any, path: str) -> str | None:
    """Say where a value was stored as another one; None if it wasn't."""
    at = f" at {path}" if path else ""
    if isinstance(value, dict) and (names := [name for name in value if not isinstance(name, str)]):
        return f"the key {typed(names[0])}{at} comes back from an XCom as {str(names[0])!r}"
    pairs: Iterable[tuple[Any, Any, Any]] = ()
    if isinstance(value, dict) and isinstance(stored, dict) and value.keys() == stored.keys():
        pairs = ((name, member, stored[name]) for name, member in value.items())
    elif _are_alike(value, stored, list) or _are_alike(value, stored, tuple):
        pairs = zip(count(), value, stored)
    elif not _is_equal(value, stored):
        return f"{typed(value)}{at} comes back from an XCom as {typed(stored)}"
    changes = (_change(member, other, f"{path}[{name!r}]") for name, member, other in pairs)
    return next(filter(None, changes), None)


def _are_alike(value: Any, stored: Any, kind: type[Any]) -> bool:
    return isinstance(value, kind) and isinstance(stored, kind) and len(value) == len(stored)


def _is_equal(value: Any, stored: Any) -> bool:
    from airflow.sdk.serde import serialize

    kind: Any = type(value)
    with suppress(Exception):  # such as a data frame's, which compares its cells
        if value == stored or kind.__eq__ is not object.__eq__:
            return bool(value == stored)
    return kind is type(stored) and serialize(value) == serialize(stored)


def is_of_values(error: Exception) -> bool:
    """Whether a push may have failed for its values, and not because the server doesn't answer."""
    detail = getattr(getattr(error, "error", None), "detail", None)
    if not isinstance(detail, dict):
        return True  # raised in this process
    if isinstance(status := detail.get("status_code"), int):
        return 400 <= status < 500  # noqa: PLR2004 - HTTP's for a bad request
    return detail.get("exception_type") in {"OverflowError", "TypeError", "ValueError"}


def refused_values(push: Callable[[Sequence[int]], object], indexes: Sequence[int]) -> dict[int, Exception]:
    """Find by halves which of several values are refused, even alone, when they are pushed."""
    try:
        push(indexes)
    except Exception as error:
        if len(indexes) <= 1:
            return dict.fromkeys(indexes, error)
        half = len(indexes) // 2
        return refused_values(push, indexes[:half]) | refused_values(push, indexes[half:])
    return {}
