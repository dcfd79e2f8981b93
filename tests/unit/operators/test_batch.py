from __future__ import annotations

import functools
import inspect
import json
import math
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from airflow.providers.common.io.xcom.backend import XComObjectStorageBackend
from airflow.sdk import DAG, BaseOperator, task
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRuntimeError,
    AirflowSkipException,
    AirflowTaskTimeout,
    ErrorType,
)
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse
from airflow.sdk.execution_time.timeout import timeout
from structlog.testing import capture_logs

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import BatchFailedError, FinalBatchFailedError, ItemsError
from airflow_fanout.operators.batch import BatchOperator
from airflow_fanout.reports.branches import group_runs
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE
from tests.unit import run_facts
from tests.unit.fake_batch import batch_operator, run_batch, task_instance
from tests.unit.fake_run import FakeRun, run_fan_in
from tests.unit.fake_store import FakeStore

pytestmark = pytest.mark.usefixtures("dag")

HAS_POLICIES = "retry_policy" in inspect.signature(BaseOperator.__init__).parameters

RAN: list[Any] = []
"""What ran, in order."""


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


FAILURES = {
    "fails": ValueError("broken"),
    "fails for good": AirflowFailException("no use"),
    "is skipped": AirflowSkipException("nothing to do"),
}


def act(fate: Any, ti: Any = None) -> Any:
    RAN.append(fate)
    failure = FAILURES.get(str(fate), ValueError() if fate == "recovers" and ti.try_number == 1 else None)
    if failure is not None:
        raise failure
    if fate == "takes too long":
        time.sleep(10)
    return object() if fate == "can't be stored" else fate


def group_of(*fates: Any, **arguments: Any) -> FanOutGroup:
    return FanOutGroup("acts", **{"branch": act, "items": list(fates), "items_per_task": 100, **arguments})


@task
def list_items() -> list[Any]:
    return []


BYTES = ("peak_memory_bytes", "read_bytes", "written_bytes")


