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


MEASURED = {"seconds", "cpu_seconds", "peak_memory_bytes", "cores", "read_bytes", "written_bytes"}


@pytest.mark.usefixtures("dag")
class TestRecordOfASuccess:
    def test_it_holds_state_seconds_memory_and_cores_as_json(self) -> None:
        record = pushed(run(declare()))

        assert (record["state"], record["has_value"]) == ("success", True)
        assert set(record) == {"state", "has_value", *MEASURED}
        assert {type(value) for value in record.values()} <= {str, bool, int, float}
        assert 0 <= record["seconds"] < 10
        assert 0 <= record["cpu_seconds"] < 10
        assert 10**6 < record["peak_memory_bytes"] < 10**11

    @pytest.mark.parametrize(
        ("branch", "has_value"),
        [
            (lambda: 0, True),
            (lambda: "", True),
            (lambda: False, True),
            (lambda: [], True),  # noqa: PIE807 - a class is no branch
            (lambda: {}, True),  # noqa: PIE807
            (lambda: None, False),
            (task(do_xcom_push=False)(work), False),
        ],
        ids=["0", "an empty text", "False", "[]", "{}", "None", "nothing pushed"],
    )
    def test_only_none_is_no_value(self, branch: Any, has_value: bool) -> None:
        assert pushed(run(declare(branch=branch)))["has_value"] is has_value

    def test_seconds_are_those_of_execute_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = iter([100.0, 103.5])
        monkeypatch.setattr("airflow_fanout.execution_time.recording.time.perf_counter", lambda: next(clock))

        assert pushed(run(declare()))["seconds"] == 3.5

    @pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
    def test_cpu_seconds_are_those_of_all_processes_and_memory_that_of_the_largest_in_bytes(
        self, monkeypatch: pytest.MonkeyPatch, platform: str, unit: int
    ) -> None:
        begin = [
            resource.struct_rusage((10.0, 1.0, 5, *[0] * 13)),
            resource.struct_rusage((20.0, 2.0, 9, *[0] * 13)),
        ]
        end = [
            resource.struct_rusage((10.5, 1.25, 5, *[0] * 13)),
            resource.struct_rusage((22.0, 2.5, 9, *[0] * 13)),
        ]
        monkeypatch.setattr(recording, "_usages", mock.Mock(side_effect=[begin, end, end]))
        monkeypatch.setattr("airflow_fanout.execution_time.recording.sys.platform", platform)

        record = pushed(run(declare()))
        assert (record["cpu_seconds"], record["peak_memory_bytes"]) == (0.75 + 2.5, 9 * unit)

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

        hooks.AFTER({"ti": other, "task": operator}, "value")

        assert pushed(other) == {"state": "success", "has_value": True}


class Odd(Exception):  # noqa: N818 - its name is in the expected text
    def __str__(self) -> str:
        return 8  # type: ignore[return-value]  # noqa: PLE0307 - that is the point


@pytest.mark.usefixtures("dag")
class TestRecordOfAFailure:
    @pytest.mark.parametrize(
        ("exception", "error"),
        [
            pytest.param(ValueError("broken"), "ValueError: broken", id="an exception"),
            pytest.param("killed by a signal", "killed by a signal", id="a text in place of one"),
            pytest.param(KeyboardInterrupt(), "KeyboardInterrupt", id="one without a message"),
            pytest.param(
                Odd(), "Odd: (its message can't be read: TypeError)", id="a message that is no text"
            ),
        ],
    )
    def test_it_holds_type_and_message(self, exception: Any, error: str) -> None:
        assert pushed(fail(declare(), exception)) == {"state": "failed", "error": error}

    def test_it_holds_what_was_measured(self) -> None:
        operator = declare()
        ti = fake_ti()
        context: Any = {"ti": ti, "task": operator, "exception": ValueError("broken")}
        recording.on_execute(context)
        recording.record_failure(context)

        assert set(pushed(ti)) == {"state", "error", *MEASURED}

    def test_without_an_exception_nothing_is_pushed(self, calls: list[str]) -> None:
        fail(declare())

        assert calls == []

    @pytest.mark.parametrize("at", [0, ERROR_LENGTH - 20], ids=["at the start", "across the cut"])
    def test_a_secret_is_masked(self, at: int) -> None:
        secret = "swordfish-battery-staple"
        mask_secret(secret)

        error = redacted_error(ValueError("x" * at + secret))

        assert "sword" not in error
        assert "***" in error

    @pytest.mark.parametrize(
        ("length", "end"),
        [
            pytest.param(ERROR_LENGTH - len("ValueError: "), "x", id="just as long as it may be"),
            pytest.param(ERROR_LENGTH - len("ValueError: ") + 1, "x…", id="one more"),
            pytest.param(10_000_000, "x…", id="many megabytes"),
        ],
    )
    def test_it_is_cut_before_and_after_it_is_masked(self, length: int, end: str) -> None:
        with mock.patch("airflow.sdk.log.redact", autospec=True, side_effect=lambda text: text) as masker:
            error = redacted_error(ValueError("x" * length))

        assert (len(error), error[-len(end) :]) == (ERROR_LENGTH, end)
        assert len(masker.call_args.args[0]) <= 100 * ERROR_LENGTH


