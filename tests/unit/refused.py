"""Rows of the tables of what a group, or a fan-in, refuses."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError

__all__ = ["wrong_type", "wrong_value"]


def wrong_type(message: str, **declared: Any) -> Any:
    """A row: what is declared, the error's class, and what it says; from the argument's name on."""
    return pytest.param(declared, DeclarationTypeError, message, id=f"{', '.join(declared)}: {message}")


def wrong_value(message: str, **declared: Any) -> Any:
    """A row, as above, of a value of the right type."""
    return pytest.param(declared, DeclarationValueError, message, id=f"{', '.join(declared)}: {message}")
