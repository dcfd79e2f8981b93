from __future__ import annotations

import os
import pickle
import resource
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import DAG, BaseOperator, TaskGroup, task
from airflow.sdk.execution_time import task_runner
from airflow.sdk.log import mask_secret
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout import FanOutGroup
from airflow_fanout.execution_time import recording
from airflow_fanout.execution_time.recording import redacted_error
from airflow_fanout.operators import hooks
from airflow_fanout.rules.records import RECORD_KEY
from airflow_fanout.rules.wording import ERROR_LENGTH
from tests.unit.fake_run import TASK_INSTANCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import Context

CALLS: list[str] = []


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What the author's callbacks noted, in order; no clock runs yet."""
    monkeypatch.setattr(recording, "_start", None)
    CALLS.clear()
    yield CALLS
    CALLS.clear()


def theirs(context: Context) -> None:
    CALLS.append("theirs")


def theirs_of_the_group(context: Context) -> None:
    CALLS.append("group")


def theirs_before(context: Context) -> None:
    CALLS.append("before")


def theirs_after(context: Context, result: Any) -> None:
    CALLS.append(f"after {result}")


def theirs_after_as_a_generator(context: Context, result: Any) -> Iterator[object]:
    CALLS.append(f"after {result}")
    yield None


def work() -> str:
    CALLS.append("work")
    return "value"


def declare(group_id: str = "process", **arguments: Any) -> BaseOperator:
    """Declare a group of one branch, and return its task."""
    group = FanOutGroup(group_id, **{"branch": work, "count": 1, **arguments})
    (operator,) = group
    assert isinstance(operator, BaseOperator)
    return operator


def fake_ti() -> Any:
    """A task instance that notes what is pushed, in CALLS too."""
    ti = mock.Mock(spec=TASK_INSTANCE)
    ti.id, ti.map_index, ti._ti_context_from_server = "this try", -1, None
    ti.xcom_push.side_effect = lambda key, value: CALLS.append("ours")
    return ti


def pushed(ti: Any) -> dict[str, Any]:
    """The one record that was pushed."""
    (call,) = ti.xcom_push.call_args_list
    key, value = call.args
    assert key == RECORD_KEY
    assert isinstance(value, dict)
    return value


def run(operator: BaseOperator, ti: Any | None = None) -> Any:
    """Run a task as Airflow's task runner does, up to the push of its value."""
    ti = ti or fake_ti()
    ti.task = operator
    context: Any = {"ti": ti, "task": operator}
    with mock.patch.dict(os.environ):
        task_runner._execute_task(context, ti, mock.Mock())
    return ti


def fail(operator: BaseOperator, exception: object = None) -> Any:
    """Run a task's failure callbacks as Airflow does, with the exception if there is one."""
    ti = fake_ti()
    context: Any = {"ti": ti, "task": operator}
    if exception is not None:
        context["exception"] = exception
    log = mock.Mock()
    task_runner._run_task_state_change_callbacks(operator, "on_failure_callback", context, log)
    log.exception.assert_not_called()
    return ti


