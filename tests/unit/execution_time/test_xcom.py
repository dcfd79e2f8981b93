"""The one place that uses semi-private parts of Airflow; these tests fail when they move."""

from __future__ import annotations

import inspect
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints
from unittest import mock
from uuid import uuid4

import pytest
from airflow.sdk import BaseOperator, task
from airflow.sdk.bases.operator import ExecutorSafeguard
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.execution_time import comms, task_runner
from airflow.sdk.execution_time.comms import (
    CommsDecoder,
    GetTaskBreadcrumbs,
    GetTICount,
    GetXCom,
    GetXComCount,
    GetXComSequenceSlice,
    SetXCom,
    TaskBreadcrumbsResult,
    TICount,
    XComCountResponse,
    XComResult,
    XComSequenceSliceResult,
)
from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence, _XComWrapper
from airflow.sdk.execution_time.supervisor import InProcessSupervisorComms, InProcessTestSupervisor
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.execution_time.items import read_at_once
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE, RunReader, at_once, current_count
from airflow_fanout.operators.split import SplitOperator
from airflow_fanout.rules.instances import InstanceState
from airflow_fanout.rules.records import RECORD_KEY, REPORT_KEY, BranchRecord, LostRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import DAG


class FakeServer:
    """Answers what a task sends through its supervisor, from the XComs and states that it holds."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.states: dict[tuple[str, int], str] = {}
        self.xcoms: dict[tuple[str, int, str], Any] = {}

    def succeed(self, task_id: str, map_index: int, value: Any, *, recorded: bool = False) -> None:
        self.states[task_id, map_index] = "success"
        if value is not None:
            self.xcoms[task_id, map_index, "return_value"] = value
        if recorded:
            self.xcoms[task_id, map_index, RECORD_KEY] = {"state": "success", "has_value": value is not None}

    def send(self, msg: Any) -> Any:
        self.sent.append(msg)
        match msg:
            case GetTaskBreadcrumbs():
                rows = [
                    {
                        "task_id": task_id,
                        "map_index": map_index,
                        "state": state,
                        "operator": "PythonOperator",
                        "duration": 1.5,
                    }
                    for (task_id, map_index), state in self.states.items()
                ]
                return TaskBreadcrumbsResult(breadcrumbs=rows)
            case GetTICount():
                return TICount(count=sum(task_id in (msg.task_ids or ()) for task_id, _ in self.states))
            case GetXCom():
                value = self.xcoms.get((msg.task_id, -1 if msg.map_index is None else msg.map_index, msg.key))
                return XComResult(key=msg.key, value=value)
            case GetXComCount():
                return XComCountResponse(len=len(self.values(msg)))
            case GetXComSequenceSlice():
                return XComSequenceSliceResult(root=self.values(msg)[msg.start : msg.stop : msg.step])
            case SetXCom():
                self.xcoms[msg.task_id, -1, msg.key] = msg.value
                return None
        raise NotImplementedError(msg)

    def values(self, msg: GetXComCount | GetXComSequenceSlice) -> list[Any]:
        return [
            value
            for (task_id, _, key), value in sorted(self.xcoms.items(), key=lambda xcom: xcom[0][1])
            if (task_id, key) == (msg.task_id, msg.key)
        ]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """The other end of the supervisor's line."""
    server = FakeServer()
    line = mock.create_autospec(CommsDecoder, instance=True)
    line.send.side_effect = server.send
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", line, raising=False)
    return server


@pytest.fixture
def reader(server: FakeServer) -> RunReader:
    return RunReader(instance_of(BaseOperator(task_id="combine")))


def instance_of(task: BaseOperator) -> RuntimeTaskInstance:
    """A task instance as the task runner has it, but for what nobody asks of it here."""
    return RuntimeTaskInstance.model_construct(
        id=uuid4(), task=task, task_id=task.task_id, dag_id="pipeline", run_id="manual", map_index=-1
    )