class TestTheReport:
    def test_a_success_pushes_values_by_name_and_then_a_record(self) -> None:
        group = group_of("a", None, "is skipped")
        operator = batch_operator(group, 0, 3)
        assert operator.do_xcom_push
        ran = run_batch(group, operator=operator)

        assert list(ran.pushed) == [RETURN_VALUE, RECORD_KEY]
        assert ran.value is ran.pushed[RETURN_VALUE]  # for a post_execute of the author's
        assert not operator.do_xcom_push
        assert ran.value == {"acts_0": "a", "acts_1": None}
        seconds, cpu = ran.record.pop("seconds"), ran.record.pop("cpu_seconds")
        assert len(seconds) == len(cpu) == 3
        assert sum(seconds) <= ran.record.pop("elapsed") + 1e-4
        assert ran.record.pop("peak_memory_bytes") > 0
        assert ran.record.pop("cores") > 0
        del ran.record["read_bytes"], ran.record["written_bytes"]  # None where no kernel tells
        assert ran.record.pop("task_cpu_seconds") >= sum(cpu) - 1e-2
        assert ran.record == {
            "state": "batch",
            "map_index": 0,
            "start": 0,
            "split": 1,
            "names": None,
            "statuses": "SSK",
            "errors": {"2": "nothing to do"},
            "stopped": None,
            "concurrency": 1,
            "parts": None,
        }

    @pytest.mark.parametrize(
        ("arguments", "concurrency"),
        [
            pytest.param({"item_concurrency": 4}, 4, id="as-declared"),
            pytest.param(
                {"branch": dict.fromkeys("ab", lambda: 1), "items": None}, 2, id="a-mapping-all-at-once"
            ),
        ],
    )
    def test_it_says_how_many_items_could_run_at_once(self, arguments: Any, concurrency: int) -> None:
        assert run_batch(group_of("a", "b", **arguments)).record["concurrency"] == concurrency

    @pytest.mark.parametrize(
        "arguments",
        [{"item_concurrency": 4}, {"branch": dict.fromkeys("ab", lambda: 1), "items": None}],
    )
    def test_in_dag_test_which_answers_one_thread_items_run_one_after_another(
        self, arguments: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_process = type("InProcessSupervisorComms", (), {})()
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", in_process, raising=False)

        with capture_logs() as logged:
            ran = run_batch(group_of("a", "b", **arguments))

        assert (ran.record["statuses"], ran.record["concurrency"]) == ("SS", 1)
        assert "items run one after another" in logged[0]["event"]

    def test_in_dag_test_which_answers_no_other_process_items_run_in_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        in_process = type("InProcessSupervisorComms", (), {})()
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", in_process, raising=False)

        with capture_logs() as logged:
            ran = run_batch(group_of("a", "b", item_executor="process"))

        assert (ran.record["statuses"], RAN) == ("SS", ["a", "b"])
        assert "items run in this one" in logged[0]["event"]

    @pytest.mark.parametrize("comms", ["CommsDecoder", "InProcessSupervisorComms"])
    def test_what_has_no_place_to_run_is_left_to_a_retry(
        self, comms: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", type(comms, (), {})(), raising=False)
        ran = run_batch(group_of("a", "takes too long", "b", item_timeout=0.5), retries=1)

        assert (ran.record["statuses"], ran.pushed[RETURN_VALUE]) == ("SFF", {"acts_0": "a"})
        assert ran.record["errors"] == {
            "1": "ItemTimeoutError: it had not ended after 0.5 s",
            "2": "it was not started, or had not ended, when the task ended: every place was lost to an item "
            "whose time was over, and that could not be stopped",
        }
        assert isinstance(ran.error, BatchFailedError)

    def test_processes_say_what_they_did_as_threads_do(self) -> None:
        fates = ["a", "fails", "is skipped", "fails for good", "can't be stored"]
        in_processes = run_batch(group_of(*fates, item_concurrency=2, item_executor="process"))
        assert RAN == []  # what it appends is its process's
        with DAG("another"):
            in_threads = run_batch(group_of(*fates, item_concurrency=2, item_executor="thread"))

        for ran in (in_threads, in_processes):
            measured = *("seconds", "cpu_seconds", "elapsed", "task_cpu_seconds"), *BYTES
            for name in measured:
                ran.record.pop(name)
        assert in_processes.pushed == in_threads.pushed
        assert str(in_processes.error) == str(in_threads.error)

    def test_the_cpu_time_of_processes_is_the_tasks(self) -> None:
        arguments: Any = {"branch": lambda item: sum(range(item)), "item_executor": "process"}
        record = run_batch(group_of(*[3_000_000] * 4, **arguments)).record

        assert record["task_cpu_seconds"] >= 0.9 * sum(record["cpu_seconds"]) > 0

    @pytest.mark.parametrize("executor", ["thread", "process"])
    def test_the_log_has_tracebacks_of_the_first_failures_alone(
        self, executor: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        run_batch(group_of(*["fails"] * 20, item_concurrency=2, item_executor=executor))
        logged = "".join(capfd.readouterr())

        assert 5 <= logged.count("Traceback (most recent call last)") <= 6

    def test_the_log_says_how_many_items_there_are(self) -> None:
        with capture_logs() as logged:
            run_batch(group_of("a"))

        begun, *_, ended = [entry["event"] for entry in logged]
        assert begun == "1 item to run, 0 done by an earlier try"
        assert ended.startswith("1 of 1 item done, 0 failed")

    def test_names_of_a_mapping_are_recorded_in_its_order(self) -> None:
        ran = run_batch(group_of(items={"b": "B", "a": "A"}))

        assert (ran.record["names"], list(ran.value.items())) == (["b", "a"], [("b", "B"), ("a", "A")])

    def test_a_failed_batch_reports_before_it_fails(self) -> None:
        ran = run_batch(group_of("a", "fails", "b", *["fails for good"] * 9))

        assert isinstance(ran.error, BatchFailedError)
        assert list(ran.pushed) == [RETURN_VALUE, RECORD_KEY]
        assert ran.outcome == ("SFS" + "F" * 9, {"acts_0": "a", "acts_2": "b"})
        assert ran.record["errors"]["1"] == "ValueError: broken"
        assert str(ran.error).startswith("10 of 12 items failed:\n  acts_1: ValueError: broken\n  acts_3: ")
        assert str(ran.error).endswith("\n  and 5 more")

    @pytest.mark.parametrize("backend", [BaseXCom, XComObjectStorageBackend])
    def test_a_value_that_cannot_be_stored_fails_its_item_by_name_on_every_try(
        self, backend: Any, store: FakeStore
    ) -> None:
        unfit = {"b": math.nan, "c": object()}
        group = group_of(*"abcd", branch=lambda item: unfit.get(item, item))
        for try_number in (1, 2):
            with mock.patch("airflow.sdk.execution_time.xcom.XCom", backend):
                ran = run_batch(group, store=store, retries=2, try_number=try_number)

            assert ran.outcome == ("SFFS", {"acts_0": "a", "acts_3": "d"})
            assert "\n  acts_1: NaN can't be stored in an XCom\n  acts_2: a value of type object" in str(
                ran.error
            )

    def test_a_value_that_the_server_refuses_fails_its_item_alone(self) -> None:
        ran = run_batch(group_of(*"abcdef", "unfit"), refuses=lambda values: "unfit" in values.values())

        assert ran.outcome == ("SSSSSSF", {f"acts_{index}": fate for index, fate in enumerate("abcdef")})
        error = "its value can't be stored in an XCom: ConnectionError: refused"
        assert ran.record["errors"] == {"6": error}

    @pytest.mark.parametrize(
        "detail",
        [
            pytest.param({"status_code": 503}, id="the-server"),
            pytest.param({"status_code": None, "exception_type": "ReadTimeout"}, id="the-way-to-it"),
        ],
    )
    def test_a_failure_of_the_server_is_not_searched_for_in_the_values(self, detail: dict[str, Any]) -> None:
        failure = AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))
        ran = run_batch(group_of("a", "b"), refuses=lambda values: failure)

        assert ran.error is failure
        ran.ti.xcom_push.assert_called_once()

    @pytest.mark.parametrize(
        "limit", [pytest.param(-1, id="whatever-they-are"), pytest.param(1, id="for-their-size-together")]
    )
    def test_values_that_are_refused_together_leave_no_record_and_run_no_item_again(
        self, limit: int, store: FakeStore
    ) -> None:
        group = group_of("a", "b")
        first = run_batch(group, store=store, retries=1, refuses=lambda values: len(values) > limit)
        assert isinstance(first.error, ConnectionError)
        assert RECORD_KEY not in first.pushed

        second = run_batch(group, store=store, retries=1, try_number=2)
        assert (RAN, second.value) == (["a", "b"], {"acts_0": "a", "acts_1": "b"})


def flaky(fate: int, ti: Any) -> int:
    """Fail so many times in each try of the task."""
    RAN.append(fate)
    if RAN.count(fate) <= fate * ti.try_number:
        message = f"no {RAN.count(fate)}"
        raise ValueError(message)
    return fate


class TestItemRetries:
    def test_an_item_that_fails_is_tried_again_within_the_task(self) -> None:
        ran = run_batch(group_of(0, 1, 2, branch=flaky, item_retries=1, item_retry_delay=0), retries=1)

        assert isinstance(ran.error, BatchFailedError)
        assert RAN == [0, 1, 1, 2, 2]
        assert ran.outcome == ("SSF", {"acts_0": 0, "acts_1": 1})
        assert (ran.record["errors"], ran.record["tries"]) == ({"2": "ValueError: no 2"}, {"1": 2, "2": 2})

    def test_tries_are_counted_over_all_tries_of_the_task(self, store: FakeStore) -> None:
        group = group_of(0, 1, 3, branch=flaky, item_retries=1, item_retry_delay=0)
        run_batch(group, store=store, retries=1)
        RAN.remove(3)
        RAN.append(3)
        ran = run_batch(group, store=store, retries=1, try_number=2)

        assert RAN.count(0) == 1
        assert ran.record["tries"] == {"1": 2, "2": 4}
        assert store.kept.keys() == {"airflow_fanout_0", "airflow_fanout_1"}

    def test_what_never_started_has_no_tries(self) -> None:
        record = run_batch(group_of("fails", "a", "b", stop_after_failures=1)).record

        assert (record["statuses"], record.get("tries")) == ("FXX", None)

    def test_what_was_tried_once_by_each_task_says_so_too(self, store: FakeStore) -> None:
        group = group_of("a", "recovers")
        run_batch(group, store=store, retries=1)

        assert run_batch(group, store=store, retries=1, try_number=2).record["tries"] == {"1": 2}

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            pytest.param({"default_args": {"retry_delay": timedelta(seconds=20)}}, [20, 20], id="the task's"),
            pytest.param({"item_retry_delay": timedelta(seconds=3)}, [3, 3], id="their-own"),
            pytest.param({"item_retry_delay": 0.25}, [0.25, 0.25], id="in-seconds"),
            pytest.param({"item_retry_delay": 0}, [0, 0], id="none"),
            pytest.param(
                {
                    "item_retry_delay": 100,
                    "default_args": {
                        "retry_exponential_backoff": 10,
                        "max_retry_delay": timedelta(seconds=900),
                    },
                },
                [pytest.approx(150, abs=50), 900],
                id="growing",
            ),
        ],
    )
    def test_it_waits_as_the_task_would(self, arguments: Any, expected: list[Any]) -> None:
        group = group_of("a", item_retries=2, **arguments)
        context = {"ti": task_instance()}
        judge = batch_operator(group, 0, 1)._item_retries(["acts_0"], context)

        assert judge is not None
        assert [judge(0, ValueError(), tries).delay for tries in (1, 2)] == expected

    @pytest.mark.skipif(not HAS_POLICIES, reason="Airflow has retry_policy from 3.3 on")
    def test_the_policy_of_the_task_is_asked_about_each_item(self) -> None:
        from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

        again = RetryRule(ValueError, RetryAction.RETRY, retry_delay=timedelta(0))
        policy = ExceptionRetryPolicy([again, RetryRule(KeyError, RetryAction.FAIL)])

        def call(item: str) -> str:
            RAN.append(item)
            raise KeyError(item) if item == "gone" else ValueError(item)

        group = group_of("a", "gone", branch=call, item_retries=3, default_args={"retry_policy": policy})
        ran = run_batch(group, retries=1)
        assert (RAN.count("a"), RAN.count("gone")) == (4, 1)
        assert isinstance(ran.error, BatchFailedError)
        assert isinstance(run_batch(group, 1, 2, retries=1).error, FinalBatchFailedError)

    def test_what_waits_for_another_try_keeps_its_error_when_the_task_ends(self) -> None:
        group = group_of("a", "fails", item_retries=1, item_retry_delay=3600)
        operator = batch_operator(group, 0, 2)
        killing = threading.Timer(0.5, operator.on_kill)
        killing.start()
        ran = run_batch(group, operator=operator)

        assert ran.outcome == ("SF", {"acts_0": "a"})
        error = ran.record["errors"]["1"]
        assert error.startswith("ValueError: broken; it was not started, or had not ended, when the task")


