"""Errors of many branches -> kinds: those that differ in numbers, ids and quoted parts alone are one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    KindKey = tuple[str, str | None]
    """State and levelled error."""

Problem = TypeVar("Problem")

NAMED = 5
"""Problems of a kind that are named; the rest are counted."""

MOST_KINDS = 1_000
"""Kinds that are told apart, so that a million different errors take no more memory."""

KEPT_FROM_STARTING = frozenset({"skipped", "upstream_failed"})

TYPE = re.compile(r"[A-Za-z_][\w.]*: ")
QUOTED = re.compile(r"(?<!\w)(['\"`]).*?\1(?!\w)")
UUID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)
NUMBERED = re.compile(r"\w*\d\w*(?:[.,:-]\w*\d\w*)*")


class Failure(NamedTuple, Generic[Problem]):
    """
    One that has failed, or several that failed as one.

    :param number: How many.
    :param problem: Makes what is shown of it, if it is among the first of its kind.
    """

    state: str
    error: str | None
    number: int
    problem: Callable[[], Problem]


@dataclass(kw_only=True)
class ErrorKind(Generic[Problem]):
    """
    Failures in one state with one kind of error.

    :param error: That of the first.
    :param number: How many have failed so.
    :param problems: The first of them.
    """

    state: str
    error: str | None
    number: int
    problems: list[Problem]

    @property
    def key(self) -> KindKey:
        """What all its failures have in common."""
        return kind_key(self.state, self.error)


@lru_cache(maxsize=4096)
def levelled(error: str) -> str:
    """An error without what differs from branch to branch: what is quoted, and words with digits."""
    match = TYPE.match(error)
    name, message = ("", error) if match is None else (match[0], error[match.end() :])
    message = UUID.sub("#", QUOTED.sub("'…'", message))
    return name + NUMBERED.sub("#", message)


def kind_key(state: str, error: str | None) -> KindKey:
    """Tell kinds apart."""
    return state, None if error is None else levelled(error)


def kinds_of(failures: Iterable[Failure[Problem]], *, named: int = NAMED) -> list[ErrorKind[Problem]]:
    """
    Group failures by kind, the most frequent first, and after all others what others kept from starting.

    Of more than a thousand kinds only the first are told apart; the rest are left out.

    :param named: Problems of a kind that are made.
    """
    kinds: dict[KindKey, ErrorKind[Problem]] = {}
    for failure in failures:
        key = kind_key(failure.state, failure.error)
        kind = kinds.get(key)
        if kind is None:
            if len(kinds) == MOST_KINDS:
                continue
            kind = kinds[key] = ErrorKind(state=failure.state, error=failure.error, number=0, problems=[])
        kind.number += failure.number
        if len(kind.problems) < named:
            kind.problems.append(failure.problem())
    return sorted(kinds.values(), key=lambda kind: (kind.state in KEPT_FROM_STARTING, -kind.number))


def kind_line(what: str, names: Sequence[str], *, number: int, unnamed: int) -> str:
    """Say in one line how many failed so, and who: ``16 × failed: E: no (a, b and 14 more)``."""
    if len(names) == 1 and not unnamed:
        return f"{names[0]}: {what}"
    more = f" and {unnamed:,} more" if unnamed else ""
    return f"{number:,} × {what} ({', '.join(names)}{more})"
