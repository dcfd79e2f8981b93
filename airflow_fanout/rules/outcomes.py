"""The judge: what task instances, records and values say of a branch, or an item, is decided here alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from airflow_fanout.rules.instances import FINISHED, total_duration
from airflow_fanout.rules.records import (
    ITEM_SKIPPED,
    ITEM_STOPPED,
    ITEM_SUCCEEDED,
    RETURN_VALUE,
    BatchRecord,
    BranchRecord,
    LostRecord,
)
from airflow_fanout.rules.run_lengths import RunLengths, spans

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airflow_fanout.rules.instances import InstanceState
    from airflow_fanout.rules.policy import State
    from airflow_fanout.rules.records import Record

MARKED_BY_HAND = "it was marked success by hand, and pushed nothing"

LOST_VALUE = "it returned a value, which is no longer stored"

CHANGED_VALUE = "it returned a value, and what is stored was changed since"

NO_EXCEPTION_RECORDED = (
    "no exception was recorded: the task's process never started, or ended before it could report one"
)

UP_FOR_RETRY = "up_for_retry"
"""State in which a task instance whose last try failed waits for the next."""

WAITING = "waiting"
"""State of what Airflow has none for: nothing has been decided yet."""


@dataclass(frozen=True, kw_only=True)
class BranchOutcome:
    """
    What became of one declared branch.

    :param name: The branch's name.
    :param index: Its index among the declared, from 0.
    :param state: ``success``, ``failed``, ``upstream_failed``, ``skipped``, ``missing`` (succeeded, but left
        no value) or ``removed`` (no longer declared).
    :param value: What it returned, if it succeeded, and its group has no ``combine``; else None.
    :param error: ``"ValueError: message"`` with secrets masked; the reason of a skip; or why there is no
        value. None if there is no more to say.
    :param task_id: Id of the task that the value comes from; of the one that failed, if it failed.
    :param map_index: Index of its instance; -1 if it is not mapped.
    :param duration: Seconds from start to end of the last try, as Airflow shows them, of all the branch's
        tasks together; None if none of them ever started.
    :param is_stopped: Whether ``stop_after_failures`` kept it from starting; its state is ``skipped``.
    :param tries: How often an item of a batch was called, over all tries of its task as far as these saved
        it (not on Airflow 3.2); None if it never was, and of a branch that is a task.
    :param reused: Whether it was not run, because the value of an earlier run holds: a ``success``.
    """

    name: str
    index: int
    state: State
    value: Any = None
    error: str | None = None
    task_id: str = ""
    map_index: int = -1
    duration: float | None = None
    is_stopped: bool = False
    tries: int | None = None
    reused: bool = False


@dataclass(frozen=True)
class LostValue:
    """
    A value that was pushed and whose body in object storage is gone.

    :param path: Where it was; "" if that is not known.
    :param is_changed: Whether something else is there now.
    """

    path: str = ""
    is_changed: bool = False

    @property
    def error(self) -> str:
        """Why there is no value."""
        why = CHANGED_VALUE if self.is_changed else LOST_VALUE
        return f"{why}: {self.path}" if self.path else why


ValueState = LostValue | Literal["present", "absent"]
"""Whether a value can be read."""


class Reader(Protocol):
    """A run, as the judge asks of it: read through the supervisor, from the database, or told by a test."""

    def instances(self, task_id: str, map_index: int) -> Mapping[int, InstanceState]:
        """Instances of a branch's task by map index: one, or, if it is mapped within the branch, many."""

    def record(self, task_id: str, map_index: int) -> Record | None:
        """Record that an instance left."""

    def value_state(self, task_id: str, map_index: int, key: str) -> ValueState:
        """Whether the value that an instance pushed under a key can be read."""


