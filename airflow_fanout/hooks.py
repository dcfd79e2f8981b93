"""What each branch records beside its value: added at parse time, run in the branch's own process."""

from __future__ import annotations

import functools
import inspect
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_fanout.record_shapes import ERROR_LENGTH, on_one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

__all__ = ["NO_EXCEPTION_RECORDED", "RECORD_KEY", "STOPPED", "add_hooks", "in_front", "redacted_error"]

RECORD_KEY = "fan_out_branch"
"""
XCom key of a branch's record: ``{"state": "success", "has_value": bool}`` or ``{"state": "failed", "error":
str}``, with ``seconds``, ``cpu_seconds``, ``peak_memory_bytes`` and ``cores`` where they were measured; or
``{"state": "stopped", "error": str}`` of a branch that ``stop_after_failures`` did not let start. An instance
of a mapped task adds ``map_index`` and, where its items came at run time, ``name`` (None in a list).
"""

STOPPED = "stopped"
"""State in the record of a branch that ``stop_after_failures`` did not let start; Airflow's is skipped."""

NO_EXCEPTION_RECORDED = (
    "no exception was recorded: the task's process never started, or ended before it could report one"
)


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


def _after(context: Context, result: Any) -> None:
    record_success(context, result)


def in_order(*arguments: Any, hooks: Sequence[Callable[..., Any]]) -> None:
    """Run hooks one after another."""
    for hook in hooks:
        done = hook(*arguments)
        if inspect.isgenerator(done):  # Airflow takes such hooks too
            deque(done, maxlen=0)


def add_hooks(operator: BaseOperator | MappedOperator) -> None:
    """
    Put the hooks in front of the author's own, which all still run.

    In ``default_args`` a hook would silence the author's own, or be silenced by it, so they are added to the
    task. Airflow puts the source of :func:`_after` into the serialized Dag, once for each task: hence
    its size.

    :param operator: A task of a branch, after it was made; a mapped one too.
    """
    if record_failure in _listed(operator.on_failure_callback):
        return  # a group within a branch has its hooks already
    if isinstance(operator, BaseOperator):
        operator.on_execute_callback = [on_execute, *operator.on_execute_callback]
        operator.on_failure_callback = [record_failure, *operator.on_failure_callback]
        # An on_success_callback would come too late: SUCCESS reaches the server before it runs.
        theirs = operator._post_execute_hook  # noqa: SLF001 - there is no public way
        operator._post_execute_hook = in_front(_after, theirs)  # noqa: SLF001
        return
    given = operator.partial_kwargs
    operator.partial_kwargs = {
        **given,
        "on_execute_callback": [on_execute, *_listed(given.get("on_execute_callback"))],
        "on_failure_callback": [record_failure, *_listed(given.get("on_failure_callback"))],
        "post_execute": in_front(_after, given.get("post_execute")),
    }


def in_front(ours: Callable[..., Any], theirs: Callable[..., Any] | None) -> Callable[..., Any]:
    """Put a hook of this package in front of the author's own, if there is one."""
    return ours if theirs is None else functools.partial(in_order, hooks=(ours, theirs))


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, Collection) else [callbacks]


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
