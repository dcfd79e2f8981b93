"""What tells items of different runs apart, for ``reuse``."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from airflow_fanout.execution_time.arguments import NO_ITEM
from airflow_fanout.execution_time.checkpoints import ordered
from airflow_fanout.storage.reuse_store import DIGITS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_fanout.execution_time.arguments import FunctionArguments

PLAIN = frozenset({str, int, float, bool, type(None)})
"""Types that Airflow serializes as they are."""


class Fingerprints:
    """
    Makes the fingerprints of a group's items.

    :param bound: Bound arguments by the function's name, "" for the only one, as resolved in this run.
    :param by_index: Whether items are numbers of ``count``, and nothing else tells them apart.
    """

    def __init__(
        self,
        functions: Mapping[str, FunctionArguments],
        bound: Mapping[str, Mapping[str, Any]],
        *,
        version: str | float,
        by_index: bool,
    ) -> None:
        self._by_index = by_index
        self._bases = {
            name: _text([version, arguments.title, name, dict(bound.get(name, {}))])
            for name, arguments in functions.items()
        }

    def of(self, index: int, name: str | None, item: Any) -> str | None:
        """Fingerprint of an item; None if it, or an argument, can't be serialized."""
        base = self._bases.get("") if "" in self._bases else self._bases.get(name or "")
        if base is None:
            return None
        own = _text([index] if self._by_index else [] if item is NO_ITEM else [item])
        return None if own is None else hashlib.sha256(f"{base}\n{own}".encode()).hexdigest()[:DIGITS]


def _text(values: list[Any]) -> str | None:
    if all(type(value) in PLAIN for value in values):
        return json.dumps(values)
    from airflow.sdk.serde import serialize

    try:
        return json.dumps(ordered(serialize(values)), sort_keys=True)
    except Exception:  # whatever a serializer of the author's raises
        return None
