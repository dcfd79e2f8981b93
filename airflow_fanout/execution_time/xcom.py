"""The one place that asks the API server for states and XComs of a run; runs on the worker."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow_fanout.exceptions import BranchesRunningError, UnreadableValueError
from airflow_fanout.rules.instances import InstanceState, instances_at, instances_of
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.outcomes import BranchOutcome, LostValue, branch_duration, judge_branch
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE, LostRecord, read_record
from airflow_fanout.serialization.stored_values import BODIES_AT_ONCE, deserialized, values_lie_elsewhere

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    from airflow_fanout.rules.instances import States
    from airflow_fanout.rules.outcomes import BranchTasks, ValueState
    from airflow_fanout.rules.policy import State
    from airflow_fanout.rules.records import Record


PAGE_SIZE = 500
"""Mapped instances whose values are read in one request."""

Thing = TypeVar("Thing")

Read = TypeVar("Read")

NOTHING: Any = object()
"""Stands where nothing was pushed; None is a value."""


class Values:
    """Values as the server sent them; each is deserialized, or fetched, when they are iterated over."""

    def __init__(self, rows: Sequence[Any], title: str) -> None:
        self._rows, self._title = rows, title

    def __len__(self) -> int:
        """Return the number of values; reads none."""
        return len(self._rows)

    def __iter__(self) -> Iterator[Any]:
        """Yield the values; raises what keeps one from being read."""
        for value in self.read():
            if isinstance(value, _Unreadable):
                raise value.cause
            yield value

    def read(self) -> list[Any]:
        """Values in order; an ``_Unreadable`` in place of one that can't be read."""
        return at_once(self._read, self._rows)

    def _read(self, row: Any) -> Any:
        from airflow.sdk.execution_time.lazy_sequence import _XComWrapper

        try:
            return deserialized(_XComWrapper(row), self._title)
        except (FileNotFoundError, UnreadableValueError) as cause:
            return _Unreadable(cause)


