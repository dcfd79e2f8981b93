"""Arguments bound to a function that runs for many items: what each call gets for itself; on the worker."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["OwnCopies", "mutable"]


class OwnCopies:
    """
    Bound arguments, of which each call gets a deep copy of those that it could change under another's hands.

    What can't be copied, such as a client or a lock, is for all of them.

    :param bound: The arguments by name.
    """

    def __init__(self, bound: Mapping[str, Any]) -> None:
        self._bound = bound

    def __call__(self) -> dict[str, Any]:
        """Return the arguments of one call."""
        given = dict(self._bound)
        for name in self._own:
            given[name] = copy.deepcopy(given[name])
        return given

    @cached_property
    def _own(self) -> list[str]:
        return [name for name, value in self._bound.items() if mutable(value) and _can_be_copied(value)]


def mutable(value: object) -> bool:
    """Whether one item could change a value under another's hands."""
    if isinstance(value, tuple):
        return any(map(mutable, value))
    return not isinstance(value, str | int | float | complex | bytes | bool | None)


def _can_be_copied(value: object) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
