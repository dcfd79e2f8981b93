"""Numbers, names and values as texts for people: in errors, logs, terminal and tab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_fanout.rules.names import (
    natural_key,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


__all__ = [
    "ERROR_LENGTH",
    "close_to",
    "counted",
    "format_bytes",
    "format_ratio",
    "format_seconds",
    "format_share",
    "listing",
    "misspelt",
    "on_one_line",
    "printable",
    "waiting_on_past",
    "without_key",
]

MISSPELT = 0.75
"""Likeness from which a name is taken for another one misspelt: of 'cuont' to 'count', not of 'document'."""


def listing(names: Iterable[str], *, limit: int = 20) -> str:
    """
    Names for an error message: quoted, in natural order, some of them, and how many more there are.

    :param names: The names, in any order.
    :param limit: How many are spelled out.
    """
    ordered = sorted(names, key=natural_key)
    if not ordered:
        return "none"
    said = ", ".join(repr(name) for name in ordered[:limit])
    return f"{said} and {len(ordered) - limit} more" if len(ordered) > limit else said


def counted(number: int, one: str, many: str) -> str:
    """
    A number of things, in words: ``1 item``, ``2 items``.

    :param number: How many.
    :param one: What one is called.
    :param many: What several are called.
    """
    return f"{number} {one if number == 1 else many}"


def misspelt(name: str, known: Collection[str]) -> list[str]:
    """
    Names that one is so close to that it must be a slip of the keyboard.

    :param name: The name.
    :param known: All that are known.
    """
    from difflib import get_close_matches  # only errors need it

    return get_close_matches(name, known, cutoff=MISSPELT)


def close_to(name: str, known: Collection[str]) -> str:
    """
    Say what a name that is not known may have been meant to be.

    :param name: The name.
    :param known: All that are known.
    :return: ``did you mean 'scores'?``, or ``there are 'load' and 3 more``.
    """
    from difflib import get_close_matches

    close = get_close_matches(name, known)
    return f"did you mean {listing(close)}?" if close else f"there are {listing(known, limit=5)}"


ERROR_LENGTH = 500
"""Characters that are kept of an error."""


def on_one_line(text: str) -> str:
    """
    Put a text on one line of printable characters, at most 500 of them.

    What a branch says is shown in logs and terminals: it must neither begin a line of its own there nor move
    the cursor.

    :param text: The text.
    """
    lines = (line.strip() for line in text[: 2 * ERROR_LENGTH].splitlines())
    said = printable(" ".join(filter(None, lines)))
    if len(said) <= ERROR_LENGTH and len(text) <= 2 * ERROR_LENGTH:
        return said
    return said[: ERROR_LENGTH - 1] + "…"


def printable(text: str) -> str:
    """
    Write characters that can't be printed, such as those that a terminal obeys, as Python does.

    :param text: The text.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


VALUE_SHOWN = 80
"""Characters of a bad value that an error shows."""


def typed(value: Any) -> str:
    """A value and its type, for messages; cut, so that a large value does not flood the log."""
    said = repr(value)
    return f"{said if len(said) <= VALUE_SHOWN else said[:VALUE_SHOWN] + '…'} of type {type(value).__name__}"


def waiting_on_past(task_ids: Sequence[str]) -> str:
    """Why a tolerance over such tasks is refused."""
    return (
        f"a tolerance over tasks with depends_on_past or wait_for_downstream ({listing(task_ids)}) would let "
        "this run succeed and the next one wait for ever; take that off the branches, or tolerate nothing"
    )


def without_key(key: str, group_id: str) -> str:
    """Why an XCom key of their own is refused for the items of a batched group."""
    return (
        f"found {key!r}, but the items of a batched group, {group_id!r}, have only what they return; "
        "let them return it, in a dict with other values if need be, and leave key out"
    )


NOT_RECORDED = "\N{EN DASH}"

SHORTEST_IN_SECONDS = 100
"""Milliseconds from which on a duration is written in seconds."""

MINUTE = 60

HOUR = 3600

HOURS_OF_A_DAY = 24

BYTES_OF_A_MB = 1_000_000


def format_seconds(seconds: float | None) -> str:
    """
    Write a duration for people.

    :param seconds: Seconds; None if they weren't recorded.
    :return: ``40 ms``, ``3.0 s``, ``1 min 12 s``, ``2 h 5 min``, ``3 d 2 h``, or a dash.
    """
    if seconds is None:
        return NOT_RECORDED
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    # Each unit is chosen by the rounded number, so that 59.96 is 1 min 0 s and not 60.0 s.
    milliseconds = round(seconds * 1000)
    if 0 < milliseconds < SHORTEST_IN_SECONDS:
        return f"{milliseconds} ms"
    if round(seconds, 1) < MINUTE:
        return f"{seconds:.1f} s"
    return _format_minutes(seconds)


def _format_minutes(seconds: float) -> str:
    if round(seconds) < HOUR:
        minutes, rest = divmod(round(seconds), MINUTE)
        return f"{minutes} min {rest} s"
    hours, rest = divmod(round(seconds / MINUTE), HOUR // MINUTE)
    if hours < HOURS_OF_A_DAY:
        return f"{hours} h {rest} min"
    days, hours = divmod(round(seconds / HOUR), HOURS_OF_A_DAY)
    return f"{days:,} d {hours} h"


def format_ratio(ratio: float | None) -> str:
    """
    Write a speed-up for people.

    :param ratio: The ratio; None if it isn't known.
    :return: One decimal and a multiplication sign, or a dash.
    """
    return NOT_RECORDED if ratio is None else f"{ratio:.1f}\N{MULTIPLICATION SIGN}"


def format_share(share: float | None) -> str:
    """
    Write a share of 1 for people.

    :param share: The share; None if it isn't known.
    :return: Whole per cent such as ``34 %``, or a dash.
    """
    return NOT_RECORDED if share is None else f"{round(share * 100)} %"


def format_bytes(number: int | None) -> str:
    """
    Write an amount of memory for people.

    :param number: Bytes; None if they weren't recorded.
    :return: Whole megabytes such as ``34 MB``, or a dash.
    """
    return NOT_RECORDED if number is None else f"{round(number / BYTES_OF_A_MB):,} MB"