class RunReader:
    """Reads the run of a task instance. Each call is one request to the API server, about 10 ms."""

    def __init__(self, ti: RuntimeTaskInstance) -> None:
        self._ti = ti
        self._counting = threading.Lock()
        self.requests = 0
        self.found_nothing = False
        """Whether nothing had been pushed where a value was looked for."""

    def states(self) -> dict[tuple[str, int], InstanceState]:
        """
        State of every finished instance of the run, by ``(task_id, map_index)``.

        ``get_task_breadcrumbs`` (Airflow 3.2) answers in one request; ``get_task_states`` takes the ids in
        its URL and can't tell ``work[1]`` from a task ``work_1``.
        """
        self.requests += 1
        return {
            (row["task_id"], row["map_index"]): InstanceState(
                state=str(row["state"]), duration=row["duration"], operator=row["operator"]
            )
            for row in self._ti.get_task_breadcrumbs(dag_id=self._ti.dag_id, run_id=self._ti.run_id)
        }

    def instance_count(self, task_ids: Sequence[str]) -> int:
        """Count the instances of some tasks, finished or not."""
        self.requests += 1
        run_ids = [self._ti.run_id]
        return self._ti.get_ti_count(dag_id=self._ti.dag_id, task_ids=list(task_ids), run_ids=run_ids)

    def value(self, task_id: str, map_index: int, key: str) -> Any:
        """
        Value that one instance pushed; NOTHING if there is none, or a None that was pushed by hand.

        :raises FileNotFoundError: If it is an object-storage XCom whose body is gone.
        :raises UnreadableValueError: If it can't be read for another reason.
        """
        answer = self._stored(task_id, map_index, key)
        if answer.value is None:
            self.found_nothing = True
            return NOTHING
        name = instance_name(task_id, map_index)
        return deserialized(answer, f"What {name!r} pushed under {key!r}")

    def has_value(self, task_id: str, map_index: int, key: str) -> bool:
        """Whether one instance has pushed a value, though its body may be gone."""
        return self._stored(task_id, map_index, key).value is not None

    def record(self, task_id: str, map_index: int) -> Record | None:
        """Record that a task of this package left; None if there is none."""
        try:
            return read_record(self.value(task_id, map_index, RECORD_KEY))
        except (FileNotFoundError, UnreadableValueError) as cause:
            return _record_of(_Unreadable(cause))

    def record_page(self, task_id: str, start: int, stop: int) -> list[Record | None]:
        """Records of a mapped task by map index, of those instances that pushed one; None for no record."""
        return [_record_of(value) for value in self.page(task_id, RECORD_KEY, start, stop).read()]

    def pushed_none(self, task_id: str, key: str) -> bool:
        """Whether a task that is not mapped has pushed None under a key, which is not the same as nothing."""
        return list(self.page(task_id, key, 0, 1)) == [None]

    def value_count(self, task_id: str, key: str) -> int:
        """Count the instances of a mapped task that have pushed a value."""
        from airflow.sdk.execution_time.comms import GetXComCount, XComCountResponse

        count: int = self._ask(GetXComCount, XComCountResponse, task_id=task_id, key=key).len
        return count

    def page(self, task_id: str, key: str, start: int, stop: int) -> Values:
        """
        Values of a mapped task, by map_index, of those instances that pushed one.

        A position in this list is no identity: an instance without a value leaves no gap.
        """
        from airflow.sdk.execution_time.comms import GetXComSequenceSlice, XComSequenceSliceResult

        bounds = {"start": start, "stop": stop, "step": None}
        answer = self._ask(GetXComSequenceSlice, XComSequenceSliceResult, task_id=task_id, key=key, **bounds)
        return Values(answer.root, f"What an instance of {task_id!r} pushed under {key!r}")

    def _stored(self, task_id: str, map_index: int, key: str) -> Any:
        from airflow.sdk.execution_time.comms import GetXCom, XComResult

        return self._ask(GetXCom, XComResult, task_id=task_id, key=key, map_index=map_index)

    def _ask(self, request: type[Any], expected: type[Any], **fields: Any) -> Any:
        from airflow.sdk.execution_time import task_runner

        with self._counting:  # branches may be read in threads
            self.requests += 1
        message = request(dag_id=self._ti.dag_id, run_id=self._ti.run_id, **fields)
        answer = task_runner.SUPERVISOR_COMMS.send(message)
        if not isinstance(answer, expected):
            problem = f"expected {expected.__name__} from the supervisor, found {answer!r}"
            raise TypeError(problem)
        return answer


def at_once(
    read: Callable[[Thing], Read], things: Sequence[Thing], *, are_elsewhere: bool = False
) -> list[Read]:
    """
    Read things in order, several at a time if values lie elsewhere; requests still go one by one.

    :param are_elsewhere: Whether these are in files, wherever XComs are.
    """
    if not (are_elsewhere or values_lie_elsewhere()) or answered_in_process():
        return [read(each) for each in things]
    with ThreadPoolExecutor(BODIES_AT_ONCE, thread_name_prefix="fan-in-bodies") as readers:
        return list(readers.map(read, things))


def answered_in_process() -> bool:
    """Whether it is ``dag.test()`` that answers: while it does, other threads have nobody to ask."""
    from airflow.sdk.execution_time import task_runner

    asked = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return type(asked).__name__ == "InProcessSupervisorComms"  # to import it takes half of Airflow


@dataclass(frozen=True)
class _Unreadable:
    """Stands for a value that can't be read."""

    cause: FileNotFoundError | UnreadableValueError


def _record_of(value: Any) -> Record | None:
    if not isinstance(value, _Unreadable):
        return read_record(value)
    if isinstance(value.cause, FileNotFoundError):
        return LostRecord(str(value.cause))
    if value.cause.is_of_storage:
        raise value.cause
    return None  # somebody else has pushed under the key of records


