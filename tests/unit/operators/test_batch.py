from __future__ import annotations

import asyncio
import functools
import threading
import time
from typing import Any
from unittest import mock

import pytest
from airflow.sdk import task
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from structlog.testing import capture_logs

from airflow_fanout import FanOutGroup
from airflow_fanout.exceptions import BatchFailedError, FinalBatchFailedError, ItemsError
from airflow_fanout.execution_time.batch import Batch
from airflow_fanout.execution_time.checkpoints import FINAL_KEY, Checkpoints
from airflow_fanout.operators.batch import CHECKPOINT_EVERY, BatchOperator, _Watch
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE
from tests.unit.fake_batch import batch_operator, run_batch
from tests.unit.fake_run import FakeRun
from tests.unit.fake_store import FakeStore

pytestmark = pytest.mark.usefixtures("dag")

RAN: list[Any] = []


@pytest.fixture(autouse=True)
def ran() -> list[Any]:
    """What ran, in order."""
    RAN.clear()
    return RAN


@pytest.fixture
def killed_at_its_end() -> Any:
    """Let a batch end when its items have, and were saved, without a word more."""

    def die(operator: Any, *_: Any, **__: Any) -> None:
        operator._watch.save()
        raise SystemExit

    return mock.patch.multiple(BatchOperator, _report=die, _keep=mock.create_autospec(BatchOperator._keep))


def act(fate: Any, ti: Any = None) -> Any:
    RAN.append(fate)
    match fate:
        case "fails":
            message = "broken"
            raise ValueError(message)
        case "recovers" if ti.try_number == 1:
            message = "not yet"
            raise ValueError(message)
        case "fails for good":
            message = "no use"
            raise AirflowFailException(message)
        case "is skipped":
            message = "nothing to do"
            raise AirflowSkipException(message)
        case "can't be stored":
            return object()
        case "takes too long":
            time.sleep(10)
        case "has a timeout of its own":
            message = "its own"
            raise AirflowTaskTimeout(message)
    return fate


def group_of(*fates: Any, **arguments: Any) -> FanOutGroup:
    given = {"branch": act, "items": list(fates), "items_per_task": 100}
    return FanOutGroup("acts", **{**given, **arguments})


@task
def list_items() -> list[Any]:
    return []