class TestWhatAirflowHas:
    @pytest.mark.parametrize(
        ("function", "parameters"),
        [
            (RuntimeTaskInstance.get_task_breadcrumbs, "dag_id run_id"),
            (RuntimeTaskInstance.get_ti_count, "dag_id task_ids run_ids"),
            (CommsDecoder.send, "self msg"),
        ],
    )
    def test_a_function_takes_what_is_given(self, function: Any, parameters: str) -> None:
        assert set(parameters.split()) <= set(inspect.signature(function).parameters)

    @pytest.mark.parametrize(
        ("message", "fields"),
        [
            (GetXComCount, "key dag_id run_id task_id type"),
            (
                GetXComSequenceSlice,
                "key dag_id run_id task_id start stop step include_prior_dates type",
            ),
            (XComCountResponse, "len type"),
            (XComSequenceSliceResult, "root type"),
        ],
    )
    def test_a_message_has_the_fields_that_are_used(self, message: Any, fields: str) -> None:
        required = {name for name, field in message.model_fields.items() if field.is_required()}
        assert required <= set(fields.split()) <= set(message.model_fields)

    def test_messages_may_be_sent_by_a_task(self) -> None:
        assert {"GetXComCount", "GetXComSequenceSlice"} <= {
            message.__name__ for message in comms.ToSupervisor.__args__[0].__args__
        }

    def test_the_line_to_the_supervisor_is_where_it_was(self) -> None:
        assert "SUPERVISOR_COMMS" in task_runner.__annotations__

    def test_a_value_of_a_slice_is_wrapped_to_be_deserialized(self) -> None:
        assert "value" in get_type_hints(_XComWrapper) or _XComWrapper("x").value == "x"


class TestReader:
    def test_states_are_by_task_and_map_index(self, server: FakeServer, reader: RunReader) -> None:
        server.states = {("work", 1): "success", ("work_1", -1): "failed"}

        assert reader.states() == {
            ("work", 1): InstanceState(state="success", duration=1.5, operator="PythonOperator"),
            ("work_1", -1): InstanceState(state="failed", duration=1.5, operator="PythonOperator"),
        }
        assert server.sent == [GetTaskBreadcrumbs(dag_id="pipeline", run_id="manual")]

    def test_instances_are_counted(self, server: FakeServer, reader: RunReader) -> None:
        server.states = {("work", 0): "success", ("work", 1): "failed", ("other", -1): "success"}

        assert reader.instance_count(["work"]) == 2

    @pytest.mark.parametrize("value", ["text", 0, "", False, [], {"a": [1]}], ids=repr)
    def test_a_value_is_read(self, server: FakeServer, reader: RunReader, value: Any) -> None:
        server.succeed("work", 2, value)

        assert reader.value("work", 2, "return_value") == value

    def test_nothing_is_told_from_a_value(self, server: FakeServer, reader: RunReader) -> None:
        assert reader.value("work", -1, "return_value") is NOTHING

    @pytest.mark.parametrize(
        ("pushed", "expected"),
        [
            ({"state": "success", "has_value": True}, BranchRecord(state="success", has_value=True)),
            ("text", None),
            (None, None),
        ],
        ids=["record", "text", "nothing"],
    )
    def test_a_record_is_read(
        self, server: FakeServer, reader: RunReader, pushed: Any, expected: Any
    ) -> None:
        server.xcoms["work", -1, RECORD_KEY] = pushed

        assert reader.record("work", -1) == expected

    @pytest.mark.parametrize(
        ("pushed", "expected"),
        [
            pytest.param({("work", -1, "rows"): None}, True, id="None"),
            pytest.param({("work", -1, "rows"): 0}, False, id="0"),
            pytest.param({("work", -1, "other"): None}, False, id="None under another key"),
            pytest.param({}, False, id="nothing"),
        ],
    )
    def test_none_that_was_pushed_is_told_from_nothing(
        self, server: FakeServer, reader: RunReader, pushed: Any, expected: bool
    ) -> None:
        server.xcoms = pushed

        assert reader.pushed_none("work", "rows") is expected

    def test_values_are_counted(self, server: FakeServer, reader: RunReader) -> None:
        for map_index, value in enumerate(["a", None, "c"]):
            server.succeed("work", map_index, value)

        assert reader.value_count("work", "return_value") == 2

    def test_a_page_is_a_slice(self, server: FakeServer, reader: RunReader) -> None:
        for map_index in range(12):
            server.succeed("work", map_index, map_index)

        assert list(reader.page("work", "return_value", 8, 11)) == [8, 9, 10]
        assert server.sent == [
            GetXComSequenceSlice(
                key="return_value",
                dag_id="pipeline",
                run_id="manual",
                task_id="work",
                start=8,
                stop=11,
                step=None,
            )
        ]

    def test_each_call_is_one_request_and_counted(self, server: FakeServer, reader: RunReader) -> None:
        calls: list[Any] = [
            reader.states,
            lambda: reader.instance_count(["work"]),
            lambda: reader.value("work", -1, "return_value"),
            lambda: reader.record("work", -1),
            lambda: reader.pushed_none("work", "rows"),
            lambda: reader.value_count("work", "rows"),
            lambda: list(reader.page("work", "rows", 0, 1)),
        ]
        for number, call in enumerate(calls, start=1):
            call()
            assert reader.requests == len(server.sent) == number

    @pytest.mark.parametrize(
        ("ask", "expected"),
        [
            pytest.param(lambda reader: reader.value_count("w", "k"), "XComCountResponse", id="count"),
            pytest.param(lambda reader: reader.page("w", "k", 0, 1), "XComSequenceSliceResult", id="page"),
        ],
    )
    def test_an_unexpected_answer_is_an_error_that_shows_it(
        self, monkeypatch: pytest.MonkeyPatch, reader: RunReader, ask: Any, expected: str
    ) -> None:
        monkeypatch.setattr(task_runner.SUPERVISOR_COMMS, "send", lambda _: "no answer")

        with pytest.raises(TypeError, match=f"expected {expected} from the supervisor, found 'no answer'"):
            ask(reader)