@pytest.mark.usefixtures("dag")
class TestRecordOfASuccess:
    def test_it_holds_state_seconds_and_memory(self) -> None:
        record = pushed(run(declare()))

        assert (record["state"], record["has_value"]) == ("success", True)
        assert set(record) == {
            "state",
            "has_value",
            "seconds",
            "cpu_seconds",
            "peak_memory_bytes",
            "cores",
        }
        assert 0 <= record["seconds"] < 10
        assert 0 <= record["cpu_seconds"] < 10
        assert 10**6 < record["peak_memory_bytes"] < 10**11

    @pytest.mark.parametrize("value", [0, "", False, [], {}], ids=["0", "empty str", "False", "[]", "{}"])
    def test_a_value_that_is_nothing_much_is_a_value(self, value: Any) -> None:
        assert pushed(run(declare(branch=lambda: value)))["has_value"] is True

    def test_none_is_told_from_a_value(self) -> None:
        assert pushed(run(declare(branch=lambda: None)))["has_value"] is False

    def test_a_task_that_pushes_no_value_has_none(self) -> None:
        decorated = task(do_xcom_push=False)(work)

        assert pushed(run(declare(branch=decorated)))["has_value"] is False

    def test_it_is_json(self) -> None:
        record = pushed(run(declare()))

        assert {type(value) for value in record.values()} <= {str, bool, int, float}

    def test_seconds_are_those_of_execute_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter([100.0, 103.5])
        monkeypatch.setattr("airflow_fanout.execution_time.recording.time.perf_counter", lambda: next(clock))

        assert pushed(run(declare()))["seconds"] == 3.5

    def test_cpu_seconds_are_those_of_the_task_and_its_child_processes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used = iter([(10.0, 1.0), (20.0, 2.0), (10.5, 1.25), (22.0, 2.5)])

        def usage(who: int) -> mock.Mock:
            user, system = next(used)
            return mock.Mock(spec=["ru_utime", "ru_stime"], ru_utime=user, ru_stime=system)

        monkeypatch.setattr("airflow_fanout.execution_time.recording.resource.getrusage", usage)
        monkeypatch.setattr(recording, "peak_memory_bytes", lambda: 0)

        assert pushed(run(declare()))["cpu_seconds"] == 0.75 + 2.5

    @pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
    def test_memory_is_that_of_the_larger_process_in_bytes(
        self, monkeypatch: pytest.MonkeyPatch, platform: str, unit: int
    ) -> None:
        peaks = {resource.RUSAGE_SELF: 3_000_000, resource.RUSAGE_CHILDREN: 7_000_000}

        def usage(who: int) -> mock.Mock:
            spec = ["ru_utime", "ru_stime", "ru_maxrss"]
            return mock.Mock(spec=spec, ru_utime=0.0, ru_stime=0.0, ru_maxrss=peaks[who])

        monkeypatch.setattr("airflow_fanout.execution_time.recording.resource.getrusage", usage)
        monkeypatch.setattr("airflow_fanout.execution_time.recording.sys.platform", platform)

        assert pushed(run(declare()))["peak_memory_bytes"] == 7_000_000 * unit

    @pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no process is bound to cores here")
    def test_cores_are_those_that_the_process_may_run_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "airflow_fanout.execution_time.recording.os.sched_getaffinity", lambda process: {0, 3, 5}
        )

        assert pushed(run(declare()))["cores"] == 3

    def test_the_clock_of_another_task_instance_is_not_taken(self) -> None:
        run(declare(group_id="first"), fake_ti())
        operator = declare(group_id="second")
        other = fake_ti()
        other.id = "another try"

        hooks._after({"ti": other, "task": operator}, "value")

        assert pushed(other) == {"state": "success", "has_value": True}


