"""What a branch's process records: the reason of a skip, which Airflow hands to nobody, and unfit values."""

from __future__ import annotations

import asyncio
import functools
import math
import signal
import time
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.providers.standard.sensors.python import PythonSensor
from airflow.sdk import BaseOperator, task, task_group
from airflow.sdk import TaskInstanceState as State
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder
from airflow.sdk.log import mask_secret

from airflow_fanout import FanOutGroup
from airflow_fanout.execution_time import recording
from airflow_fanout.rules.records import MOST_STEPS, RECORD_KEY, BranchRecord, read_record
from tests.unit.fake_run import TASK_INSTANCE, FakeRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import DAG, Context

pytestmark = pytest.mark.usefixtures("dag")


@pytest.fixture(autouse=True)
def another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """No task has run in this process yet."""
    monkeypatch.setattr(recording, "_start", None)
    monkeypatch.setattr(recording, "_skip_reason", None)
    monkeypatch.setattr(recording, "_steps", [])


def skipping(text: str) -> Callable[[], Any]:
    def skip() -> Any:
        raise AirflowSkipException(text)

    return skip


skip = skipping("no data today")


def branch_of(function: Any, group_id: str = "process", **arguments: Any) -> BaseOperator:
    group = FanOutGroup(group_id, **{"branch": function, "count": 2, **arguments})
    operator = next(iter(group))
    assert isinstance(operator, BaseOperator)
    return operator


def run(operator: BaseOperator, failed: FakeRun | None = None) -> tuple[Any, Any]:
    """Run a branch, and what Airflow calls if it is no success; return its task instance, and its record."""
    operator = operator.prepare_for_execution()
    ti = mock.Mock(spec=TASK_INSTANCE)
    ti.id, ti.map_index, ti.try_number = operator.task_id, -1, 1
    ti._ti_context_from_server, ti.task, ti._failure_metrics_emitted = None, operator, False
    ti.rendered_map_index, ti.stats_tags = None, {"dag_id": "pipeline", "task_id": operator.task_id}
    context: Any = {"ti": ti, "task": operator, "map_index_template": operator.map_index_template}
    reader = (failed or FakeRun()).reader()
    line = mock.create_autospec(CommsDecoder, instance=True)
    with (
        mock.patch("airflow_fanout.execution_time.xcom.RunReader", return_value=reader),
        mock.patch.object(task_runner, "SUPERVISOR_COMMS", line, create=True),
        mock.patch.object(task_runner, "_prepare", autospec=True, return_value=None),
        mock.patch.object(task_runner, "_push_xcom_if_needed", autospec=True),
        mock.patch.object(task_runner, "_handle_current_task_success", return_value=(None, State.SUCCESS)),
        mock.patch.object(signal, "signal", autospec=True),
    ):
        _, _, context["exception"] = task_runner.run(ti, context, mock.Mock())
    if ti.state != "success":
        kind: Any = "on_skipped_callback" if ti.state == "skipped" else "on_failure_callback"
        task_runner._run_task_state_change_callbacks(operator, kind, context, mock.Mock())
    pushed = [call.args[1] for call in ti.xcom_push.call_args_list if call.args[0] == RECORD_KEY]
    return ti, read_record(pushed[-1]) if pushed else None


async def skip_later() -> Any:
    await asyncio.sleep(0)
    skip()


class Skipping(BaseOperator):
    def execute(self, context: Context) -> Any:
        skip()


class TestTheReasonOfASkip:
    @pytest.mark.parametrize(
        ("branch", "reason"),
        [
            pytest.param(skip, "no data today", id="a function"),
            pytest.param(task(skip_later), "no data today", id="a coroutine"),
            pytest.param(
                functools.partial(PythonSensor, python_callable=skip), "no data today", id="a sensor"
            ),
            pytest.param(Skipping, "no data today", id="any operator"),
            pytest.param(skipping("one\nline"), "one line", id="on one line"),
            pytest.param(skipping("no open-sesame-0815"), "no ***", id="masked"),
        ],
    )
    def test_is_recorded(self, branch: Any, reason: str) -> None:
        mask_secret("open-sesame-0815")
        _, record = run(branch_of(branch))

        assert isinstance(record, BranchRecord)
        assert (record.state, record.error) == ("skipped", reason)
        assert record.seconds is not None

    def test_is_not_recorded_where_there_is_none(self) -> None:
        assert run(branch_of(skipping("")))[1] is None

    def test_the_authors_own_callback_runs_after_ours(self) -> None:
        called: list[str] = []

        def theirs(context: Context) -> None:
            called.append(context["task"].task_id)

        run(branch_of(skip, default_args={"on_skipped_callback": theirs}))

        assert called == ["process.process_0"]

    @pytest.mark.parametrize(("branch", "state"), [(skip, "skipped"), (lambda: "a", "success")])
    @pytest.mark.parametrize("template", ["no. {{ 6 * 7 }}", None], ids=["a template", "none"])
    def test_changes_nothing_of_how_an_instance_calls_itself(
        self, branch: Any, state: str, template: str | None
    ) -> None:
        given: Any = {} if template is None else {"map_index_template": template}
        ti, _ = run(branch_of(branch, default_args=given))

        assert (ti.state, ti.rendered_map_index) == (state, None if template is None else "no. 42")

    @pytest.mark.parametrize("stops", [True, False], ids=["stop_after_failures", "the author's own hook"])
    def test_is_not_that_of_another_task_of_the_process(self, stops: bool) -> None:
        """``dag.test()`` runs all tasks in one; what skips before ``execute`` starts no clock."""
        run(branch_of(skip))
        own: Any = {"stop_after_failures": 1}
        if not stops:
            own = {"default_args": {"pre_execute": lambda context: skip()}}
        _, record = run(branch_of(skip, **own, group_id="other"), FakeRun().fail("other.other_1"))

        assert getattr(record, "state", None) == ("stopped" if stops else None)


