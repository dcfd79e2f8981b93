"""What a task of a branch records of itself."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk.exceptions import AirflowSkipException
from jinja2 import UndefinedError

from airflow_fanout.execution_time.transport import UnstorableValueError, stored_value
from airflow_fanout.rules.records import MOST_STEPS, RECORD_KEY, BranchRecord, Step
from airflow_fanout.rules.wording import ERROR_LENGTH, on_one_line
from airflow_fanout.serialization.declaration import declared_group

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

IO_COUNTS = Path("/proc/self/io")


class _Start(NamedTuple):
    """When a task's ``execute`` began, by three clocks."""

    task_instance: str
    seconds: float
    cpu_seconds: float
    io_bytes: tuple[int, int] | None


MAP_INDEX_TEMPLATE = "map_index_template"
KEEP_SKIP_REASON = "{{ task.keep_skip_reason() }}"

# A task's process runs one task; dag.test() runs one at a time.
_start: _Start | None = None
_skip_reason: str | None = None
_steps: list[Step] = []


def on_execute(context: Context) -> None:
    """Start the clocks of a branch's task, and have the reason of a skip kept."""
    global _start, _skip_reason  # noqa: PLW0603 - they live as long as the task's process
    _skip_reason = None
    _steps.clear()
    _keep_skip_reason(context)
    _start = _Start(
        task_instance=str(context["ti"].id),
        seconds=time.perf_counter(),
        cpu_seconds=cpu_seconds(),
        io_bytes=io_bytes(),
    )


@contextmanager
def timed_step(name: str) -> Iterator[None]:
    """Record the seconds of one of a branch's functions, whether it returns or raises."""
    begin = time.perf_counter()
    try:
        yield
    finally:
        if len(_steps) < MOST_STEPS:
            _steps.append(Step(name, round(time.perf_counter() - begin, 6)))


def _keep_skip_reason(context: Context) -> None:
    """
    Have the reason of a task's own skip kept.

    Airflow hands it to nobody: ``on_skipped_callback`` gets no exception. But while it handles whatever
    ``execute`` has raised, it renders ``map_index_template`` once more; an undefined name is no error then.
    A success drops the addition first, in :func:`record_success`.
    """
    given: Any = context
    task, template = given["task"], given.get(MAP_INDEX_TEMPLATE)

    def keep() -> str:
        global _skip_reason  # noqa: PLW0603 - lives as long as the task's process
        raised = sys.exc_info()[1]
        if isinstance(raised, AirflowSkipException):
            _skip_reason = skip_reason(raised)
        if template is None:
            raise UndefinedError
        return ""

    task.keep_skip_reason = keep
    given[MAP_INDEX_TEMPLATE] = f"{KEEP_SKIP_REASON}{template or ''}"


def _drop_skip_reason(context: Context) -> None:
    given: Any = context
    template = (given.get(MAP_INDEX_TEMPLATE) or "").removeprefix(KEEP_SKIP_REASON)
    given[MAP_INDEX_TEMPLATE] = template or None


def push_record(context: Context, **fields: Any) -> None:
    """Push a task's ``BranchRecord``; where the task has several instances, with what says whose it is."""
    ti: Any = context["ti"]
    if ti.map_index is not None and ti.map_index >= 0:
        fields["map_index"] = ti.map_index
        fields["name"] = _branch_name(context)
    ti.xcom_push(RECORD_KEY, BranchRecord(**fields).to_xcom())


def record_success(context: Context, result: Any) -> None:
    """
    Push the record of a success; Airflow pushes the value itself afterwards.

    :raises UnstorableValueError: If an XCom would change or refuse the value.
    """
    _drop_skip_reason(context)
    task: Any = context["task"]
    has_value = bool(result is not None and task.do_xcom_push)
    if has_value:
        stored_value(result)
    push_record(context, state="success", has_value=has_value, **_measured(context))


def record_skip(context: Context) -> None:
    """Push the reason of a task's own skip; SKIPPED reaches the server after the process has exited."""
    if _skip_reason is not None and _measured(context):  # else it is of another task in this process
        push_record(context, state="skipped", error=_skip_reason, **_measured(context))


