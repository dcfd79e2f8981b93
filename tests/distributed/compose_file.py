"""Reads docker-compose.yaml as Compose does: aliases merged, variables replaced."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "REPOSITORY",
    "MissingVariableError",
    "Variable",
    "interpolate",
    "read",
    "variables",
]

REPOSITORY = Path(__file__).parents[2]

REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)|\{(?P<name>[A-Z_][A-Z0-9_]*)(?::(?P<kind>[-?])(?P<text>[^}]*))?\}|(?P<other>))"
)


class MissingVariableError(Exception):
    """Raised where Compose would stop: a variable without a default has no value."""


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable that the file uses: it has a default, or else a message for whoever doesn't set it."""

    name: str
    default: str | None
    message: str | None


def read() -> dict[str, Any]:
    """Return the file's contents; variables are still in it."""
    text = (REPOSITORY / "docker-compose.yaml").read_text(encoding="utf-8")
    contents: dict[str, Any] = yaml.safe_load(text)
    return contents


def variables(value: Any) -> set[Variable]:
    """Return the variables in a part of the file."""
    if isinstance(value, dict):
        return set().union(*(variables(part) for part in value.values()))
    if isinstance(value, list):
        return set().union(*(variables(part) for part in value))
    if not isinstance(value, str):
        return set()
    return {
        Variable(
            name=found["name"],
            default=found["text"] if found["kind"] == "-" else None,
            message=found["text"] if found["kind"] == "?" else None,
        )
        for found in REFERENCE.finditer(value)
        if found["name"]
    }


def interpolate(value: Any, values: Mapping[str, str]) -> Any:
    """Replace the variables in a part of the file by values, as an ``.env`` file would give them."""
    if isinstance(value, dict):
        return {name: interpolate(part, values) for name, part in value.items()}
    if isinstance(value, list):
        return [interpolate(part, values) for part in value]
    return REFERENCE.sub(lambda found: _replaced(found, values), value) if isinstance(value, str) else value


def _replaced(found: re.Match[str], values: Mapping[str, str]) -> str:
    if found["dollar"]:
        return "$"
    if not found["name"]:
        message = f"A dollar that is no variable has to be doubled: {found.string!r}"
        raise ValueError(message)
    value = values.get(found["name"]) or (found["text"] if found["kind"] == "-" else "")
    if not value:
        message = f"required variable {found['name']} is missing a value: {found['text']}"
        raise MissingVariableError(message)
    return value