@dataclass(frozen=True, kw_only=True)
class BranchTasks:
    """
    The tasks of one branch.

    :param task_ids: Their ids, in the order in which they run; the last one's value is the branch's.
    :param map_index: Index of their instances; -1 if they are not mapped.
    :param is_ours: Whether they are of this package, so that they leave records.
    """

    task_ids: tuple[str, ...]
    map_index: int = -1
    is_ours: bool = True


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """
    What the judge says of a branch, or an item.

    :param state: State of the outcome; of what has not ended Airflow's own word, or ``waiting``.
    :param error: Why, as in :class:`BranchOutcome`.
    :param is_stopped: Whether ``stop_after_failures`` kept it from starting.
    :param culprit: Task id and map index of the instance that failed, if it is not the branch's last one.
    :param is_reused: Whether its value is that of an earlier run.
    """

    state: str
    error: str | None = None
    is_stopped: bool = False
    culprit: tuple[str, int] | None = None
    is_reused: bool = False

    def of_value(self, value: object) -> Ruling:
        """Judge once more, by the value that was read: a success that has lost it is missing."""
        if self.state == "success" and isinstance(value, LostValue):
            return Ruling(state="missing", error=value.error)
        return self


def judge_branch(reader: Reader, tasks: BranchTasks, key: str = RETURN_VALUE) -> Ruling:
    """Decide what became of a branch whose value is the XCom of this key."""
    last_id, map_index = tasks.task_ids[-1], tasks.map_index
    last = reader.instances(last_id, map_index).get(map_index)
    if last is not None and last.state == "success":
        return _judge_success(reader, tasks, last, key)
    state = WAITING if last is None or last.state is None else last.state
    if state in {"upstream_failed", "skipped"} and (culprit := _failed_before_last(reader, tasks)):
        return Ruling(state="failed", error=_failure(reader, tasks, *culprit), culprit=culprit)
    if state == "failed":
        return Ruling(state="failed", error=_failure(reader, tasks, last_id, map_index))
    if state == "skipped" and tasks.is_ours:
        return _judge_skip(reader, tasks)
    if state not in FINISHED and any(each.state == "running" for *_, each in _instances(reader, tasks)):
        state = "running"
    return Ruling(state=state)


def judge_items(state: str | None, record: Record | None, count: int, value: ValueState) -> Sequence[Ruling]:
    """
    Decide what became of each item of a batch, by its task instance's state, its record and its value.

    Where values are in files, what many items in a row have in common takes the memory of one.
    """
    record = None if state == "removed" else believed(state, record)
    if not isinstance(record, BatchRecord) or len(record.statuses) != count:
        return RunLengths([(_judge_silent_batch(state, record), count)])
    success = Ruling(state="success")
    if value != "present" and state != UP_FOR_RETRY:
        lost = value if isinstance(value, LostValue) else LostValue()
        success = Ruling(state="missing", error=lost.error)
    if record.results is not None:
        return RunLengths(_judge_spans(state, record, success))
    return [
        success if status == ITEM_SUCCEEDED else _judge_item(state, record, index, status)
        for index, status in enumerate(record.statuses)
    ]


def _judge_spans(state: str | None, record: BatchRecord, success: Ruling) -> Iterator[tuple[Ruling, int]]:
    for start, stop, status in spans(record.statuses):
        if status == ITEM_SUCCEEDED:
            yield success, stop - start
        else:
            yield from ((_judge_item(state, record, index, status), 1) for index in range(start, stop))


def _judge_item(state: str | None, record: BatchRecord, index: int, status: str) -> Ruling:
    """Decide what became of an item without a value."""
    if status == ITEM_SKIPPED:
        return Ruling(state="skipped", error=record.error(index))
    if state == UP_FOR_RETRY:
        return Ruling(state=UP_FOR_RETRY)  # it runs again
    if status == ITEM_STOPPED:
        return Ruling(state="skipped", error=record.stopped or "not started", is_stopped=True)
    if state == "failed":
        return Ruling(state="failed", error=record.error(index))
    return Ruling(state="missing", error=MARKED_BY_HAND)


def believed(state: str | None, record: Record | None) -> Record | None:
    """Return a record if it can be of the try that a state tells of: what an earlier try left is ignored."""
    kind = "batch" if isinstance(record, BatchRecord) else getattr(record, "state", None)
    return record if isinstance(record, LostRecord) or kind in _KINDS.get(state or "", ()) else None


