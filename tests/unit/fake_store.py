"""Airflow's task state store, without a server."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FakeStore"]


@dataclass
class FakeStore:
    """
    What one task instance keeps from try to try.

    :param kept: ``{key: value}``.
    :param broken: Name of the method that fails.
    """

    kept: dict[str, Any] = field(default_factory=dict)
    broken: str = ""

    def get(self, key: str) -> Any:
        """Return the value of a key; None if there is none."""
        self._answer("get")
        return self.kept.get(key)

    def set(self, key: str, value: Any) -> None:
        """Keep a value, which has to be JSON."""
        self._answer("set")
        self.kept[key] = json.loads(json.dumps(value))

    def delete(self, key: str) -> None:
        """Forget a key."""
        self._answer("delete")
        self.kept.pop(key, None)

    def _answer(self, method: str) -> None:
        if method == self.broken:
            message = "the server does not answer"
            raise ConnectionError(message)