def record_failure(context: Context) -> None:
    """
    Push the exception, redacted here because only this process knows the task's secrets.

    FAILED reaches the server after the process has exited, so no fan-in comes before this record. Where the
    Dag processor runs the callback for a killed process there is no exception and nothing to add. Airflow has
    none either where it fails a ``TriggerDagRunOperator`` because of the run that it triggered.
    """
    exception, measured = context.get("exception"), _measured(context)
    if getattr(exception, "fan_out_recorded", False) or (exception is None and not measured):
        return
    dag_id = getattr(context["task"], "trigger_dag_id", None)
    of_child = f"the run of Dag {dag_id!r} failed, or could not be triggered; the task's log says which"
    if exception is None and dag_id is None:
        of_child = "the task failed without an exception; its log says more"
    error = of_child if exception is None else redacted_error(exception)
    push_record(context, state="failed", error=error, **measured)


def _branch_name(context: Context) -> str | None:
    """
    Name of an instance of a mapped fan-out group; None of any other, or if nobody knows it.

    Of a branch of several tasks the first alone is sure to be given the item, and so to know its name. The
    others ask for what it recorded, one request, while what it made is still what they were given.
    """
    from airflow_fanout.execution_time.xcom import RunReader

    ti: Any = context["ti"]
    task: Any = context["task"]
    group = task.task_group
    while group is not None:
        declared = declared_group(group)
        if declared is not None and declared.mode == "mapped":
            name: str | None = group.known_name(ti.map_index)
            if name is None and task.task_id != declared.each[0]:
                name = getattr(RunReader(ti).record(declared.each[0], ti.map_index), "name", None)
            return name
        group = group.parent_group
    return None


def skip_reason(skip: BaseException) -> str | None:
    """What the author says of a skip: the exception's message alone."""
    kind = type(skip).__name__
    return redacted_error(skip).removeprefix(kind).removeprefix(": ") or None


def redacted_error(exception: BaseException | str) -> str:
    """
    Put an exception, or its text, into ``"ValueError: message"``, without secrets, on one line.

    :return: At most 500 characters.
    """
    from airflow.sdk.log import redact  # type: ignore[attr-defined]  # the masker of the task's log

    text = exception if isinstance(exception, str) else _described(exception)
    # Cut before masking too, so that a message of many megabytes costs nothing; far enough out that no secret
    # is halved.
    return on_one_line(str(redact(text[: 100 * ERROR_LENGTH])))


def _described(exception: BaseException) -> str:
    kind = type(exception).__name__
    try:
        message = f"{exception}"
    except (Exception, SystemExit) as unreadable:
        message = f"(its message can't be read: {type(unreadable).__name__})"
    if isinstance(exception, UnstorableValueError):
        return message
    return f"{kind}: {message}" if message else kind


def _measured(context: Context) -> dict[str, Any]:
    if _start is None or _start.task_instance != str(context["ti"].id):
        return {}
    read, written = io_since(_start.io_bytes)
    return {
        "seconds": round(time.perf_counter() - _start.seconds, 6),
        "cpu_seconds": round(cpu_seconds() - _start.cpu_seconds, 6),
        "peak_memory_bytes": peak_memory_bytes(),
        "cores": core_count(),
        "read_bytes": read,
        "written_bytes": written,
        "steps": tuple(_steps) or None,
    }


def _usages() -> list[resource.struct_rusage]:
    return [resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)]


def cpu_seconds() -> float:
    """CPU seconds of this process so far, with those of its children that have ended."""
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())


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
    return unit * max(usage.ru_maxrss for usage in _usages())


def io_bytes() -> tuple[int, int] | None:
    """
    Bytes that this process and its ended children have read, and written, so far; None if no kernel tells.

    Linux counts what goes through ``read`` and ``write``: of files, cached ones too, of pipes, and of sockets
    as far as libraries use these calls, as TLS does. ``recv`` and ``send`` it doesn't count, nor memory maps.
    """
    try:
        lines = IO_COUNTS.read_text(encoding="ascii").splitlines()
    except OSError:  # there is none but on Linux, and some containers forbid it
        return None
    counts = dict(line.split(": ") for line in lines)
    return int(counts["rchar"]), int(counts["wchar"])


def io_since(begin: tuple[int, int] | None) -> tuple[int | None, int | None]:
    """Bytes that were read, and written, since :func:`io_bytes` was asked; None if that isn't known."""
    now = io_bytes()
    return (None, None) if begin is None or now is None else (now[0] - begin[0], now[1] - begin[1])