_KINDS = {
    "removed": ("success", "failed", "skipped", "stopped", "batch"),  # by Airflow, after it had ended
    "success": ("success", "batch"),
    "failed": ("failed", "batch"),
    "skipped": ("skipped", "stopped"),
    UP_FOR_RETRY: ("batch",),  # Airflow deletes it when the next try starts
}


def branch_duration(reader: Reader, tasks: BranchTasks) -> float | None:
    """Add up the seconds of a branch's tasks; None if none of them ever started."""
    return total_duration(instance for *_, instance in _instances(reader, tasks))


def missing_reason(key: str) -> str:
    """Why a success of which nothing else is known has left no value."""
    return MARKED_BY_HAND if key == RETURN_VALUE else f"it pushed nothing under the key {key!r}"


def _judge_success(reader: Reader, tasks: BranchTasks, last: InstanceState, key: str) -> Ruling:
    last_id, map_index = tasks.task_ids[-1], tasks.map_index
    value = reader.value_state(last_id, map_index, key)
    error: str | None = None
    if isinstance(value, LostValue):
        error = value.error
    elif value == "absent" and key != RETURN_VALUE:
        error = missing_reason(key)
    elif value == "absent" and not tasks.is_ours:
        error = None if last.has_run else MARKED_BY_HAND
    elif value == "absent":
        error = _absence(reader.record(last_id, map_index), last)
    return Ruling(state="success" if error is None else "missing", error=error)


def _absence(record: Record | None, last: InstanceState) -> str | None:
    """Why a task of this package that succeeded has no value; None if it returned None."""
    match record:
        case LostRecord():
            return record.error
        case BranchRecord(state="success"):
            return LOST_VALUE if record.has_value else None
        case None if last.has_run and not last.always_records:  # it may end without post_execute
            return None
    return MARKED_BY_HAND


def _judge_skip(reader: Reader, tasks: BranchTasks) -> Ruling:
    """Look for the reason at the first task that skipped itself; Airflow skips others without a process."""
    for task_id, index, instance in _instances(reader, tasks):
        if instance.state == "skipped" and instance.has_run:
            match believed("skipped", reader.record(task_id, index)):
                case BranchRecord(state=state, error=error):
                    return Ruling(state="skipped", error=error, is_stopped=state == "stopped")
                case LostRecord() as lost:
                    return Ruling(state="skipped", error=lost.error)
            break
    return Ruling(state="skipped")


def _judge_silent_batch(state: str | None, record: Record | None) -> Ruling:
    """Decide what became of each item of a batch that left no record of its items."""
    error = record.error if isinstance(record, BranchRecord | LostRecord) else None
    match state:
        case "success":
            return Ruling(state="missing", error=error or MARKED_BY_HAND)
        case "failed":
            return Ruling(state="failed", error=error or NO_EXCEPTION_RECORDED)
    return Ruling(state=state or WAITING)


def _failure(reader: Reader, tasks: BranchTasks, task_id: str, map_index: int) -> str | None:
    """Error of a failed instance; of a task that is not of this package, Airflow tells none."""
    if not tasks.is_ours:
        return None
    record = believed("failed", reader.record(task_id, map_index))
    error = record.error if isinstance(record, BranchRecord | LostRecord) else None
    return error or NO_EXCEPTION_RECORDED


def _failed_before_last(reader: Reader, tasks: BranchTasks) -> tuple[str, int] | None:
    """Find the first instance that failed before the branch's last task."""
    for task_id, index, instance in _instances(reader, tasks):
        if instance.state == "failed" and task_id != tasks.task_ids[-1]:
            return task_id, index
    return None


def _instances(reader: Reader, tasks: BranchTasks) -> Iterator[tuple[str, int, InstanceState]]:
    for task_id in tasks.task_ids:
        for index, instance in reader.instances(task_id, tasks.map_index).items():
            yield task_id, index, instance