class BranchReader:
    """Reads branches one by one for the judge; ``states`` are those of the run's finished instances."""

    def __init__(self, reader: RunReader, states: States) -> None:
        self._reader, self._states = reader, states
        self._value: Any = None

    def instances(self, task_id: str, map_index: int) -> Mapping[int, InstanceState]:
        """Instances of a branch's task, by map index."""
        return instances_at(self._states, task_id, map_index)

    def record(self, task_id: str, map_index: int) -> Record | None:
        """Record that an instance left."""
        return self._reader.record(task_id, map_index)

    def value_state(self, task_id: str, map_index: int, key: str) -> ValueState:
        """Read the value that an instance pushed, and keep it."""
        try:
            value = self._reader.value(task_id, map_index, key)
        except FileNotFoundError as gone:  # the body of an object-storage XCom
            return LostValue(str(gone))
        if value is not NOTHING:
            self._value = value
            return "present"
        # With a map_index, siblings push under the same key: a None pushed by hand can't be told apart.
        pushed_none = key != RETURN_VALUE and map_index < 0 and self._reader.pushed_none(task_id, key)
        return "present" if pushed_none else "absent"

    def outcome(self, name: str, tasks: BranchTasks, key: str) -> BranchOutcome:
        """Read one branch, value included."""
        self._value = None
        ruling = judge_branch(self, tasks, key)
        task_id, map_index = ruling.culprit or (tasks.task_ids[-1], tasks.map_index)
        return BranchOutcome(
            name=name,
            index=0,
            state=cast("State", ruling.state),
            value=self._value if ruling.state == "success" else None,
            error=ruling.error,
            task_id=task_id,
            map_index=map_index,
            duration=branch_duration(self, tasks),
            is_stopped=ruling.is_stopped,
        )

    def page(
        self,
        task_id: str,
        key: str,
        indexes: Sequence[int],
        first: int,
        *,
        ahead: Values | None = None,
        is_last: bool,
    ) -> dict[int, Any]:
        """
        Read the values of instances that have all pushed one, the first at a position among all values.

        An instance that has started again has no value, so that those after it move up. On the last page, one
        is lacking then; of every other the states are asked for once more.

        :param ahead: The values, if the server has sent them already.
        :param is_last: Whether no value comes after these.
        :return: The values by position within ``indexes``; a ``LostValue`` in place of one that is gone.
        """
        try:
            sent = self._reader.page(task_id, key, first, first + len(indexes)) if ahead is None else ahead
            values = list(sent)
        except (FileNotFoundError, UnreadableValueError):  # one by one tells whose
            return self._one_by_one(task_id, key, indexes)
        if len(values) != len(indexes) or not (is_last or self._are_as_before(task_id, indexes[-1])):
            raise _started_again(task_id)
        return dict(enumerate(values))

    def _are_as_before(self, task_id: str, last: int) -> bool:
        """Whether the instances up to an index have not started again since the states were read."""
        now, then = (
            {at: state for at, state in states.items() if at[0] == task_id and at[1] <= last}
            for states in (self._reader.states(), self._states)
        )
        return now == then

    def _one_by_one(self, task_id: str, key: str, indexes: Sequence[int]) -> dict[int, Any]:
        def read(map_index: int) -> Any:
            try:
                return self._reader.value(task_id, map_index, key)
            except FileNotFoundError as gone:
                return LostValue(str(gone))

        values = dict(enumerate(at_once(read, indexes)))
        # All have pushed one, if only a None by hand.
        if any(value is NOTHING for value in values.values()) and not self._are_as_before(
            task_id, indexes[-1]
        ):
            raise _started_again(task_id)
        return {position: None if value is NOTHING else value for position, value in values.items()}


def _started_again(task_id: str) -> BranchesRunningError:
    message = f"Instances of {task_id!r} were cleared while this fan-in was reading; it runs again"
    return BranchesRunningError(message, names=[task_id])