class StorageBackend(BaseXCom):
    """As Airflow's object-storage backend: a reference whose body is gone, or damaged, is its own value."""

    @staticmethod
    def deserialize_value(result: Any) -> Any:
        if str(result.value).endswith("denied"):
            message = "Forbidden"
            raise PermissionError(message)
        try:
            return json.loads(Path(str(result.value).removeprefix("file://")).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return result.value


class TestBodiesInStorage:
    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Where bodies lie; ``gone`` does not."""
        monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", StorageBackend)
        monkeypatch.setenv("AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH", f"file://{tmp_path}/")
        (tmp_path / "there").write_text('{"a": 1}', encoding="utf-8")
        (tmp_path / "damaged").write_text('{"a": ', encoding="utf-8")
        (tmp_path / "reference").write_text(f'"file://{tmp_path}/gone"', encoding="utf-8")
        return tmp_path

    def push(self, server: FakeServer, folder: Path, *bodies: str, key: str = "return_value") -> None:
        for map_index, body in enumerate(bodies):
            server.xcoms["work", map_index, key] = f"file://{folder}/{body}"

    def test_are_read_when_they_are_looked_at_and_once(
        self, server: FakeServer, reader: RunReader, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deserialize = mock.Mock(wraps=StorageBackend.deserialize_value)
        monkeypatch.setattr(StorageBackend, "deserialize_value", deserialize)
        self.push(server, folder, "there", "there")
        page = reader.page("work", "return_value", 0, 2)

        assert (len(page), deserialize.call_count) == (2, 0)
        assert (list(page), deserialize.call_count) == ([{"a": 1}] * 2, 2)
        assert reader.value("work", 0, "return_value") == {"a": 1}

    def test_that_are_gone_are_no_values(self, server: FakeServer, reader: RunReader, folder: Path) -> None:
        self.push(server, folder, "there", "gone")

        with pytest.raises(FileNotFoundError, match=f"^file://{folder}/gone$"):
            reader.value("work", 1, "return_value")
        with pytest.raises(FileNotFoundError, match="gone"):
            list(reader.page("work", "return_value", 0, 2))

    @pytest.mark.parametrize(
        ("body", "why"),
        [
            pytest.param("damaged", "ValueError: .*damaged is there, but is damaged", id="damaged"),
            pytest.param("denied", "PermissionError: Forbidden", id="denied"),
        ],
    )
    def test_that_cannot_be_read_are_errors_that_say_whose(
        self, server: FakeServer, reader: RunReader, folder: Path, body: str, why: str
    ) -> None:
        self.push(server, folder, body)

        message = rf"^What 'work\[0\]' pushed under 'return_value' can't be read: {why}"
        with pytest.raises(UnreadableValueError, match=message) as raised:
            reader.value("work", 0, "return_value")
        assert raised.value.is_of_storage is (body == "denied")
        with pytest.raises(UnreadableValueError, match=why):
            list(reader.page("work", "return_value", 0, 1))

    def test_may_say_where_another_lies(self, server: FakeServer, reader: RunReader, folder: Path) -> None:
        self.push(server, folder, "reference")

        assert reader.value("work", 0, "return_value") == f"file://{folder}/gone"

    @pytest.mark.parametrize(
        ("backend", "text"),
        [(StorageBackend, "file://{}-of-others/gone"), (BaseXCom, "file://{}/gone")],
        ids=["elsewhere", "in the database"],
    )
    def test_a_text_that_is_no_reference_is_a_value(
        self,
        server: FakeServer,
        reader: RunReader,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        backend: type,
        text: str,
    ) -> None:
        monkeypatch.setattr("airflow.sdk.execution_time.xcom.XCom", backend)
        server.succeed("work", -1, text.format(folder))

        assert reader.value("work", -1, "return_value") == text.format(folder)

    def test_of_records_leave_a_place(self, server: FakeServer, reader: RunReader, folder: Path) -> None:
        self.push(server, folder, "there", "gone", "damaged", "there", key=RECORD_KEY)

        (folder / "there").write_text('{"state": "success"}', encoding="utf-8")
        record = BranchRecord(state="success")

        assert reader.record_page("work", 0, 9) == [record, LostRecord(f"file://{folder}/gone"), None, record]
        assert reader.record("work", 2) is None

    def test_of_records_that_are_denied_are_errors(
        self, server: FakeServer, reader: RunReader, folder: Path
    ) -> None:
        self.push(server, folder, "there", "denied", key=RECORD_KEY)

        with pytest.raises(UnreadableValueError, match="PermissionError"):
            reader.record_page("work", 0, 9)
        with pytest.raises(UnreadableValueError, match="PermissionError"):
            reader.record("work", 1)

    def test_are_read_sixteen_at_once_and_no_more(self, folder: Path) -> None:
        together, lock, now, peak = threading.Barrier(16), threading.Lock(), 0, 0

        def read(number: int) -> int:
            nonlocal now, peak
            with lock:
                now += 1
                peak = max(peak, now)
            together.wait(timeout=30)
            with lock:
                now -= 1
            return number

        assert at_once(read, range(32)) == list(range(32))
        assert peak == 16

    def test_of_static_branches_are_read_at_once(
        self, dag: DAG, server: FakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        together, deserialize = threading.Barrier(16), StorageBackend.deserialize_value
        process = FanOutGroup("process", branch=lambda: None, count=16)
        fan_in = FanInOperator(task_id="combine", fan_out=process)
        for index in range(16):
            server.succeed(f"process.process_{index}", -1, index)
            server.xcoms[f"process.process_{index}", -1, "return_value"] = f"file://{folder}/there"

        def meet(row: Any) -> Any:
            together.wait(timeout=30)
            return deserialize(row)

        monkeypatch.setattr(StorageBackend, "deserialize_value", staticmethod(meet))
        with mock.patch.object(ExecutorSafeguard, "test_mode", new=True):
            context: Any = {"ti": instance_of(fan_in)}
            value = fan_in.execute(context)

        assert value == {f"process_{index}": {"a": 1} for index in range(16)}

    def test_of_a_run_in_the_terminal_are_read_by_one_thread(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``dag.test()`` has nobody to ask while it answers another thread."""
        comms_of_dag_test = InProcessSupervisorComms(supervisor=mock.Mock(spec=InProcessTestSupervisor))
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms_of_dag_test, raising=False)

        assert set(at_once(lambda _: threading.get_ident(), range(9))) == {threading.get_ident()}

    def test_in_the_database_values_are_read_by_one_thread(self) -> None:
        assert set(at_once(lambda _: threading.get_ident(), range(9))) == {threading.get_ident()}