@pytest.mark.usefixtures("dag")
class TestRecordOfAFailure:
    def test_it_holds_type_and_message(self) -> None:
        assert pushed(fail(declare(), ValueError("broken"))) == {
            "state": "failed",
            "error": "ValueError: broken",
        }

    def test_what_was_measured_is_there_too(self) -> None:
        operator = declare()
        ti = fake_ti()
        context: Any = {"ti": ti, "task": operator, "exception": ValueError("broken")}
        recording.on_execute(context)

        recording.record_failure(context)

        assert set(pushed(ti)) == {
            "state",
            "error",
            "seconds",
            "cpu_seconds",
            "peak_memory_bytes",
            "cores",
        }

    def test_without_an_exception_nothing_is_pushed(self, calls: list[str]) -> None:
        fail(declare())

        assert calls == []

    def test_a_text_in_place_of_an_exception_is_taken(self) -> None:
        assert pushed(fail(declare(), "killed by a signal"))["error"] == "killed by a signal"

    def test_an_exception_without_a_message_is_its_type(self) -> None:
        assert redacted_error(KeyboardInterrupt()) == "KeyboardInterrupt"

    def test_an_exception_whose_message_cannot_be_read_is_named(self) -> None:
        class UnreadableError(Exception):
            def __str__(self) -> str:
                message = "no"
                raise RuntimeError(message)

        assert (
            redacted_error(UnreadableError()) == "UnreadableError: (its message can't be read: RuntimeError)"
        )

    def test_an_exception_whose_message_is_no_str_is_named(self) -> None:
        class OddError(Exception):
            def __str__(self) -> str:
                return 8  # type: ignore[return-value]  # noqa: PLE0307 - that is the point

        assert redacted_error(OddError()) == "OddError: (its message can't be read: TypeError)"

    def test_a_secret_is_masked(self) -> None:
        mask_secret("hunter2-correct-horse")

        assert redacted_error(ValueError("password hunter2-correct-horse")) == "ValueError: password ***"

    def test_a_secret_across_the_cut_is_masked(self) -> None:
        secret = "swordfish-battery-staple"
        mask_secret(secret)

        said = redacted_error(ValueError("x" * (ERROR_LENGTH - 20) + secret))

        assert "sword" not in said
        assert "***" in said

    @pytest.mark.parametrize(
        ("length", "end"),
        [
            pytest.param(ERROR_LENGTH - len("ValueError: "), "x", id="just as long as it may be"),
            pytest.param(ERROR_LENGTH - len("ValueError: ") + 1, "x…", id="one more"),
            pytest.param(10_000_000, "x…", id="many megabytes"),
        ],
    )
    def test_it_is_cut(self, length: int, end: str) -> None:
        said = redacted_error(ValueError("x" * length))

        assert len(said) == ERROR_LENGTH == 500
        assert said.endswith(end)

    def test_a_message_of_many_megabytes_is_cut_before_it_is_masked(self) -> None:
        with mock.patch("airflow.sdk.log.redact", autospec=True, side_effect=lambda said: said) as masker:
            redacted_error(ValueError("x" * 10_000_000))

        assert len(masker.call_args.args[0]) == 100 * ERROR_LENGTH

    @given(message=st.text())
    def test_whatever_the_message_it_fits(self, message: str) -> None:
        said = redacted_error(ValueError(message))

        assert said.startswith("ValueError")
        assert len(said) <= ERROR_LENGTH


