"""What became of a branch, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_fanout.rules.records import (
    ITEM_SKIPPED,
    ITEM_STOPPED,
    ITEM_SUCCEEDED,
    NO_EXCEPTION_RECORDED,
    RETURN_VALUE,
    error_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_fanout.rules.policy import State

__all__ = [
    "GONE",
    "MARKED_BY_HAND",
    "NOT_STORED",
    "BranchOutcome",
    "not_stored",
    "recorded_error",
    "state_of_batch",
    "state_of_item",
    "why_missing",
]


@dataclass(frozen=True, kw_only=True)
class BranchOutcome:
    """
    What became of one declared branch.

    :param name: The branch's name.
    :param index: Its place among the declared, from 0.
    :param state: ``success``, ``failed``, ``upstream_failed``, ``skipped``, ``missing`` (succeeded, but left
        no value) or ``removed`` (no longer declared).
    :param value: What it returned, if it succeeded; else None.
    :param error: ``"ValueError: message"`` with secrets masked, or why there is no value; None if there is no
        more to say.
    :param task_id: Id of the task that the value comes from; of the one that failed, if it failed.
    :param map_index: Index of its instance; -1 if it is not mapped.
    :param duration: Seconds from start to end of the last try, as Airflow shows them, of all the branch's
        tasks together; None if none of them ever started.
    """

    name: str
    index: int
    state: State
    value: Any = None
    error: str | None = None
    task_id: str = ""
    map_index: int = -1
    duration: float | None = None


NOT_STORED = "not stored"
"""State that stands in a record whose own body is gone."""

MARKED_BY_HAND = "it was marked success by hand, and pushed nothing"

GONE = "it returned a value, which is no longer stored"


def not_stored(gone: FileNotFoundError) -> Mapping[str, Any]:
    """What stands in place of a record whose body is gone."""
    return {"state": NOT_STORED, "error": f"what it recorded is no longer stored: {gone}"}


def recorded_error(record: Mapping[str, Any], state: str) -> str | None:
    """
    Return the error of a record, if it is one of this state, or is gone.

    :param record: What was found under the key of records, by whomever it was pushed.
    :param state: The state that it should tell of.
    """
    # A tuple: what stands there need not be hashable.
    return error_of(record.get("error")) if record.get("state") in (state, NOT_STORED) else None


def why_missing(key: str) -> str:
    """Why a success that nothing else is known of has left no value."""
    return MARKED_BY_HAND if key == RETURN_VALUE else f"it pushed nothing under the key {key!r}"


def state_of_item(letter: str, found: str) -> State:
    """State of an item of a batch that has reported."""
    if letter == ITEM_SUCCEEDED:
        return "success"
    if letter in {ITEM_SKIPPED, ITEM_STOPPED}:
        return "skipped"
    # A batch that was marked success by hand: its failed items have left nothing.
    return "failed" if found == "failed" else "missing"


def state_of_batch(found: str, record: Mapping[str, Any]) -> tuple[State, str | None]:
    """State and error of the items of a batch that has not reported."""
    match found:
        case "success":
            return "missing", recorded_error(record, "success") or MARKED_BY_HAND
        case "failed":
            return "failed", recorded_error(record, "failed") or NO_EXCEPTION_RECORDED
        case "upstream_failed" | "skipped" | "removed":
            return found, None
    message = f"a batch is finished in a state that is not known: {found!r}"
    raise ValueError(message)