class TestRequestsOfAFanIn:
    """All that execute sends, counted where it leaves the process."""

    @pytest.fixture(autouse=True)
    def as_in_a_task(self) -> Iterator[None]:
        with mock.patch.object(ExecutorSafeguard, "test_mode", new=True):
            yield

    def execute(self, fan_in: FanInOperator) -> Any:
        context: Any = {"ti": instance_of(fan_in)}
        return fan_in.execute(context)

    @pytest.mark.parametrize("count", [1, 40])
    def test_of_a_static_group(
        self, dag: DAG, server: FakeServer, count: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        process = FanOutGroup("process", branch=lambda: None, count=count)
        fan_in = FanInOperator(task_id="combine", fan_out=process)
        for index in range(count):
            server.succeed(f"process.process_{index}", -1, index, recorded=True)

        with caplog.at_level("INFO", logger="airflow_fanout.execution_time.accounting"):
            assert list(self.execute(fan_in).values()) == list(range(count))
        assert len(server.sent) <= count + 3
        assert server.xcoms["combine", -1, REPORT_KEY]["succeeded"] == count
        assert f": {count} succeeded ({len(server.sent)} requests)\n" in caplog.text

    @pytest.mark.parametrize("count", [1, PAGE_SIZE, PAGE_SIZE + 1])
    def test_of_a_native_mapped_task(self, dag: DAG, server: FakeServer, count: int) -> None:
        def total(results: FanInResults) -> int:
            return sum(results.values())

        fan_in = FanInOperator(task_id="combine", task_id_prefix="each", python_callable=total)
        task(task_id="each")(lambda item: item).expand(item=["x"]) >> fan_in
        for index in range(count):
            server.succeed("each", index, index)

        assert self.execute(fan_in) == sum(range(count))
        assert len(server.sent) <= 4 + 2 * -(-count // PAGE_SIZE)


class TestWhatSeveralInstancesReturned:
    """Arguments as Airflow resolves them, for a task after a mapped one."""

    @pytest.fixture
    def resolved(self, server: FakeServer) -> Iterator[Any]:
        """What ``load()`` and ``other()`` returned, three instances each."""
        for task_id in ("load", "other"):
            for index in range(3):
                server.succeed(task_id, index, [task_id, index])
        operator = BaseOperator(task_id="combine")

        def resolve(arg: PlainXComArg, context: Any) -> Any:
            return LazyXComSequence(xcom_arg=arg, ti=instance_of(operator))

        with mock.patch.object(PlainXComArg, "resolve", resolve):
            yield lambda arg: arg.resolve({})

    @pytest.mark.parametrize(
        ("make", "expected", "requests"),
        [
            pytest.param(lambda one, _: one, [["load", 0], ["load", 1], ["load", 2]], 1, id="plain"),
            pytest.param(lambda one, _: one.map(lambda item: item[1]).map(str), ["0", "1", "2"], 1, id="map"),
            pytest.param(
                lambda one, other: one.map(lambda item: item[1]).zip(other.map(lambda item: item[0])),
                [(0, "other"), (1, "other"), (2, "other")],
                2,
                id="zip",
            ),
            pytest.param(
                lambda one, other: one.concat(other).map(lambda item: item[1]),
                [0, 1, 2, 0, 1, 2],
                2,
                id="concat",
            ),
        ],
    )
    def test_it_is_read_in_one_request_for_each_task(
        self, server: FakeServer, resolved: Any, make: Any, expected: list[Any], requests: int
    ) -> None:
        made = make(*(BaseOperator(task_id=task_id).output for task_id in ("load", "other")))

        assert read_at_once(resolved(made)) == expected
        assert len(server.sent) == requests

    @pytest.mark.parametrize("size", [None, 2], ids=["counted", "cut"])
    def test_what_instances_left_that_airflow_has_removed_since_is_none_of_it(
        self, server: FakeServer, resolved: Any, size: int | None, dag: DAG
    ) -> None:
        """There are fewer items than before."""
        server.states |= {("load", index): "removed" for index in (1, 2, 3)}
        source = BaseOperator(task_id="load").output
        operator = SplitOperator(task_id="split", items=source, items_per_task=2)
        ti = instance_of(operator)
        ti.try_number = 1

        if size is None:
            gone = FileNotFoundError("s3://gone")
            with mock.patch("airflow_fanout.execution_time.xcom.deserialized", side_effect=gone):
                assert current_count(ti, resolved(source)) == 1
            return
        with mock.patch.object(ExecutorSafeguard, "test_mode", new=True):
            assert [cut[:3] for cut in operator.execute({"ti": ti})] == [[0, 1, 1]]
        assert server.xcoms["split", -1, "batch_0"] == {"names": None, "items": [["load", 0]]}

    @pytest.mark.parametrize("value", [[1], {"a": 1}, None, "text"], ids=repr)
    def test_what_a_single_task_returned_is_itself(self, value: Any) -> None:
        assert read_at_once(value) is value
