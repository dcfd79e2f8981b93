"""What a task of a branch records of itself."""

from __future__ import annotations

import os
import resource
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_fanout.rules.records import RECORD_KEY
from airflow_fanout.rules.wording import ERROR_LENGTH, on_one_line

if TYPE_CHECKING:
    from airflow.sdk import Context


__all__ = ["redacted_error"]


@dataclass(frozen=True, kw_only=True)
class _Start:
    """When a task's ``execute`` began, by three clocks."""

    task_instance: str
    seconds: float
    cpu_seconds: float


_start: _Start | None = None  # A task's process runs one task; dag.test() runs one at a time.


def on_execute(context: Context) -> None:
    """Start the clocks of a branch's task."""
    global _start  # noqa: PLW0603 - lives as long as the task's process
    _start = _Start(
        task_instance=str(context["ti"].id), seconds=time.perf_counter(), cpu_seconds=_cpu_seconds()
    )


def record_success(context: Context, result: Any) -> None:
    """Push the record of a success; Airflow pushes the value itself afterwards."""
    task: Any = context["task"]
    has_value = result is not None and task.do_xcom_push
    record = {"state": "success", "has_value": has_value, **identity(context), **_measured(context)}
    context["ti"].xcom_push(RECORD_KEY, record)


def record_failure(context: Context) -> None:
    """
    Push the exception, redacted here because only this process knows the task's secrets.

    FAILED reaches the server after the process has exited, so no fan-in comes before this record. Where the
    Dag processor runs the callback for a killed process there is no exception and nothing to add.
    """
    exception = context.get("exception")
    if exception is None or getattr(exception, "fan_out_recorded", False):
        return
    record = {
        "state": "failed",
        "error": redacted_error(exception),
        **identity(context),
        **_measured(context),
    }
    context["ti"].xcom_push(RECORD_KEY, record)


def identity(context: Context) -> dict[str, Any]:
    """Whose record it is, where a task has several instances: its map index, and its name if it is known."""
    ti: Any = context["ti"]
    if ti.map_index is None or ti.map_index < 0:
        return {}
    known: dict[str, Any] = {"map_index": ti.map_index}
    group: Any = context["task"].task_group
    while group is not None:
        noted = getattr(group, "noted_names", {})
        if ti.map_index in noted:
            return {**known, "name": noted[ti.map_index]}
        group = group.parent_group
    return known


def redacted_error(exception: BaseException | str) -> str:
    """
    Put an exception into ``"ValueError: message"``, without secrets, on one line of at most 500 characters.

    :param exception: The exception, or its text.
    """
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the masker of the task's log

    if isinstance(exception, str):
        said = exception
    else:
        kind = type(exception).__name__
        try:
            message = str(exception)
        except (Exception, SystemExit) as unreadable:
            message = f"(its message can't be read: {type(unreadable).__name__})"
        said = f"{kind}: {message}" if message else kind
    # Cut before masking too, so that a message of many megabytes costs nothing; far enough out that no secret
    # is halved.
    return on_one_line(str(redact(said[: 100 * ERROR_LENGTH])))


def _measured(context: Context) -> dict[str, float | int]:
    if _start is None or _start.task_instance != str(context["ti"].id):
        return {}
    return {
        "seconds": round(time.perf_counter() - _start.seconds, 6),
        "cpu_seconds": round(_cpu_seconds() - _start.cpu_seconds, 6),
        "peak_memory_bytes": peak_memory_bytes(),
        "cores": core_count(),
    }


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def core_count() -> int:
    """
    Count the cores that this process may run on: of its machine, or as far as it is bound to some of them.

    A container's quota of CPU time is not among what the kernel tells here.
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Largest resident memory of this process or one of its children so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return (
        max(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,
        )
        * unit
    )
