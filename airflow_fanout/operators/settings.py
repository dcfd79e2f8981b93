"""Numbers that only a run may know; ``owner`` is the title of the group, or fan-in, in the errors."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import DeclarationError, SettingError
from airflow_fanout.operators.fan_in_checks import check_known_number, check_known_ratio

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def refused_in_run() -> Iterator[None]:
    """Fail the task, for good, with what the same check says when a Dag is parsed."""
    try:
        yield
    except DeclarationError as refusal:
        raise SettingError(str(refusal)) from None


def number_of_run(owner: str, argument: str, number: Any, *, least: int = 1) -> int:
    """Check a whole number that a run has told; a shell's output is text."""
    if isinstance(number, str) and number.strip().isdecimal():
        number = int(number)
    with refused_in_run():
        check_known_number(owner, argument, number, least=least)
    return number  # type: ignore[no-any-return]


def ratio_of_run(owner: str, argument: str, ratio: Any) -> Any:
    """Check a ratio that a run has told."""
    if isinstance(ratio, str):
        with suppress(ValueError, ZeroDivisionError):  # the check says what was found
            ratio = Fraction(ratio.strip())
    with refused_in_run():
        check_known_ratio(owner, argument, ratio)
    return ratio