class TestTheRate:
    @pytest.mark.parametrize(
        ("arguments", "share"),
        [
            pytest.param({}, None, id="none"),
            pytest.param({"items_per_second": 6}, 6, id="one-task"),
            pytest.param({"items_per_second": 6, "items_per_task": 1, "max_concurrency": 2}, 3, id="two"),
            pytest.param({"items_per_second": 6, "items_per_task": 1, "max_concurrency": 9}, 2, id="all"),
            pytest.param({"items_per_second": 6, "max_concurrency": 9}, 6, id="one-of-one"),
        ],
    )
    def test_each_task_has_its_share(self, arguments: Any, share: float | None) -> None:
        operator = batch_operator(group_of("a", "b", "c", **arguments), 0, 1)

        assert operator._share_of_rate(task_instance()) == share

    @pytest.mark.parametrize(
        ("cuts", "share"),
        [
            pytest.param([[0, 2, 1], [2, 4, 1], [4, 5, 1]], 4, id="fewer than may run"),
            pytest.param([[n, n + 1, 1] for n in range(9)], 3, id="more than may run"),
            pytest.param("no cuts", 3, id="not known"),
            pytest.param(FileNotFoundError(), 3, id="no longer stored"),
        ],
    )
    def test_the_tasks_are_counted_where_only_the_run_knows_them(self, cuts: Any, share: float) -> None:
        group = group_of(items=list_items(), items_per_task=2, items_per_second=12, max_concurrency=4)
        run = FakeRun().add("acts.split", value=cuts)
        operator = batch_operator(group, 0, 2)
        with mock.patch("airflow_fanout.operators.batch.RunReader", return_value=run.reader()):
            assert operator._share_of_rate(task_instance()) == share

    def test_waiting_for_it_is_recorded(self) -> None:
        with capture_logs() as logged:
            ran = run_batch(
                group_of("a", "b", "c", items_per_task=2, max_concurrency=2, items_per_second=80), 0, 2
            )

        assert 0 < ran.record["rate_wait_seconds"] <= ran.record["elapsed"]
        assert ran.record["idle_seconds"] <= ran.record["rate_wait_seconds"] + 1e-6
        assert logged[0]["event"] == "At most 40 items a second start here: 80 in 2 tasks"

    def test_a_timeout_ends_the_waiting_and_keeps_what_was_done(self, store: FakeStore) -> None:
        group = group_of("a", "b", items_per_second=2)
        with timeout(0.7):  # type: ignore[no-untyped-call]
            ran = run_batch(group, store=store, retries=1)

        assert isinstance(ran.error, AirflowTaskTimeout)
        assert ran.outcome == ("SF", {"acts_0": "a"})
        assert (len(store.kept), RAN) == (1, ["a"])