@pytest.mark.usefixtures("calls")
class TestTheAuthorsOwn:
    @pytest.mark.parametrize("given", [theirs, [theirs]], ids=["one", "a list"])
    def test_a_failure_callback_of_the_dag_fires_once_after_ours(self, given: object) -> None:
        with DAG("d", schedule=None, default_args={"on_failure_callback": given}):
            fail(declare(), ValueError("broken"))

        assert CALLS == ["ours", "theirs"]

    def test_a_failure_callback_of_the_group_replaces_the_dags(self) -> None:
        with DAG("d", schedule=None, default_args={"on_failure_callback": theirs}):
            fail(declare(default_args={"on_failure_callback": theirs_of_the_group}), ValueError("broken"))

        assert CALLS == ["ours", "group"]

    def test_a_failure_callback_of_a_group_around_fires(self) -> None:
        given: Any = {"on_failure_callback": theirs}
        with DAG("d", schedule=None), TaskGroup("outer", default_args=given):
            fail(declare(), ValueError("broken"))

        assert CALLS == ["ours", "theirs"]

    def test_a_failure_callback_of_the_operator_fires(self) -> None:
        with DAG("d", schedule=None):
            fail(declare(branch=task(on_failure_callback=theirs)(work)), ValueError("broken"))

        assert CALLS == ["ours", "theirs"]

    def test_several_failure_callbacks_fire_in_their_order(self) -> None:
        with DAG("d", schedule=None):
            fail(declare(branch=task(on_failure_callback=[theirs, theirs_of_the_group])(work)), ValueError())

        assert CALLS == ["ours", "theirs", "group"]

    def test_callbacks_of_one_branch_are_not_added_to_the_next(self) -> None:
        shared = [theirs]
        with DAG("d", schedule=None, default_args={"on_failure_callback": shared}):
            operators = list(FanOutGroup("process", branch=work, count=3))

        assert shared == [theirs]
        assert [operator.on_failure_callback for operator in operators] == [
            [recording.record_failure, theirs]
        ] * 3

    def test_a_failure_callback_fires_where_there_is_no_exception(self) -> None:
        with DAG("d", schedule=None, default_args={"on_failure_callback": theirs}):
            fail(declare())

        assert CALLS == ["theirs"]

    def test_a_failure_callback_fires_where_our_record_cannot_be_pushed(self) -> None:
        with DAG("d", schedule=None, default_args={"on_failure_callback": theirs}):
            operator = declare()
        ti = fake_ti()
        ti.xcom_push.side_effect = ConnectionError
        context: Any = {"ti": ti, "task": operator, "exception": ValueError()}

        task_runner._run_task_state_change_callbacks(operator, "on_failure_callback", context, mock.Mock())

        assert CALLS == ["theirs"]

    @pytest.mark.parametrize("where", ["dag", "group", "operator"])
    def test_pre_and_post_execute_run_around_the_work(self, where: str) -> None:
        given: Any = {"pre_execute": theirs_before, "post_execute": theirs_after}
        with DAG("d", schedule=None, default_args=given if where == "dag" else {}):
            run(
                declare(
                    branch=task(**given)(work) if where == "operator" else work,
                    default_args=given if where == "group" else {},
                )
            )

        assert CALLS == ["before", "work", "ours", "after value"]

    def test_an_execute_callback_runs(self) -> None:
        with DAG("d", schedule=None, default_args={"on_execute_callback": theirs}):
            run(declare())

        assert CALLS == ["theirs", "work", "ours"]

    def test_a_post_execute_that_is_a_generator_runs(self) -> None:
        """Airflow exhausts a hook that is a generator function; it may yield ``Metadata`` of an outlet."""
        with DAG("d", schedule=None, default_args={"post_execute": theirs_after_as_a_generator}):
            run(declare())

        assert CALLS == ["work", "ours", "after value"]

    def test_what_the_author_has_given_for_other_ends_stays_alone(self) -> None:
        given = {"on_success_callback": theirs, "on_retry_callback": theirs}
        with DAG("d", schedule=None, default_args=given):
            operator = declare()

        assert operator.on_success_callback == [theirs]
        assert operator.on_retry_callback == [theirs]


@pytest.mark.usefixtures("dag")
def test_every_hook_is_a_module_level_function() -> None:
    operator = declare(default_args={"post_execute": theirs_after})

    for hook in (*operator.on_execute_callback, *operator.on_failure_callback, operator._post_execute_hook):
        assert pickle.loads(pickle.dumps(hook)) is not None


@pytest.mark.usefixtures("dag")
def test_without_an_own_post_execute_ours_stands_alone() -> None:
    """Its source is in the serialized Dag once for each task."""
    assert declare()._post_execute_hook is hooks._after


@pytest.mark.parametrize("name", ["_pre_execute_hook", "_post_execute_hook"])
def test_airflow_keeps_its_hooks_where_they_were(name: str) -> None:
    """There is no public way to add one to a task that has been made."""
    assert name in BaseOperator.__dataclass_fields__
    with DAG("d", schedule=None):
        operator = BaseOperator(task_id="t", pre_execute=theirs_before, post_execute=theirs_after)

    expected = {"_pre_execute_hook": theirs_before, "_post_execute_hook": theirs_after}
    assert getattr(operator, name) is expected[name]


@pytest.mark.usefixtures("dag")
def test_airflow_runs_a_post_execute_hook_that_was_added_later(calls: list[str]) -> None:
    operator = task(work)().operator
    operator._post_execute_hook = theirs_after

    run(operator)

    assert calls == ["work", "after value"]


@pytest.mark.parametrize("name", ["on_execute_callback", "on_failure_callback"])
def test_airflow_keeps_callbacks_as_a_list(name: str) -> None:
    given: Any = {name: theirs}
    with DAG("d", schedule=None):
        operator = BaseOperator(task_id="t", **given)

    assert getattr(operator, name) == [theirs]