class TestWhatItReports:
    def test_a_success_pushes_values_by_name_and_then_a_record(self) -> None:
        ran = run_batch(group_of("a", None, "is skipped"))

        assert list(ran.pushed) == [RETURN_VALUE, RECORD_KEY]
        assert ran.pushed[RETURN_VALUE] == {"acts_0": "a", "acts_1": None}
        seconds, cpu = ran.record.pop("seconds"), ran.record.pop("cpu_seconds")
        assert len(seconds) == len(cpu) == 3
        assert ran.record.pop("peak_memory_bytes") > 0
        assert sum(seconds) <= ran.record.pop("elapsed") + 1e-4
        assert ran.record.pop("cores") > 0
        assert ran.record == {
            "state": "batch",
            "map_index": 0,
            "start": 0,
            "names": None,
            "statuses": "SSK",
            "errors": {"2": "nothing to do"},
            "stopped": None,
            "concurrency": 1,
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
    def test_it_says_how_many_items_could_run_at_once(
        self, arguments: dict[str, Any], concurrency: int
    ) -> None:
        assert run_batch(group_of("a", "b", **arguments)).record["concurrency"] == concurrency

    @pytest.mark.parametrize(
        ("items", "said"),
        [
            ("a", ("1 item to run, 0 done by an earlier try", "1 of 1 item done, 0 failed")),
            ("ab", ("2 items to run, 0 done by an earlier try", "2 of 2 items done, 0 failed")),
        ],
        ids=["one", "two"],
    )
    def test_the_log_says_how_many_items(self, items: str, said: tuple[str, str]) -> None:
        with capture_logs() as logged:
            run_batch(group_of(*items))

        begun, *_, ended = [entry["event"] for entry in logged]
        assert begun == said[0]
        assert ended.startswith(said[1])

    def test_places_are_those_of_the_batch(self) -> None:
        ran = run_batch(group_of(*"abcdef"), 4, 6, map_index=2)

        assert ran.value == {"acts_4": "e", "acts_5": "f"}
        assert (ran.record["map_index"], ran.record["start"]) == (2, 4)

    def test_what_it_has_pushed_is_returned_and_not_pushed_again(self) -> None:
        """A ``post_execute`` of the author's is given what the task returned."""
        group = group_of("a")
        operator = batch_operator(group, 0, 1)

        assert operator.do_xcom_push
        ran = run_batch(group, operator=operator)
        assert ran.value is ran.pushed[RETURN_VALUE]
        assert not operator.do_xcom_push

    def test_values_that_are_refused_leave_no_record_and_run_no_item_again(self) -> None:
        store, group = FakeStore(), group_of("a", "b")
        refused = ConnectionError("too large")
        first = run_batch(group, store=store, retries=1, refuses={RETURN_VALUE: refused})

        assert (first.error, first.pushed) == (refused, {})
        RAN.clear()
        second = run_batch(group, store=store, retries=1, try_number=2)
        assert (RAN, second.values) == ([], {"acts_0": "a", "acts_1": "b"})

    def test_a_failed_batch_pushes_values_and_record_before_it_fails(self) -> None:
        ran = run_batch(group_of("a", "fails", "b"))

        assert isinstance(ran.error, BatchFailedError)
        assert list(ran.pushed) == [RETURN_VALUE, RECORD_KEY]
        assert (ran.states, ran.values) == ("SFS", {"acts_0": "a", "acts_2": "b"})
        assert ran.record["errors"] == {"1": "ValueError: broken"}
        assert "1 of 3 items failed:\n  acts_1: ValueError: broken" in ran.message

    def test_the_error_shows_a_few(self) -> None:
        assert run_batch(group_of(*["fails"] * 9)).message.endswith("and 4 more")

    def test_only_final_failures_are_not_retried(self) -> None:
        assert isinstance(run_batch(group_of("a", "fails for good")).error, FinalBatchFailedError)

    def test_one_that_may_recover_is(self) -> None:
        assert isinstance(run_batch(group_of("fails", "fails for good")).error, BatchFailedError)

    def test_a_value_that_cannot_be_stored_fails_its_item_by_name(self) -> None:
        ran = run_batch(group_of("a", "can't be stored", "b"))

        assert (ran.states, ran.values) == ("SFS", {"acts_0": "a", "acts_2": "b"})
        assert "acts_1: its value can't be stored: TypeError" in ran.message

    def test_a_timeout_of_an_item_is_that_items_failure(self) -> None:
        group = group_of("a", "has a timeout of its own", "b")
        with timeout(10):  # type: ignore[no-untyped-call]
            ran = run_batch(group)

        assert isinstance(ran.error, BatchFailedError)
        assert (ran.states, ran.record["errors"]) == ("SFS", {"1": "AirflowTaskTimeout: its own"})

    def test_a_timeout_keeps_what_was_done(self) -> None:
        store = FakeStore()
        group = group_of("a", "can't be stored", "fails for good", "takes too long", "b")
        with timeout(0.3):  # type: ignore[no-untyped-call]
            ran = run_batch(group, store=store, retries=1)

        assert isinstance(ran.error, AirflowTaskTimeout)
        assert (ran.states, ran.values) == ("SFFFF", {"acts_0": "a"})
        assert ran.record["errors"]["4"].endswith("when the task ended: AirflowTaskTimeout")
        assert getattr(ran.error, "fan_out_recorded", False)
        assert f"{FINAL_KEY}_0" in store.kept
        assert len(Checkpoints(store, str, mock.Mock(), retried=True).load()) == 2

    def test_names_of_a_mapping_are_recorded(self) -> None:
        ran = run_batch(group_of(items={"b": "B", "a": "A"}))

        assert ran.record["names"] == ["b", "a"]
        assert list(ran.value.items()) == [("b", "B"), ("a", "A")]


class TestItems:
    def test_of_a_count_are_places(self) -> None:
        def number(index: int, base: int = 0) -> int:
            return base + index

        assert run_batch(group_of(branch=number, items=None, count=5, partial={"base": 10}), 3).value == {
            "acts_3": 13,
            "acts_4": 14,
        }

    def test_of_the_dag_file_are_rendered(self) -> None:
        ran = run_batch(group_of("{{ ds }}", ["{{ ds }}"], "{plain}"), context={"ds": "2024-01-02"})

        assert list(ran.value.values()) == ["2024-01-02", ["2024-01-02"], "{plain}"]

    def test_one_that_cannot_be_rendered_fails_alone(self) -> None:
        ran = run_batch(group_of("a", "{{ nothing.there }}", "{% bad"), context={"ds": "2024-01-02"})

        assert (ran.states, ran.values) == ("SFF", {"acts_0": "a"})
        assert "TemplateSyntaxError" in ran.record["errors"]["2"]

    def test_of_run_time_come_by_batch(self) -> None:
        group = group_of(items=list_items())
        ran = run_batch(group, 2, 4, map_index=1, payload={"names": ["x", "y"], "items": ["X", "Y"]})

        assert ran.value == {"x": "X", "y": "Y"}
        ran.ti.xcom_pull.assert_called_once_with(task_ids="acts.split", key="batch_1", map_indexes=-1)

    def test_of_run_time_in_a_list_are_numbered(self) -> None:
        ran = run_batch(group_of(items=list_items()), 2, 4, payload={"names": None, "items": ["X", "Y"]})

        assert ran.value == {"acts_2": "X", "acts_3": "Y"}
        assert ran.record["names"] is None

    def test_a_map_is_applied_to_each_on_its_own(self) -> None:
        def halve(number: int) -> float:
            if number == 0:
                message = "zero"
                raise AirflowSkipException(message)
            return 8 / (number - 1)

        items = list_items().map(halve).map(int)
        ran = run_batch(group_of(items=items), 0, 4, payload={"names": None, "items": [3, 0, 1, 5]})

        assert (ran.states, ran.values) == ("SKFS", {"acts_0": 4, "acts_3": 2})
        assert ran.record["errors"] == {"1": "zero", "2": "ZeroDivisionError: division by zero"}

    @pytest.mark.parametrize(
        "payload", [None, FileNotFoundError("s3://gone")], ids=["deleted", "its artifact"]
    )
    def test_that_are_gone_are_said_to_be(self, payload: Any) -> None:
        ran = run_batch(group_of(items=list_items()), 0, 2, payload=payload)

        assert isinstance(ran.error, ItemsError)
        assert ran.message == "the items of batch 0 are no longer stored; clear 'acts.split'"


class TestWhatAFunctionIsGiven:
    def test_an_item_goes_to_the_first_free_parameter(self) -> None:
        def call(ds: str, first: str, item: str, last: str = "d") -> list[str]:
            return [ds, first, item, last]

        group = group_of("c", branch=call, partial={"first": "b"})
        assert run_batch(group, context={"ds": "a"}).value == {"acts_0": ["a", "b", "c", "d"]}

    def test_an_item_may_be_given_by_position(self) -> None:
        def call(*items: str, ds: str = "") -> list[Any]:
            return [items[0], ds]

        assert run_batch(group_of("a", branch=call), context={"ds": "b"}).value == {"acts_0": ["a", "b"]}

    def test_kwargs_take_the_whole_context(self) -> None:
        def call(item: str, **context: Any) -> list[Any]:
            return [item, context["ds"], context["try_number_of"], "ti" in context]

        group = group_of("a", branch=call, partial={"try_number_of": 1})
        assert run_batch(group, context={"ds": "b"}).value == {"acts_0": ["a", "b", 1, True]}

    def test_each_item_has_its_own_copy_of_what_is_bound(self) -> None:
        def call(item: str, base: list[str]) -> list[str]:
            base.append(item)
            return base

        group = group_of("a", "b", branch=call, partial={"base": ["x"]})
        assert run_batch(group).value == {"acts_0": ["x", "a"], "acts_1": ["x", "b"]}

    def test_what_cannot_be_copied_is_for_all(self) -> None:
        def call(item: str, lock: Any) -> bool:
            with lock:
                return lock is shared

        shared = threading.Lock()
        operator = batch_operator(group_of("a", "b", branch=call, partial={"lock": None}), 0, 2)
        operator.op_kwargs = {"": {"lock": shared}}
        group: Any = operator.task_group

        assert run_batch(group, operator=operator).value == {"acts_0": True, "acts_1": True}

    def test_a_list_of_functions_is_a_pipe(self) -> None:
        group = group_of("a", "b", branch=[_upper, functools.partial(_add, what="!")])

        assert run_batch(group).value == {"acts_0": "A!", "acts_1": "B!"}

    def test_each_item_has_its_own_copy_of_what_a_later_function_of_a_list_binds(self) -> None:
        def gather(item: str, found: list[str], lock: Any) -> list[str]:
            with lock:
                found.append(item)
            return found

        later = functools.partial(gather, found=["x"], lock=threading.Lock())
        group = group_of("a", "b", branch=[_upper, later], item_concurrency=2)

        assert run_batch(group).value == {"acts_0": ["x", "A"], "acts_1": ["x", "B"]}

    def test_a_mapping_of_functions_runs_each_with_its_own(self) -> None:
        group = FanOutGroup(
            "acts",
            branch={"upper": _upper, "add": functools.partial(_add, what="?")},
            partial={"text": "a"},
            items_per_task=2,
        )
        ran = run_batch(group)

        assert ran.value == {"upper": "A", "add": "a?"}
        assert ran.record["names"] == ["upper", "add"]

    def test_a_mapping_of_functions_runs_at_once_unless_told(self) -> None:
        barrier = threading.Barrier(3)

        async def meet_on_loop() -> bool:
            return await asyncio.to_thread(barrier.wait, 10) >= 0

        def meet() -> bool:
            return barrier.wait(10) >= 0

        branch = {"one": meet, "two": meet, "three": meet_on_loop}
        group = FanOutGroup("acts", branch=branch, items_per_task=3)

        assert run_batch(group).value == {"one": True, "two": True, "three": True}


def _upper(text: str) -> str:
    return text.upper()


def _add(text: str, what: str) -> str:
    return text + what


class TestARetry:
    def test_runs_only_what_has_failed(self) -> None:
        store = FakeStore()
        group = group_of("a", "recovers", "is skipped", "fails for good")
        run_batch(group, store=store, retries=1)
        RAN.clear()
        ran = run_batch(group, store=store, retries=1, try_number=2)

        assert RAN == ["recovers"]
        assert (ran.states, ran.values) == ("SSKF", {"acts_0": "a", "acts_1": "recovers"})
        assert ran.record["errors"] == {"2": "nothing to do", "3": "AirflowFailException: no use"}
        assert isinstance(ran.error, FinalBatchFailedError)

    def test_that_succeeds_leaves_nothing_behind(self) -> None:
        store = FakeStore()
        group = group_of("a", "recovers")
        run_batch(group, store=store, retries=1)
        ran = run_batch(group, store=store, retries=1, try_number=2)

        assert (ran.value, store.kept) == ({"acts_0": "a", "acts_1": "recovers"}, {})

    def test_by_hand_runs_final_failures_too(self) -> None:
        store = FakeStore()
        group = group_of("a", "fails for good")
        run_batch(group, store=store, retries=0)
        RAN.clear()
        run_batch(group, store=store, retries=0, try_number=2)

        assert RAN == ["fails for good"]

    @pytest.mark.parametrize(
        ("retries", "again"),
        [
            pytest.param(1, ["recovers"], id="by Airflow"),
            pytest.param(0, ["recovers", "fails for good"], id="by hand, as none was left"),
        ],
    )
    def test_after_a_kill_runs_final_failures_if_somebody_has_mended_them(
        self, retries: int, again: list[str], killed_at_its_end: Any
    ) -> None:
        store = FakeStore()
        group = group_of("a", "recovers", "fails for good")
        with killed_at_its_end:
            run_batch(group, store=store, retries=retries)
        RAN.clear()
        run_batch(group, store=store, retries=2, try_number=2)

        assert again == RAN

    def test_after_a_kill_on_the_last_try_runs_final_failures_of_the_tries_before(
        self, killed_at_its_end: Any
    ) -> None:
        store = FakeStore()
        group = group_of("fails", "fails for good")
        run_batch(group, store=store, retries=1)
        with killed_at_its_end:
            run_batch(group, store=store, retries=1, try_number=2)
        RAN.clear()
        run_batch(group, store=store, retries=3, try_number=3)

        assert RAN == ["fails", "fails for good"]

    def test_runs_no_final_failure_however_many_there_are(self) -> None:
        def call(number: int) -> None:
            RAN.append(number)
            if number == 0:
                raise ValueError
            message = f"no use {number} {'x' * 400}"
            raise AirflowFailException(message)

        store, size = FakeStore(), 400
        group = group_of(*range(size), branch=call, items_per_task=size)
        run_batch(group, store=store, retries=1)
        assert len(store.kept) > 1
        RAN.clear()
        ran = run_batch(group, store=store, retries=1, try_number=2)

        assert RAN == [0]
        assert ran.states == "F" * size
        assert store.kept == {}

    def test_with_another_argument_runs_all(self) -> None:
        def call(item: str, ti: Any, base: str) -> str:
            return str(act(f"{base}{item}" if item == "a" else item, ti))

        store = FakeStore()
        group = group_of("a", "fails", branch=call, partial={"base": "old "})
        run_batch(group, store=store)
        operator = batch_operator(group, 0, 2)
        operator.op_kwargs = {"": {"base": "new "}}
        RAN.clear()
        ran = run_batch(group, store=store, try_number=2, operator=operator)

        assert RAN == ["new a", "fails"]
        assert ran.values == {"acts_0": "new a"}

    def test_knows_an_item_that_its_function_has_changed(self) -> None:
        def call(item: dict[str, Any]) -> str:
            RAN.append(item["id"])
            return str(act(item.pop("fate")))

        store = FakeStore()
        payload = [{"id": 0, "fate": "a"}, {"id": 1, "fate": "fails"}]
        group = group_of(branch=call, items=list_items())
        run_batch(
            group, 0, 2, store=store, payload={"names": None, "items": [dict(each) for each in payload]}
        )
        RAN.clear()
        run_batch(group, 0, 2, store=store, try_number=2, payload={"names": None, "items": payload})

        assert RAN == [1, "fails"]

    def test_without_a_store_runs_all_and_says_so(self) -> None:
        with capture_logs() as logs:
            run_batch(group_of("a"), try_number=2)

        assert RAN == ["a"]
        assert any("all items run again" in each["event"] for each in logs)

    @pytest.mark.parametrize("broken", ["get", "set", "delete"])
    def test_a_store_that_does_not_work_fails_nothing(self, broken: str) -> None:
        assert run_batch(group_of("a"), store=FakeStore(broken={broken})).value == {"acts_0": "a"}


class TestStopping:
    FATES = ("a", "fails", "fails", "b", "c")

    def test_items_are_stopped_with_the_reason(self) -> None:
        ran = run_batch(group_of(*self.FATES, stop_after_failures=2))

        assert (RAN, ran.states) == (["a", "fails", "fails"], "SFFXX")
        assert ran.record["stopped"] == (
            "not started: 2 or more items of 'acts' have failed (stop_after_failures=2)"
        )

    def test_failures_of_batches_that_have_ended_count(self) -> None:
        run = FakeRun().add("acts.each", "failed", map_index=1, record=record_of(1, "SF"))
        ran = run_batch(group_of(*self.FATES, stop_after_failures=2), run=run)

        assert ran.states == "SFXXX"

    def test_batches_that_died_count_with_all_their_items(self) -> None:
        run = FakeRun().add("acts.each", "failed", map_index=1)
        run.add("acts.split", value=[[0, 3], [3, 5]])
        ran = run_batch(group_of(*self.FATES, stop_after_failures=2), run=run)

        assert ran.states == "XXXXX"
        assert ran.error is None

    def test_what_was_marked_success_by_hand_does_not(self) -> None:
        run = FakeRun().add("acts.each", "success", map_index=1, record=record_of(1, "FF"))

        assert run_batch(group_of(*self.FATES, stop_after_failures=2), run=run).states == "SFFXX"

    def test_a_retry_is_not_stopped(self) -> None:
        run = FakeRun().add("acts.each", "failed", map_index=1, record=record_of(1, "FF"))
        ran = run_batch(group_of(*self.FATES, stop_after_failures=2), run=run, try_number=2)

        assert ran.states == "SFFSS"

    def test_failures_that_will_be_retried_do_not_count(self) -> None:
        assert run_batch(group_of(*self.FATES, stop_after_failures=2), retries=1).states == "SFFSS"


def record_of(map_index: int, states: str) -> dict[str, Any]:
    nothing: list[None] = [None] * len(states)
    record = {"map_index": map_index, "start": 0, "statuses": states, "errors": {}, "seconds": nothing}
    return {"state": "batch", "cpu_seconds": nothing, **record}


class TestBeingKilled:
    def test_no_further_item_starts_and_what_is_done_is_kept(self) -> None:
        store = FakeStore()

        def call(item: str) -> str:
            RAN.append(item)
            if item == "b":
                operator.on_kill()
            return item

        group = group_of("a", "b", "c", branch=call)
        operator = batch_operator(group, 0, 3)
        ran = run_batch(group, operator=operator, store=store)

        assert RAN == ["a", "b"]
        assert (ran.states, ran.values) == ("SFF", {"acts_0": "a"})
        assert "had not ended" in ran.record["errors"]["2"]
        assert len(store.kept) == 1

    def test_it_is_safe_before_anything_runs(self) -> None:
        batch_operator(group_of("a"), 0, 1).on_kill()

    def test_the_watch_saves_when_it_is_asked(self) -> None:
        store, batch = FakeStore(), Batch(1, lambda place: "a", describe=str)
        watch = _Watch(mock.Mock(), batch, Checkpoints(store, str, mock.Mock(), retried=False))
        with watch:
            batch.run()
            watch.kill()

        assert CHECKPOINT_EVERY > 1  # it did not come by itself
        assert len(store.kept) == 1