class TestTheEndOfTheTask:
    def test_a_timeout_keeps_what_was_done(self, store: FakeStore) -> None:
        group = group_of("a", "can't be stored", "fails for good", "takes too long", "b")
        with timeout(0.3):  # type: ignore[no-untyped-call]
            ran = run_batch(group, store=store, retries=1)

        assert isinstance(ran.error, AirflowTaskTimeout)
        assert ran.outcome == ("SFFFF", {"acts_0": "a"})
        assert ran.record["errors"]["4"].endswith("when the task ended: AirflowTaskTimeout")
        assert getattr(ran.error, "fan_out_recorded", False)
        RAN.clear()
        with timeout(0.3):  # type: ignore[no-untyped-call]
            run_batch(group, store=store, retries=1, try_number=2)
        assert RAN == ["can't be stored", "takes too long"]

    def test_a_timeout_after_the_report_cuts_nothing_short(self) -> None:
        class Store(FakeStore):
            def set(self, key: str, value: Any) -> None:
                time.sleep(0.2)

        with timeout(0.1):  # type: ignore[no-untyped-call]
            ran = run_batch(group_of("fails", "fails for good"), store=Store(), retries=1)

        assert isinstance(ran.error, BatchFailedError)

    @pytest.mark.parametrize(
        ("hangs", "comms", "exits"),
        [
            pytest.param("item", "CommsDecoder", True, id="an-item"),
            pytest.param("item", "InProcessSupervisorComms", False, id="an-item-in-dag-test"),
            pytest.param("saving", "CommsDecoder", True, id="saving"),
            pytest.param("reporting", "CommsDecoder", True, id="reporting"),
        ],
    )
    def test_a_process_that_cannot_be_interrupted_reports_and_ends(
        self, hangs: str, comms: str, exits: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given_up = threading.Event()

        def hang(what: str) -> bool:
            end = time.monotonic() + (10 if exits else 0.5)
            while hangs == what and time.monotonic() < end and not given_up.is_set():
                with suppress(AirflowTaskTimeout):
                    given_up.wait(0.5)
            return False

        class Store(FakeStore):
            def set(self, key: str, value: Any) -> None:
                hang("saving")

        def branch(item: str) -> None:
            hang("item")
            if item == "b":
                time.sleep(10)

        monkeypatch.setattr("airflow_fanout.execution_time.batch.RINGS", (0.02, 0.02))
        monkeypatch.setattr("airflow_fanout.execution_time.batch.GIVE_UP_AFTER", 0.02)
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", type(comms, (), {})(), raising=False)
        with mock.patch("os._exit", side_effect=lambda code: given_up.set()) as end, timeout(0.5):  # type: ignore[no-untyped-call]
            ran = run_batch(
                group_of("a", "b", branch=branch), store=Store(), refuses=lambda values: hang("reporting")
            )

        assert end.mock_calls == [mock.call(1)] * exits
        assert ran.record["errors"]["1"].endswith("when the task ended: AirflowTaskTimeout")

    def test_when_it_is_killed_no_further_item_starts_and_what_is_done_is_kept(
        self, store: FakeStore
    ) -> None:
        def call(item: str) -> str:
            RAN.append(item)
            if item == "b":
                operator.on_kill()
            return item

        group = group_of("a", "b", "c", branch=call)
        operator = batch_operator(group, 0, 3)
        ran = run_batch(group, operator=operator, store=store)

        assert RAN == ["a", "b"]
        assert ran.outcome == ("SFF", {"acts_0": "a"})
        assert "had not ended" in ran.record["errors"]["2"]
        assert len(store.kept) == 1

    @pytest.mark.parametrize(
        ("retries", "expected"),
        [
            pytest.param(0, ("SFF", "the process of its batch ended before it had reported"), id="last-try"),
            pytest.param(1, None, id="a-retry-knows-what-was-saved"),
        ],
    )
    def test_what_was_done_is_reported_before_the_end(
        self, retries: int, expected: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reports: list[Any] = []

        def call(item: str, ti: Any) -> str:
            end = time.monotonic() + (0.1 if expected is None else 5)
            pushes = ti.xcom_push.call_args_list
            begun = len(pushes) + len(pushes) % 2  # a report before this item, or in the midst of its begin
            while item == "b" and not reports and time.monotonic() < end:
                reports[:] = [call.args for call in pushes[begun:][:2]] if len(pushes) > begun + 1 else []
                time.sleep(0.01)
            return item

        monkeypatch.setattr("airflow_fanout.execution_time.checkpoints.CHECKPOINT_EVERY", 0.01)
        ran = run_batch(group_of("a", "b", "c", branch=call), retries=retries)

        assert ran.outcome == ("SSS", {"acts_0": "a", "acts_1": "b", "acts_2": "c"})
        if expected is not None:
            (_, values), (_, record) = reports
            assert values == {"acts_0": "a"}
            assert (record["statuses"], record["errors"]["1"]) == expected
        assert bool(reports) == (expected is not None)

    def test_it_may_be_killed_before_anything_runs(self) -> None:
        batch_operator(group_of("a"), 0, 1).on_kill()


class TestALastTryThatIsKilled:
    @pytest.mark.parametrize("concurrency", [1, 4])
    def test_after_any_push_what_was_told_has_its_value_for_the_fan_in_and_the_report(
        self, concurrency: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_fanout.execution_time.checkpoints.CHECKPOINT_EVERY", 0.001)

        def wait(item: int) -> int:
            time.sleep(0.004)
            if item % 9 == 5:
                raise ValueError(item)
            return -item

        group = group_of(*range(60), branch=wait, item_concurrency=concurrency)
        fan_in = FanInOperator(task_id="combine", fan_out=group, min_success=0)
        history = run_batch(group).history
        told = set[int]()
        for kill in range(len(history) + 1):
            xcoms = dict(history[:kill])
            run = FakeRun().add("acts.split", value=[[0, 60, 1]])
            run.add("acts.each", "failed", map_index=0)
            run.xcoms |= {("acts.each", 0, key): value for key, value in xcoms.items()}
            record = xcoms.get(RECORD_KEY, {"statuses": ""})
            values = {f"acts_{i}": -i for i, status in enumerate(record["statuses"]) if status == "S"}

            did = run_fan_in(fan_in, run)
            states: Any = dict.fromkeys(xcoms, "present")
            task_run = run_facts.ran("acts.each", 0, "failed")
            task_run = replace(task_run, record=xcoms.get(RECORD_KEY), values=states)
            facts = run_facts.facts_of([task_run], group.declared, bounds={"acts.split": [(0, 60, 1)]})
            (shown,) = group_runs(facts)

            assert did.value == values
            assert {item.name for item in shown.branches if item.state == "success"} == set(values)
            assert did.requests <= 4 + 2 + (record.get("parts") or 0)
            told.add(len(values))
        assert len(told) > 10
        assert [value for key, value in history if key == "fan_out_values_0"][-1] is None

    def test_values_are_pushed_a_small_number_of_times(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("airflow_fanout.execution_time.checkpoints.CHECKPOINT_EVERY", 0.001)

        def wait(item: int) -> str:
            time.sleep(0.002)
            return "x" * 10_000

        history = run_batch(group_of(*range(200), branch=wait)).history

        pushed = sum(len(json.dumps(value)) for key, value in history if key != RECORD_KEY)
        assert len(history) > 100
        assert pushed < 200 * 10_100 * (1 + 1 + math.log(200, 8))


class TestItems:
    def test_a_count_gives_indexes(self) -> None:
        def number(index: int, base: int = 0) -> int:
            return base + index

        group = group_of(branch=number, items=None, count=5, partial={"base": 10})
        assert run_batch(group, 3).value == {"acts_3": 13, "acts_4": 14}

    def test_items_of_the_dag_file_are_rendered_and_one_that_cannot_be_fails_alone(self) -> None:
        group = group_of("{{ ds }}", ["{{ ds }}"], "{plain}", "{{ nothing.there }}", "{% bad")
        ran = run_batch(group, context={"ds": "2024-01-02"})

        values = {"acts_0": "2024-01-02", "acts_1": ["2024-01-02"], "acts_2": "{plain}"}
        assert ran.outcome == ("SSSFF", values)
        assert "TemplateSyntaxError" in ran.record["errors"]["4"]

    @pytest.mark.parametrize("is_mapped", [False, True], ids=["literal", "made-by-map"])
    def test_an_item_has_its_own_copy_of_what_items_share(self, is_mapped: bool) -> None:
        def call(item: dict[str, Any]) -> Any:
            item["shared"]["tags"].append(item["id"])
            return item["shared"]["tags"]

        shared: dict[str, list[int]] = {"tags": []}
        payload = {"names": None, "items": [0, 1]}
        made = list_items().map(lambda number: {"id": number, "shared": shared})
        items: Any = made if is_mapped else [{"id": number, "shared": shared} for number in range(2)]

        ran = run_batch(group_of(branch=call, items=items), 0, 2, payload=payload)
        assert ran.value == {"acts_0": [0], "acts_1": [1]}
        assert shared == {"tags": []}

    def test_items_that_cannot_be_copied_are_shared(self) -> None:
        lock = threading.Lock()
        items = [{"lock": lock}, {"lock": lock}]

        ran = run_batch(group_of(branch=lambda item: item["lock"] is lock, items=items))
        assert ran.value == {"acts_0": True, "acts_1": True}

    @pytest.mark.parametrize(
        ("names", "labels"),
        [
            pytest.param(["x", "y"], ["x", "y"], id="named"),
            pytest.param(None, ["acts_2", "acts_3"], id="numbered"),
        ],
    )
    def test_items_of_run_time_come_batch_by_batch(self, names: list[str] | None, labels: list[str]) -> None:
        group, payload = group_of(items=list_items()), {"names": names, "items": ["X", "Y"]}
        ran = run_batch(group, 2, 4, map_index=1, payload=payload)

        assert ran.value == dict(zip(labels, ["X", "Y"], strict=True))
        assert (ran.record["names"], ran.record["map_index"], ran.record["start"]) == (names, 1, 2)
        ran.ti.xcom_pull.assert_called_once_with(task_ids="acts.split", key="batch_1", map_indexes=-1)

    def test_a_map_makes_each_item_on_its_own(self) -> None:
        items = list_items().map(lambda item: act(item) if item == "is skipped" else 8 / item).map(int)
        payload = {"names": None, "items": [2, "is skipped", 0, 4]}
        ran = run_batch(group_of(items=items), 0, 4, payload=payload)

        assert ran.outcome == ("SKFS", {"acts_0": 4, "acts_3": 2})
        assert ran.record["errors"] == {"1": "nothing to do", "2": "ZeroDivisionError: division by zero"}

    @pytest.mark.parametrize(
        "payload", [None, FileNotFoundError("s3://gone")], ids=["deleted", "its-artifact-is-gone"]
    )
    def test_items_that_are_gone_fail_the_batch_with_the_way_out(self, payload: Any) -> None:
        ran = run_batch(group_of(items=list_items()), 0, 2, payload=payload)

        assert isinstance(ran.error, ItemsError)
        assert str(ran.error) == "the items of batch 0 are no longer stored; clear 'acts.split'"


class TestArguments:
    def test_a_function_is_given_context_bound_arguments_and_its_item(self) -> None:
        def call(ds: str, first: str, item: str, last: str = "d", **context: Any) -> list[Any]:
            return [ds, first, item, last, context["more"], "ti" in context]

        group = group_of("c", branch=call, partial={"first": "b", "more": "e"})
        assert run_batch(group, context={"ds": "a"}).value == {"acts_0": [*"abcde", True]}

    def test_each_item_has_its_own_copy_of_what_is_bound_if_it_can_be_copied(self) -> None:
        def call(item: str, base: list[str], lock: Any) -> list[Any]:
            base.append(item)
            return [*base, lock is shared]

        shared = threading.Lock()
        group: Any = group_of("a", "b", branch=call, partial={"base": [], "lock": None})
        operator = batch_operator(group, 0, 2)
        operator.op_kwargs = {"": {"base": ["x"], "lock": shared}}

        values = run_batch(group, operator=operator).value
        assert values == {"acts_0": ["x", "a", True], "acts_1": ["x", "b", True]}

    def test_a_list_of_functions_is_a_pipe_with_copies_of_what_later_ones_bind(self) -> None:
        def gather(item: str, gathered: list[str], lock: Any) -> list[str]:
            with lock:
                gathered.append(item)
            return gathered

        later = functools.partial(gather, gathered=["x"], lock=threading.Lock())
        group = group_of("a", "b", branch=[lambda text: text.upper(), later], item_concurrency=2)

        assert run_batch(group).value == {"acts_0": ["x", "A"], "acts_1": ["x", "B"]}


class TestARetry:
    def test_it_runs_only_what_has_failed_and_a_success_leaves_nothing_behind(self, store: FakeStore) -> None:
        group = group_of("a", "recovers", "is skipped")
        run_batch(group, store=store, retries=1)
        RAN.clear()
        ran = run_batch(group, store=store, retries=1, try_number=2)

        assert (RAN, store.kept) == (["recovers"], {})
        assert ran.outcome == ("SSK", {"acts_0": "a", "acts_1": "recovers"})

    def test_a_post_execute_that_fails_repeats_nothing(self, store: FakeStore) -> None:
        callbacks = {
            "post_execute": mock.Mock(side_effect=[KeyError("no"), None]),
            "on_success_callback": lambda context: RAN.append("success"),
        }
        group = group_of("a", "b", default_args=callbacks)
        first = run_batch(group, store=store, retries=1)
        assert isinstance(first.error, KeyError)

        second = run_batch(group, store=store, retries=1, try_number=2)
        assert (RAN, second.value) == (["a", "b", "success"], {"acts_0": "a", "acts_1": "b"})
        assert store.kept == {}

    def test_what_failed_for_good_runs_again_only_by_hand(self, store: FakeStore) -> None:
        group = group_of("a", "recovers", "fails for good")
        run_batch(group, store=store, retries=1)
        RAN.clear()
        ran = run_batch(group, store=store, retries=1, try_number=2)

        assert RAN == ["recovers"]
        assert ran.record["errors"] == {"2": "AirflowFailException: no use"}
        assert isinstance(ran.error, FinalBatchFailedError)
        RAN.clear()
        run_batch(group, store=store, retries=3, try_number=3)
        assert RAN == ["fails for good"]

    def test_after_a_kill_it_knows_what_was_saved(self, store: FakeStore) -> None:
        group = group_of("a", "recovers", "fails for good")
        with mock.patch.object(BatchOperator, "_report", autospec=True, side_effect=SystemExit):
            run_batch(group, store=store, retries=1)
        RAN.clear()
        run_batch(group, store=store, retries=1, try_number=2)

        assert RAN == ["recovers"]

    def test_after_another_split_it_runs_all_items_again(self, store: FakeStore) -> None:
        """What they stand for may have changed with them."""
        group = group_of("a", "fails")
        for split in (1, 1, 2):
            run_batch(group, store=store, split=split)

        assert RAN == ["a", "fails", "fails", "a", "fails"]

    def test_another_argument_runs_all_items_again(self, store: FakeStore) -> None:
        def call(item: str, base: str) -> str:
            return str(act(f"{base}{item}" if item == "a" else item))

        group = group_of("a", "fails", branch=call, partial={"base": "old "})
        run_batch(group, store=store)
        operator = batch_operator(group, 0, 2)
        operator.op_kwargs = {"": {"base": "new "}}
        RAN.clear()
        ran = run_batch(group, store=store, try_number=2, operator=operator)

        assert (RAN, ran.outcome) == (["new a", "fails"], ("SF", {"acts_0": "new a"}))

    @pytest.mark.parametrize(("items", "made"), [(["a", 1, 2.5, None, True], 1), ([{}, "a", [1]], 3)])
    def test_what_tells_items_apart_is_made_when_needed_of_those_that_no_function_can_change(
        self, store: FakeStore, items: list[Any], made: int
    ) -> None:
        """Of numbers and texts it would take longer than the items themselves."""
        group = FanOutGroup("g", branch=lambda item: item, items=items, items_per_task=9)
        with mock.patch("airflow_fanout.operators.batch.fingerprint", return_value="known") as fingerprint:
            assert run_batch(group, store=store).error is None

        assert fingerprint.call_count == made  # one of the bound arguments, and one of each dict and list

    def test_an_item_that_its_function_has_changed_is_known_again(self, store: FakeStore) -> None:
        def call(item: dict[str, Any]) -> str:
            return str(act(item.pop("fate")))

        group = group_of(branch=call, items=list_items())
        for try_number in (1, 2):
            items = [{"fate": "a"}, {"fate": "fails"}]
            payload = {"names": None, "items": items}
            run_batch(group, 0, 2, store=store, try_number=try_number, payload=payload)

        assert RAN == ["a", "fails", "fails"]

    def test_without_a_store_it_runs_all_and_says_so(self) -> None:
        with capture_logs() as logs:
            run_batch(group_of("a"), try_number=2)

        assert RAN == ["a"]
        assert any("all items run again" in entry["event"] for entry in logs)


def record_of(states: str) -> dict[str, Any]:
    nothing: list[None] = [None] * len(states)
    whole = {"start": 0, "errors": {}, "seconds": nothing, "cpu_seconds": nothing}
    return {"state": "batch", "map_index": 1, "statuses": states, **whole}


class TestStopping:
    @pytest.mark.parametrize(
        ("others", "of_instance", "states"),
        [
            pytest.param(
                FakeRun().add("acts.each", "failed", map_index=1, record=record_of("SF")),
                {},
                "SFXXX",
                id="failures-of-batches-that-have-ended-count",
            ),
            pytest.param(
                FakeRun()
                .add("acts.each", "failed", map_index=1)
                .add("acts.split", value=[[0, 3, 1], [3, 5, 1]]),
                {},
                "XXXXX",
                id="batches-that-died-count-with-all-their-items",
            ),
            pytest.param(
                FakeRun().add("acts.each", "success", map_index=1, record=record_of("FF")),
                {},
                "SFFXX",
                id="what-was-marked-success-by-hand-does-not-count",
            ),
            pytest.param(
                FakeRun().add("acts.each", "failed", map_index=1, record=record_of("FF")),
                {"try_number": 2},
                "SFFSS",
                id="a-retry-is-not-stopped",
            ),
            pytest.param(FakeRun(), {"retries": 1}, "SFFSS", id="failures-that-are-retried-do-not-count"),
        ],
    )
    def test_no_item_starts_after_so_many_failures(
        self, others: FakeRun, of_instance: Any, states: str
    ) -> None:
        group = group_of("a", "fails", "fails", "b", "c", stop_after_failures=2)
        ran = run_batch(group, run=others, **of_instance)

        reason = "not started: 2 or more items of 'acts' have failed (stop_after_failures=2)"
        assert (ran.record["statuses"], len(RAN)) == (states, 5 - states.count("X"))
        assert ran.record["stopped"] == (reason if "X" in states else None)
        assert (ran.error is None) == ("F" not in states)
