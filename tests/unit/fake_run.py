"""A run as a fan-in reads it: what the API server would answer, without one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_fanout.execution_time.wiring import Source
from airflow_fanout.execution_time.xcom import NOTHING, RunReader
from airflow_fanout.rules.instances import InstanceState
from airflow_fanout.rules.outcomes import BranchTasks
from airflow_fanout.rules.records import RECORD_KEY, REPORT_KEY, RETURN_VALUE, LostRecord, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airflow_fanout import FanInOperator
    from airflow_fanout.rules.records import Record

__all__ = ["TASK_INSTANCE", "FakeRun", "Verdict", "run_fan_in", "source_of"]

TASK_INSTANCE = dir(RuntimeTaskInstance)
"""What a mock of a task instance may be asked for; given the class, a mock takes 50 ms to look at each."""


def source_of(
    name: str,
    *task_ids: str,
    is_ours: bool = True,
    is_mapped: bool = False,
    map_index: int = -1,
) -> Source:
    """A source of a fan-in; the task of its branch has its name, unless told."""
    tasks = BranchTasks(task_ids=task_ids or (name,), map_index=map_index, is_ours=is_ours)
    return Source(name=name, tasks=tasks, is_mapped=is_mapped)


@dataclass
class FakeRun:
    """
    Finished instances of a run, and what they pushed.

    :param states: ``{(task_id, map_index): state}``.
    :param xcoms: ``{(task_id, map_index, key): value}``; an exception is raised when its value is read.
    :param unfinished: How many instances of mapped tasks are not finished.
    :param running_again: Instances that are no longer finished when somebody asks for states once more.
    """

    states: dict[tuple[str, int], InstanceState] = field(default_factory=dict)
    xcoms: dict[tuple[str, int, str], Any] = field(default_factory=dict)
    unfinished: int = 0
    running_again: set[tuple[str, int]] = field(default_factory=set)

    def add(
        self,
        task_id: str,
        state: str = "success",
        value: Any = NOTHING,
        *,
        map_index: int = -1,
        key: str = RETURN_VALUE,
        record: dict[str, Any] | None = None,
        duration: float | None = 1.0,
        operator: str = "_PythonDecoratedOperator",
    ) -> FakeRun:
        """Add one finished instance."""
        self.states[task_id, map_index] = InstanceState(state=state, duration=duration, operator=operator)
        if value is not NOTHING:
            self.xcoms[task_id, map_index, key] = value
        if record is not None:
            self.xcoms[task_id, map_index, RECORD_KEY] = record
        return self

    def succeed(self, task_id: str, value: Any = NOTHING, *, map_index: int = -1, **more: Any) -> FakeRun:
        """Add a branch of this package that succeeded: its value, and its record beside it."""
        record = {"state": "success", "has_value": value is not NOTHING}
        return self.add(task_id, "success", value, map_index=map_index, record=record, **more)

    def fail(self, task_id: str, error: str = "ValueError: broken", **more: Any) -> FakeRun:
        """Add a branch of this package that failed, and told why."""
        return self.add(task_id, "failed", record={"state": "failed", "error": error}, **more)

    def start_again(self, task_id: str, map_index: int = -1) -> FakeRun:
        """Let an instance be cleared, and start, after the states were read and before its values are."""
        self.running_again.add((task_id, map_index))
        self.xcoms = {at: value for at, value in self.xcoms.items() if at[:2] != (task_id, map_index)}
        return self

    def reader(self) -> Any:
        """A reader of this run, whose calls are noted; each would be one request."""
        reader = mock.Mock(spec=RunReader)
        reader.requests = 0
        reader.found_nothing = False

        def states() -> dict[tuple[str, int], InstanceState]:
            lost = set() if reader.states.call_count == 1 else self.running_again
            return {at: found for at, found in self.states.items() if at not in lost}

        reader.states.side_effect = states
        reader.instance_count.side_effect = self._instance_count

        def value(task_id: str, map_index: int, key: str) -> Any:
            found = self._value(task_id, map_index, key)
            reader.found_nothing |= found is NOTHING
            return found

        reader.value.side_effect = value

        def record(task_id: str, map_index: int) -> Record | None:
            try:
                return read_record(value(task_id, map_index, RECORD_KEY))
            except FileNotFoundError as gone:
                return LostRecord(str(gone))

        reader.record.side_effect = record
        reader.pushed_none.side_effect = lambda task_id, key: (
            self.xcoms.get((task_id, -1, key), NOTHING) is None
        )
        reader.value_count.side_effect = lambda task_id, key: len(list(self._pushed(task_id, key)))
        reader.page.side_effect = lambda task_id, key, start, stop: FakeValues(
            list(self._pushed(task_id, key))[start:stop]
        )
        reader.record_page.side_effect = lambda task_id, start, stop: [
            LostRecord(str(found)) if isinstance(found, FileNotFoundError) else read_record(found)
            for found in list(self._pushed(task_id, RECORD_KEY))[start:stop]
        ]
        return reader

    def _instance_count(self, task_ids: Iterable[str]) -> int:
        return sum(task_id in set(task_ids) for task_id, _ in self.states) + self.unfinished

    def _value(self, task_id: str, map_index: int, key: str) -> Any:
        found = self.xcoms.get((task_id, map_index, key))
        return NOTHING if found is None else _or_raise(found)  # as the server has it

    def _pushed(self, task_id: str, key: str) -> Iterator[Any]:
        """Values of a task by map_index, without gaps, as the server sends them."""
        for (of, _, pushed_key), value in sorted(self.xcoms.items(), key=lambda xcom: xcom[0][:2]):
            if (of, pushed_key) == (task_id, key):
                yield value


class FakeValues(list[Any]):
    """Values of a page; to look at an exception among them raises it."""

    def __iter__(self) -> Iterator[Any]:
        return map(_or_raise, super().__iter__())


def _or_raise(found: Any) -> Any:
    if isinstance(found, Exception):
        raise found
    return found


@dataclass(kw_only=True)
class Verdict:
    """
    What a fan-in did.

    :param value: What it returned, if it did.
    :param error: What it raised instead.
    :param report: The report that it pushed, None if it didn't.
    :param reader: What it read with.
    """

    value: Any
    error: Exception | None
    report: dict[str, Any] | None
    reader: Any

    @property
    def message(self) -> str:
        """What the error says; nothing if there is none."""
        return "" if self.error is None else str(self.error)


def run_fan_in(fan_in: FanInOperator, run: FakeRun, *, map_index: int | None = -1, **context: Any) -> Verdict:
    """
    Execute a fan-in over a run.

    :param fan_in: The fan-in.
    :param run: The run.
    :param map_index: Index of the fan-in itself, in a mapped task group.
    :param context: More context values.
    """
    ti = mock.Mock(spec=TASK_INSTANCE)
    ti.map_index, ti.run_id = map_index, "the run"
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