def declare_at(where: str, **given: Any) -> BaseOperator:
    """A branch whose settings stand in the ``default_args`` of Dag or group, or in its own decorator."""
    levels: dict[str, Any] = {"dag": {}, "outer": {}, "group": {}, where: given}
    with (
        DAG("d", schedule=None, default_args=levels["dag"]),
        TaskGroup("outer", default_args=levels["outer"]),
    ):
        branch = task(**given)(work) if where == "operator" else work
        return declare(branch=branch, default_args=levels["group"])


@pytest.mark.usefixtures("calls")
class TestTheAuthorsOwn:
    @pytest.mark.parametrize("where", ["dag", "outer", "group", "operator"])
    @pytest.mark.parametrize(
        ("callbacks", "called"),
        [(theirs, ["theirs"]), ([theirs, theirs_of_the_group], ["theirs", "group"])],
        ids=["one", "two"],
    )
    def test_failure_callbacks_fire_once_after_ours(
        self, where: str, callbacks: Any, called: list[str]
    ) -> None:
        fail(declare_at(where, on_failure_callback=callbacks), ValueError("broken"))

        assert list(CALLS) == ["ours", *called]

    def test_callbacks_of_one_branch_are_not_added_to_the_next(self) -> None:
        shared = [theirs]
        with DAG("d", schedule=None, default_args={"on_failure_callback": shared}):
            operators = list(FanOutGroup("process", branch=work, count=3))

        callbacks = [getattr(operator, "on_failure_callback", None) for operator in operators]
        assert (shared, callbacks) == ([theirs], [[recording.record_failure, theirs]] * 3)

    @pytest.mark.parametrize("exception", [None, ValueError()], ids=["no exception", "no connection"])
    def test_a_failure_callback_fires_where_we_record_nothing(self, exception: Exception | None) -> None:
        operator = declare_at("dag", on_failure_callback=theirs)
        ti = fake_ti()
        ti.xcom_push.side_effect = ConnectionError
        context: Any = {"ti": ti, "task": operator, **({"exception": exception} if exception else {})}

        task_runner._run_task_state_change_callbacks(operator, "on_failure_callback", context, mock.Mock())

        assert CALLS == ["theirs"]

    @pytest.mark.parametrize("where", ["dag", "group", "operator"])
    @pytest.mark.parametrize(
        "after", [theirs_after, theirs_after_as_a_generator], ids=["a function", "a generator"]
    )
    def test_other_hooks_run_around_the_work_and_ours(self, where: str, after: Any) -> None:
        own: Any = {"on_execute_callback": theirs, "pre_execute": theirs_before, "post_execute": after}
        run(declare_at(where, **own))

        assert CALLS == ["before", "theirs", "work", "ours", "after value"]

    def test_callbacks_for_other_ends_stay_alone(self) -> None:
        names = ("on_success_callback", "on_retry_callback")
        operator = declare_at("dag", **dict.fromkeys(names, theirs))

        assert [getattr(operator, name) for name in names] == [[theirs]] * 2


@pytest.mark.usefixtures("dag")
def test_every_hook_can_be_pickled_and_is_alone_where_the_author_has_none() -> None:
    operator = declare(default_args={"post_execute": theirs_after})

    for hook in (*operator.on_execute_callback, *operator.on_failure_callback, operator._post_execute_hook):
        assert pickle.loads(pickle.dumps(hook)) is not None
    assert declare("other")._post_execute_hook is hooks.AFTER


def test_airflow_keeps_its_hooks_where_they_were(calls: list[str]) -> None:
    """There is no public way to add one to a task that has been made."""
    names = ("on_execute_callback", "on_failure_callback")
    with DAG("d", schedule=None):
        given: Any = {
            "pre_execute": theirs_before,
            "post_execute": theirs_after,
            **dict.fromkeys(names, theirs),
        }
        operator = BaseOperator(task_id="t", **given)
        later = task(work)().operator

    assert (operator._pre_execute_hook, operator._post_execute_hook) == (theirs_before, theirs_after)
    assert [getattr(operator, name) for name in names] == [[theirs]] * 2
    later._post_execute_hook = theirs_after
    run(later)
    assert calls == ["work", "after value"]
