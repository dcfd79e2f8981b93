"""A run as a fan-in reads it: what the API server would answer, without one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unittest import mock

from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_fanout.execution_time.wiring import Source
from airflow_fanout.execution_time.xcom import NOTHING
from airflow_fanout.rules.instances import InstanceState
from airflow_fanout.rules.outcomes import BranchTasks
from airflow_fanout.rules.records import RECORD_KEY, REPORT_KEY, RETURN_VALUE, LostRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow_fanout import FanInOperator
    from airflow_fanout.rules.records import Record

__all__ = ["STARTED", "TASK_INSTANCE", "FakeRun", "Verdict", "run_fan_in", "source_of"]

TASK_INSTANCE = [*dir(RuntimeTaskInstance), "task"]
"""What a mock of a task instance may be asked for, its task too; given the class, it takes 50 ms to look."""


def source_of(
    name: str, *task_ids: str, is_ours: bool = True, is_mapped: bool = False, map_index: int = -1
) -> Source:
    """Make a source of a fan-in; the task of its branch has its name, unless told."""
    tasks = BranchTasks(task_ids=task_ids or (name,), map_index=map_index, is_ours=is_ours)
    return Source(name=name, tasks=tasks, is_mapped=is_mapped)


STARTED = datetime(2026, 1, 1, 0, 2, tzinfo=UTC)
"""When a fan-in started."""


@dataclass
class FakeRun:
    """
    Finished instances of a run, and what they pushed: an exception among that is raised when it is read.

    It has the methods of ``RunReader``.

    :param xcoms: By task id, map index and key.
    :param unfinished: How many instances of mapped tasks are not finished.
    :param running_again: Instances that are no longer finished when somebody asks for states once more.
    :param calls: Requests so far: method and arguments.
    """

    instances: dict[tuple[str, int], InstanceState] = field(default_factory=dict)
    xcoms: dict[tuple[str, int, str], Any] = field(default_factory=dict)
    requests: int = 0
    found_nothing: bool = False
    unfinished: int = 0
    running_again: set[tuple[str, int]] = field(default_factory=set)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)

    def add(
        self,
        task_id: str,
        state: str = "success",
        value: Any = NOTHING,
        *,
        map_index: int = -1,
        key: str = RETURN_VALUE,
        record: Any = None,
        duration: float | None = 1.0,
        operator: str = "_PythonDecoratedOperator",
    ) -> FakeRun:
        """Add one finished instance; its record as it is stored."""
        self.instances[task_id, map_index] = InstanceState(state=state, duration=duration, operator=operator)
        if value is not NOTHING:
            self.xcoms[task_id, map_index, key] = value
        if record is not None:
            self.xcoms[task_id, map_index, RECORD_KEY] = record
        return self

    def succeed(self, task_id: str, value: Any = NOTHING, **more: Any) -> FakeRun:
        """Add a branch of this package that succeeded: its value, and its record beside it."""
        return self.add(
            task_id, value=value, record={"state": "success", "has_value": value is not NOTHING}, **more
        )

    def fail(self, task_id: str, error: str = "ValueError: broken", **more: Any) -> FakeRun:
        """Add a branch of this package that failed, and told why."""
        return self.add(task_id, "failed", record={"state": "failed", "error": error}, **more)

    def start_again(self, task_id: str, map_index: int = -1) -> FakeRun:
        """Let an instance be cleared, and start, after the states were read and before its values are."""
        self.running_again.add((task_id, map_index))
        self.xcoms = {at: value for at, value in self.xcoms.items() if at[:2] != (task_id, map_index)}
        return self

    def reader(self) -> Any:
        """Make what reads this run, with no request so far."""
        return replace(self, calls=[], found_nothing=False)

    def asked(self, method: str) -> list[tuple[Any, ...]]:
        """Arguments of the requests by a method."""
        return [arguments for name, arguments in self.calls if name == method]

    def _note(self, method: str, *arguments: Any) -> None:
        self.calls.append((method, arguments))

    def states(self) -> dict[tuple[str, int], InstanceState]:
        lost = self.running_again if self.asked("states") else set()
        self._note("states")
        return {instance: state for instance, state in self.instances.items() if instance not in lost}

    def instance_count(self, task_ids: Sequence[str]) -> int:
        self._note("instance_count", task_ids)
        return sum(task_id in task_ids for task_id, _ in self.instances) + self.unfinished

    def value(self, task_id: str, map_index: int, key: str) -> Any:
        self._note("value", task_id, map_index, key)
        return self._value(task_id, map_index, key)

    def record(self, task_id: str, map_index: int) -> Record | None:
        self._note("record", task_id, map_index)
        try:
            return read_record(self._value(task_id, map_index, RECORD_KEY))
        except FileNotFoundError as gone:
            return LostRecord(str(gone))

    def record_page(self, task_id: str, start: int, stop: int) -> list[Record | None]:
        self._note("record_page", task_id, start, stop)
        records = self._page(task_id, RECORD_KEY, start, stop)
        return [LostRecord(str(r)) if isinstance(r, FileNotFoundError) else read_record(r) for r in records]

    def pushed_none(self, task_id: str, key: str) -> bool:
        self._note("pushed_none", task_id, key)
        return self.xcoms.get((task_id, -1, key), NOTHING) is None

    def value_count(self, task_id: str, key: str) -> int:
        self._note("value_count", task_id, key)
        return len(self._page(task_id, key, 0, len(self.xcoms)))

    def page(self, task_id: str, key: str, start: int, stop: int) -> list[Any]:
        self._note("page", task_id, key, start, stop)
        return _Values(self._page(task_id, key, start, stop))

    def _page(self, task_id: str, key: str, start: int, stop: int) -> list[Any]:
        pushed = sorted(index for i, index, k in self.xcoms if (i, k) == (task_id, key))
        return [self.xcoms[task_id, index, key] for index in pushed][start:stop]

    def _value(self, task_id: str, map_index: int, key: str) -> Any:
        value = self.xcoms.get((task_id, map_index, key))
        self.found_nothing |= value is None
        return NOTHING if value is None else _or_raise(value)


class _Values(list[Any]):
    """Values of a page; to look at an exception among them raises it."""

    def __iter__(self) -> Iterator[Any]:
        return map(_or_raise, super().__iter__())


def _or_raise(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


@dataclass(kw_only=True)
class Verdict:
    """
    What a fan-in did.

    :param value: What it returned, if it did.
    :param error: What it raised instead.
    :param report: The report that it pushed; None if it did not.
    :param reader: What it read with.
    """

    value: Any
    error: Exception | None
    report: dict[str, Any] | None
    reader: FakeRun

    @property
    def message(self) -> str:
        """What the error says; nothing if there is none."""
        return "" if self.error is None else str(self.error)

    @property
    def requests(self) -> int:
        """Requests that it sent, the report's among them."""
        return len(self.reader.calls) + (self.report is not None)


def run_fan_in(fan_in: FanInOperator, run: FakeRun, *, map_index: int | None = -1, **context: Any) -> Verdict:
    """
    Execute a fan-in over a run.

    :param map_index: Index of the fan-in itself, in a mapped task group.
    :param context: More context values.
    """
    ti = mock.Mock(spec=TASK_INSTANCE)
    ti.dag_id, ti.task_id, ti.run_id, ti.map_index = fan_in.dag_id, fan_in.task_id, "the run", map_index
    ti.start_date = STARTED
    ti.xcom_pull.side_effect = lambda task_ids, key, **_: run.xcoms.get((task_ids, -1, key))
    reader = run.reader()
    value, error = None, None
    with (
        mock.patch.object(ExecutorSafeguard, "test_mode", new=True),
        mock.patch("airflow_fanout.execution_time.accounting.RunReader", return_value=reader),
    ):
        try:
            value = fan_in.execute({"ti": ti, **context})  # type: ignore[typeddict-item]
        except Exception as raised:
            error = raised
    pushed = {call.args[0]: call.args[1] for call in ti.xcom_push.call_args_list}
    return Verdict(value=value, error=error, report=pushed.get(REPORT_KEY), reader=reader)
