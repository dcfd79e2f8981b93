"""One finished branch, and what the server has of it -> its outcome; on the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_fanout.declaration import RETURN_VALUE
from airflow_fanout.hooks import NO_EXCEPTION_RECORDED, STOPPED
from airflow_fanout.instance_states import States, failed_before_last, instances_at, total_duration
from airflow_fanout.record_shapes import error_of
from airflow_fanout.results import BranchOutcome, Page, ReadyPage
from airflow_fanout.xcom import NOTHING, InstanceState, RunReader, at_once

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airflow_fanout.policy import State
    from airflow_fanout.sources import Source

__all__ = [
    "GONE",
    "MARKED_BY_HAND",
    "NOT_STORED",
    "branch_duration",
    "not_stored",
    "read_one",
    "read_one_by_one",
    "read_record",
    "recorded_error",
    "why_missing",
]

NOT_STORED = "not stored"
"""State that stands in a record whose own body is gone."""

MARKED_BY_HAND = "it was marked success by hand, and pushed nothing"
GONE = "it returned a value, which is no longer stored"


def read_one_by_one(
    reader: RunReader, states: States, sources: Iterable[Source], key: str, index: int
) -> Iterator[Page]:
    """
    Find the outcome of every branch, with a request or more for each, some at the same time.

    :param reader: Reads the run.
    :param states: States of the run's finished instances.
    :param sources: The branches.
    :param key: XCom key of each branch's value.
    :param index: Place of the first of them.
    """
    outcomes = at_once(
        lambda each: read_one(reader, states, each[1], key, each[0]), list(enumerate(sources, index))
    )
    # Airflow knows no reason of a skip; whatever there is says that it was stopped.
    stopped = sum(outcome.state == "skipped" and outcome.error is not None for outcome in outcomes)
    yield ReadyPage(outcomes, stopped=stopped)


def read_one(reader: RunReader, states: States, source: Source, key: str, index: int) -> BranchOutcome:
    """
    Find the outcome of one branch, or of one instance of a mapped task.

    :param reader: Reads the run.
    :param states: States of the run's finished instances.
    :param source: The branch.
    :param key: XCom key of its value.
    :param index: Its place among the declared.
    """
    found = states[source.task_id, source.map_index]
    task_id, map_index = source.task_id, source.map_index
    state: State
    value: Any = None
    error: str | None = None
    match found.state:
        case "success":
            state, value, error = _read_value(reader, found, source, key)
        case "failed":
            state, error = "failed", _why_failed(reader, source, task_id, map_index)
        case "upstream_failed":
            state = "upstream_failed"
            if own := failed_before_last(states, source.task_ids, source.map_index):
                state, (task_id, map_index) = "failed", own
                error = _why_failed(reader, source, task_id, map_index)
        case "skipped":
            state, error = "skipped", _why_stopped(reader, states, source)
        case "removed":
            state = "removed"
        case unknown:
            message = f"{source.task_id!r} is finished in a state that is not known: {unknown!r}"
            raise ValueError(message)
    return BranchOutcome(
        name=source.name,
        index=index,
        state=state,
        value=value,
        error=error,
        task_id=task_id,
        map_index=map_index,
        duration=branch_duration(states, source),
    )


def branch_duration(states: States, source: Source) -> float | None:
    """
    Add up the seconds of a branch's tasks; None if none of them ever started.

    :param states: States of the run's finished instances.
    :param source: The branch.
    """
    found = [states[source.task_id, source.map_index]]
    for task_id in source.task_ids[:-1]:
        found += instances_at(states, task_id, source.map_index).values()
    return total_duration(found)


def _why_failed(reader: RunReader, source: Source, task_id: str, map_index: int) -> str | None:
    if not source.recorded:
        return None
    return recorded_error(read_record(reader, task_id, map_index), "failed") or NO_EXCEPTION_RECORDED


def _why_stopped(reader: RunReader, states: States, source: Source) -> str | None:
    """Why a branch was not let start; None if it was skipped for another reason."""
    if not source.stoppable:
        return None
    first = states.get((source.task_ids[0], source.map_index))
    if first is None or first.state != "skipped" or not first.duration:
        return None  # Airflow skipped it, without a process of its own that could have asked
    return recorded_error(read_record(reader, source.task_ids[0], source.map_index), STOPPED)


def _read_value(
    reader: RunReader, found: InstanceState, source: Source, key: str
) -> tuple[State, Any, str | None]:
    try:
        value = reader.value(source.task_id, source.map_index, key)
    except FileNotFoundError as gone:  # the body of an object-storage XCom
        return "missing", None, f"{GONE}: {gone}"
    if value is not NOTHING:
        return "success", value, None
    why = _why_nothing(reader, found, source, key)
    return ("success", None, None) if why is None else ("missing", None, why)


def read_record(reader: RunReader, task_id: str, map_index: int) -> Mapping[str, Any]:
    """What a branch's task recorded of itself; nothing if it did not, or if that is gone."""
    try:
        return reader.record(task_id, map_index) or {}
    except FileNotFoundError as gone:  # the body of an object-storage XCom
        return not_stored(gone)


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


def _why_nothing(reader: RunReader, found: InstanceState, source: Source, key: str) -> str | None:
    """Why a success has no value; None if it returned None, which Airflow does not push."""
    if key != RETURN_VALUE:
        # With a map_index, siblings push under the same key: a None pushed by hand can't be told apart.
        pushed_none = source.map_index < 0 and reader.pushed_none(source.task_id, key)
        return None if pushed_none else why_missing(key)
    if source.recorded:
        record = read_record(reader, source.task_id, source.map_index)
        if record.get("state") != "success":
            return recorded_error(record, "success") or MARKED_BY_HAND
        return GONE if record.get("has_value") else None
    # Airflow gives a task that never ran a duration of exactly 0 when it is marked success by hand, and an
    # EmptyOperator, which it does not run.
    return None if found.duration or found.operator == "EmptyOperator" else MARKED_BY_HAND