def resumes(ti: RuntimeTaskInstance) -> bool:
    """Whether a task goes on with what it began before: after a deferral, or after a sensor's reschedule."""
    server: Any = ti._ti_context_from_server  # noqa: SLF001 - there is no public way
    return server is not None and bool(server.next_method or server.task_reschedule_count)


def current_count(ti: RuntimeTaskInstance, values: LazyXComSequence[Any]) -> int:
    """
    Count the values of a mapped task's instances, but for those that Airflow has removed since.

    It removes what is beyond the number of items, and leaves what that had pushed, which comes last then.
    Requests: two, and one for each removed instance.
    """
    reader, of = RunReader(ti), values._xcom_arg  # noqa: SLF001 - there is no public way
    states = instances_of(reader.states(), of.operator.task_id)
    removed = [index for index, instance in states.items() if instance.state == "removed"]
    return len(values) - sum(reader.has_value(of.operator.task_id, index, of.key) for index in removed)


def make_requests_in_a_thread() -> None:
    """
    Have what is awaited on an event loop asked in a thread of its own, for as long as this process lives.

    Airflow's ``asend`` holds the one line to the supervisor while it waits for its loop, and for a thread of
    the loop's executor. With items at the same time that blocks for ever: if they fill the executor with
    requests that aren't awaited, or if one is cancelled in between, whose answer then is another's. And a
    request that isn't awaited raises ``DeadlockImminentError`` (Airflow 3.3) or waits for itself (3.2).
    """
    from airflow.sdk.execution_time.comms import CommsDecoder

    line = ThreadPoolExecutor(1, thread_name_prefix="fan-out-requests")

    async def asend(self: Any, msg: Any) -> Any:
        context = contextvars.copy_context()
        return await asyncio.get_running_loop().run_in_executor(line, context.run, self.send, msg)

    CommsDecoder.asend = asend  # type: ignore[method-assign]


def give_line_to(other: socket.socket | None) -> None:
    """
    Put another line in the place of that to the supervisor, in a forked process; None for one that has none.

    Two processes that write to one line would break what both say.
    """
    if (line := supervisor_line()) is not None:
        with contextlib.ExitStack() as opened:
            end = other.fileno() if other is not None else os.open(os.devnull, os.O_RDWR)
            if other is None:
                opened.callback(os.close, end)
            os.dup2(end, line.fileno())


def supervisor_line() -> socket.socket | None:
    """Line to the supervisor of this process; None outside of a task."""
    from airflow.sdk.execution_time import task_runner

    return getattr(getattr(task_runner, "SUPERVISOR_COMMS", None), "socket", None)


def supervisor_ended() -> ConnectionResetError:
    """Make the error of a task whose supervisor is no longer there."""
    return ConnectionResetError("the supervisor has ended")


def forward_request(line: socket.socket) -> bool:
    """Ask the supervisor for a child process, as the bytes that they are; whether there was a request."""
    from airflow.sdk.execution_time import task_runner

    if (request := _receive_frame(line)) is None:
        return False
    comms = task_runner.SUPERVISOR_COMMS
    with comms._thread_lock:  # noqa: SLF001 - there is no public way
        comms.socket.sendall(request)
        answer = _receive_frame(comms.socket)
    if answer is None:
        raise supervisor_ended()
    with contextlib.suppress(ConnectionError):  # who has asked has ended
        line.sendall(answer)
    return True


def _receive_frame(line: socket.socket) -> bytes | None:
    """Read a message of Airflow's with its size before it; None at the end."""
    if (size := receive(line, 4)) is None or (body := receive(line, int.from_bytes(size))) is None:
        return None
    return size + body


def receive(line: socket.socket, size: int) -> bytes | None:
    """Read so many bytes; None if the line ends before."""
    received = bytearray(size)
    view, count = memoryview(received), 0
    while count < size:
        try:
            read = line.recv_into(view[count:])
        except ConnectionResetError:  # the other process has ended with something unread
            read = 0
        if not read:
            return None
        count += read
    return bytes(received)
