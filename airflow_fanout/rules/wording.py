"""Numbers, names and values as texts for people: in errors, logs, terminal and tab."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_fanout.rules.names import natural_key

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence


def listing(names: Iterable[str], *, limit: int = 20) -> str:
    """Names for an error message, quoted and in natural order, and how many more there are."""
    ordered = sorted(names, key=natural_key)
    if not ordered:
        return "none"
    text = ", ".join(repr(name) for name in ordered[:limit])
    return f"{text} and {len(ordered) - limit} more" if len(ordered) > limit else text


def counted(number: int, one: str, many: str) -> str:
    """A number of things, in words: ``1 item``, ``2 items``."""
    return f"{number} {one if number == 1 else many}"


def close_to(name: str, known: Collection[str]) -> str:
    """Way out for an unknown name: ``did you mean 'scores'?``, or ``there are 'load' and 3 more``."""
    from difflib import get_close_matches  # only errors need it

    close = get_close_matches(name, known, cutoff=0.75)  # 'cuont' is close to 'count', not to 'document'
    return f"did you mean {listing(close)}?" if close else f"there are {listing(known, limit=5)}"


# Characters that are kept of an error, and of a bad value in it.
ERROR_LENGTH = 500
VALUE_SHOWN = 80


def on_one_line(text: str) -> str:
    """
    Put a text on one line of printable characters, at most 500 of them.

    Logs and terminals show texts of branches; these must neither begin a line there nor move the cursor.
    """
    lines = (line.strip() for line in text[: 2 * ERROR_LENGTH].splitlines())
    line = printable(" ".join(filter(None, lines)))
    if len(line) <= ERROR_LENGTH and len(text) <= 2 * ERROR_LENGTH:
        return line
    return line[: ERROR_LENGTH - 1] + "…"


NAME_LENGTH = 300
"""
Characters of a name that report, tab and plan show: of a longer one both ends, with an ellipsis between.

Airflow's own ids have at most 250. The name of an item known at run time can have any number.
"""


def cut_middle(text: str, most: int) -> str:
    """Cut a long text in its middle: both ends tell names apart."""
    tail = most // 3
    return text if len(text) <= most else f"{text[: most - tail - 1]}…{text[-tail:]}"


def shown_name(name: str) -> str:
    """A name as programs and the tab get it: as it is, if it isn't longer than :data:`NAME_LENGTH`."""
    return cut_middle(name, NAME_LENGTH)


def shown_error(error: str | None) -> str | None:
    """An error as programs and the tab get it: those that name a branch may be long."""
    return None if error is None else cut_middle(error, ERROR_LENGTH)


def printable(text: str) -> str:
    """Write characters that can't be printed, such as those that a terminal obeys, as Python does."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def typed(value: Any) -> str:
    """A value and its type, for messages: short, and without an address, which differs at each parse."""
    text = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    return f"{text if len(text) <= VALUE_SHOWN else text[:VALUE_SHOWN] + '…'} of type {type(value).__name__}"


def past_dependence_problem(task_ids: Sequence[str]) -> str:
    """Why a tolerance over tasks that wait for the run before is refused."""
    return (
        f"a tolerance over tasks with depends_on_past or wait_for_downstream ({listing(task_ids)}) would let "
        "this run succeed and the next one wait for ever; take that off the branches, or tolerate nothing"
    )


def batched_key_problem(key: str, group_id: str) -> str:
    """Why an XCom key other than the return value is refused for the items of a batched group."""
    return (
        f"found {key!r}, but the items of the batched group {group_id!r} have no XComs of their own; "
        "let each return the value, in a dict with others if need be, and leave key out"
    )


NOT_RECORDED = "\N{EN DASH}"
SHORTEST_IN_SECONDS = 0.1
MINUTE = 60
HOUR = 3600
HOURS_OF_A_DAY = 24
BYTES_OF_A_MB = 1_000_000
BYTES_OF_A_KB = 1_000
FEW = 10  # from which on a decimal tells nothing


def format_seconds(seconds: float | None) -> str:
    """A duration for people: ``40 ms``, ``3.0 s``, ``1 min 12 s``, ``2 h 5 min``, ``3 d 2 h``, or a dash."""
    if seconds is None:
        return NOT_RECORDED
    if seconds < 0:
        return f"-{format_seconds(-seconds)}"
    # Each unit is chosen by the rounded number, so that 59.96 is 1 min 0 s and not 60.0 s.
    if 0 < round(seconds, 3) < SHORTEST_IN_SECONDS:
        return f"{round(seconds * 1000)} ms"
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
    """A speed-up for people: ``3.4×``; a dash if it isn't known."""
    return NOT_RECORDED if ratio is None else f"{ratio:.1f}\N{MULTIPLICATION SIGN}"


def format_share(share: float | None) -> str:
    """A share of 1 for people: ``34 %``; a dash if it isn't known."""
    return NOT_RECORDED if share is None else f"{round(share * 100)} %"


def format_amount(number: int | None) -> str:
    """A number of bytes that were read or written: ``812 B``, ``40 kB``, ``2.3 GB``; a dash if unknown."""
    if number is None:
        return NOT_RECORDED
    amount, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while round(amount) >= BYTES_OF_A_KB and len(units) > 1:
        amount /= BYTES_OF_A_KB
        del units[0]
    is_short = amount < FEW and units[0] != "B" and round(amount, 1) != round(amount)
    return f"{amount:,.{int(is_short)}f} {units[0]}"


def format_bytes(number: int | None) -> str:
    """A number of bytes for people: ``34 MB``; a dash if it wasn't recorded."""
    return NOT_RECORDED if number is None else f"{round(number / BYTES_OF_A_MB):,} MB"