def list_nothing() -> dict[str, str]:
    return {}


class TestTheNameOfAnInstance:
    @pytest.mark.parametrize(("step", "requests"), [("second", 1), ("first", 0)])
    def test_is_what_the_first_task_of_its_branch_recorded(self, dag: DAG, step: str, requests: int) -> None:
        """Nobody else is given the item, and another one may be at that index by now."""

        @task_group
        def chain(item: str) -> Any:
            same = task(lambda value: value)
            return same.override(task_id="second")(same.override(task_id="first")(item))

        FanOutGroup("g", branch=chain, items=task(list_nothing)())
        record = {"state": "success", "map_index": 1, "name": "fr"}
        reader = FakeRun().add("g.each.first", map_index=1, record=record).reader()
        ti = mock.Mock(spec=TASK_INSTANCE)
        ti.map_index = 1
        context: Any = {"ti": ti, "task": dag.get_task(f"g.each.{step}")}
        with mock.patch("airflow_fanout.execution_time.xcom.RunReader", return_value=reader):
            recording.push_record(context, state="success")

        (pushed,) = ti.xcom_push.call_args_list
        assert pushed.args[1].get("name") == ("fr" if requests else None)
        assert len(reader.asked("record")) == requests


class TestAValueThatAnXComWouldChangeOrRefuse:
    @pytest.mark.parametrize(
        ("value", "error"),
        [
            pytest.param({"loss": [math.nan]}, "NaN at ['loss'][0] can't be stored in an XCom", id="NaN"),
            pytest.param(2**64, "an int beyond 64 bits can't be stored in an XCom", id="a large int"),
            pytest.param(
                {"\ud800": 1}, "a lone surrogate at ['\\ud800'] can't be", id="a surrogate as a key"
            ),
            pytest.param(object(), "a value of type object can't be stored in an XCom: ", id="an object"),
            pytest.param({math.inf: 1}, "the key inf of type float comes back", id="infinity as a key"),
        ],
    )
    def test_fails_its_branch_with_what_and_where(self, value: Any, error: str) -> None:
        ti, record = run(branch_of(lambda: value))

        assert (ti.state, getattr(record, "state", None)) == ("failed", "failed")
        assert str(getattr(record, "error", None)).startswith(error)

    def test_is_no_failure_where_it_is_not_pushed(self) -> None:
        ti, record = run(branch_of(task(do_xcom_push=False)(lambda: {object()})))

        assert (ti.state, getattr(record, "state", None)) == ("success", "success")


class TestSteps:
    def test_functions_of_a_list_are_timed_one_by_one(self) -> None:
        def load() -> int:
            time.sleep(0.02)
            return 1

        def double(number: int) -> int:
            return 2 * number

        _, record = run(branch_of([load, double]))

        assert [step.name for step in record.steps] == ["load", "double"]
        assert record.steps[0].seconds >= 0.02 > record.steps[1].seconds
        assert sum(step.seconds for step in record.steps) <= record.seconds

    def test_the_last_one_of_a_failure_is_that_which_raised(self) -> None:
        def load() -> int:
            raise ValueError

        _, record = run(branch_of([load, lambda value: value]))

        assert (record.state, [step.name for step in record.steps]) == ("failed", ["load"])

    def test_those_of_a_task_are_no_other_ones(self) -> None:
        run(branch_of([lambda: 1, lambda value: value]))

        _, record = run(branch_of(lambda: 1, "other"))

        assert record.steps is None

    def test_no_more_than_fifty_are_kept(self) -> None:
        _, record = run(branch_of([lambda: 1, *[lambda number: number] * 60]))

        assert len(record.steps) == MOST_STEPS


class TestBytesReadAndWritten:
    @pytest.mark.skipif(not recording.IO_COUNTS.exists(), reason="this kernel counts no bytes")
    def test_they_are_those_of_execute(self, tmp_path: Path) -> None:
        def copy() -> None:
            (tmp_path / "a").write_bytes(b"x" * 300_000)
            (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes())

        _, record = run(branch_of(copy))

        assert 300_000 <= record.read_bytes < 400_000
        assert 600_000 <= record.written_bytes < 700_000

    def test_where_no_kernel_tells_there_are_none(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(recording, "IO_COUNTS", tmp_path / "io")

        _, record = run(branch_of(lambda: 1))

        assert (record.read_bytes, record.written_bytes) == (None, None)
