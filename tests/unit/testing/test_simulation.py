from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, XComArg, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.exceptions import (
    DeclarationTypeError,
    DeclarationValueError,
    EmptyFanInError,
    PrefixError,
    TooFewBranchesError,
    UpstreamFailedError,
)
from airflow_fanout.rules.outcomes import MARKED_BY_HAND, NO_EXCEPTION_RECORDED
from airflow_fanout.testing import simulate
from tests.unit.fake_run import FakeRun, run_fan_in
from tests.unit.parsed import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


@task
def tell() -> list[str]:
    return []


@task(task_id="other")
def something_else() -> int:
    return 1


def fan_in_of(group: dict[str, Any] | None = None, **arguments: Any) -> FanInOperator:
    process = FanOutGroup("process", **{"branch": work, "count": 4, **(group or {})})
    return FanInOperator(task_id="combine", fan_out=process, **arguments)


def told_of(*states: Any) -> dict[str, Any]:
    return {f"process_{index}": state for index, state in enumerate(states)}


RUN_TIME: dict[str, Any] = {"count": None}
"""With ``items=`` of a task: how many is not known."""


class TestPolicy:
    @pytest.mark.parametrize(
        ("policy", "states", "expected"),
        [
            pytest.param({}, "SSSS", "success", id="all succeeded"),
            pytest.param({}, "SSSF", "failed", id="one failed"),
            pytest.param({}, "SSSU", "failed", id="one upstream_failed"),
            pytest.param({}, "SSSM", "failed", id="one missing"),
            pytest.param({}, "SSSK", "success", id="a skip does not count"),
            pytest.param({}, "SSSR", "success", id="nor what was removed"),
            pytest.param({}, "KKKK", "skipped", id="all skipped"),
            pytest.param({"min_success": 3}, "SSSF", "degraded", id="enough"),
            pytest.param({"min_success": 3}, "SSFF", "failed", id="too few"),
            pytest.param({"min_success": 3}, "SSSK", "success", id="enough, and one skipped"),
            pytest.param({"min_success_ratio": 0.75}, "SSSF", "degraded", id="share reached"),
            pytest.param({"min_success_ratio": 0.75}, "SSFF", "failed", id="share missed"),
            pytest.param({"min_success_ratio": 0.6}, "SSFK", "degraded", id="share of the counted"),
            pytest.param(
                {"min_success_ratio": 0.6, "count_skipped": "failure"}, "SSFK", "failed", id="skip fails"
            ),
            pytest.param(
                {"min_success_ratio": 0.75, "count_skipped": "success"},
                "SSFK",
                "degraded",
                id="skip succeeds",
            ),
            pytest.param(
                {"min_success": 1, "count_skipped": "success"}, "KKKK", "success", id="all skips do"
            ),
            pytest.param(
                {"min_success": 1, "count_skipped": "failure"}, "KKKK", "failed", id="all skips fail"
            ),
            pytest.param({"min_success": 2, "min_success_ratio": 0.9}, "SSSF", "failed", id="both must hold"),
        ],
    )
    def test_it_decides_as_the_policy_says(self, policy: dict[str, Any], states: str, expected: str) -> None:
        words = {
            "S": "success",
            "F": "failed",
            "U": "upstream_failed",
            "K": "skipped",
            "M": "missing",
            "R": "removed",
        }
        assert simulate(fan_in_of(**policy), told_of(*map(words.get, states))).state == expected

    @pytest.mark.parametrize("mode", [{"count": 0}, {"items": [], "count": None}])
    @pytest.mark.parametrize(
        ("policy", "expected"),
        [
            ({}, "success"),
            ({"min_success": 1}, "failed"),
            ({"on_empty": "succeed", "min_success": 1}, "success"),
            ({"on_empty": "fail"}, "failed"),
            ({"on_empty": "skip"}, "skipped"),
        ],
    )
    def test_a_literal_zero_reaches_on_empty(
        self, mode: dict[str, Any], policy: dict[str, Any], expected: str
    ) -> None:
        assert simulate(fan_in_of(mode, **policy)).state == expected

    def test_a_failure_says_what_the_operator_says(self) -> None:
        said = simulate(fan_in_of(min_success=4), told_of("success", ValueError("no such file")))

        assert said.error == (
            "TooFewBranchesError: 3 of 4 branches succeeded, 4 needed (min_success=4).\n"
            "  process_1: failed: ValueError: no such file"
        )
        assert isinstance(said.exception, TooFewBranchesError)
        assert (said.exception.needed, said.exception.succeeded) == (4, 3)
        assert said.return_value is None

    def test_the_operator_does_the_same_with_such_a_run(self) -> None:
        fan_in = fan_in_of(min_success=2)
        run = FakeRun()
        run.succeed("process.process_0", 7, duration=None).fail("process.process_1", duration=None)
        run.succeed("process.process_2", duration=None).add("process.process_3", "skipped", duration=None)

        said = simulate(
            fan_in, told_of("success", ValueError("broken"), "success", "skipped"), {"process_0": 7}
        )
        did = run_fan_in(fan_in, run)

        assert (said.return_value, said.report, said.error) == (did.value, did.report, None)


class TestBranches:
    def test_who_is_not_named_succeeds_with_none(self) -> None:
        said = simulate(fan_in_of())

        assert said.return_value == dict.fromkeys([f"process_{n}" for n in range(4)])
        assert (said.state, said.error, said.exception) == ("success", None, None)

    def test_values_are_in_declared_order(self) -> None:
        said = simulate(fan_in_of({"count": 11}), values={"process_10": "last", "process_2": "third"})

        assert list(said.return_value)[-1] == "process_10"
        assert said.return_value["process_2"] == "third"

    @pytest.mark.parametrize(
        ("told", "state", "error"),
        [
            pytest.param("failed", "failed", NO_EXCEPTION_RECORDED, id="without an exception"),
            pytest.param(ValueError("no"), "failed", "ValueError: no", id="exception"),
            pytest.param(AirflowFailException("no"), "failed", "AirflowFailException: no", id="for good"),
            pytest.param("upstream_failed", "upstream_failed", None, id="upstream"),
            pytest.param("missing", "missing", MARKED_BY_HAND, id="missing"),
        ],
    )
    def test_a_problem_says_why(self, told: Any, state: str, error: str | None) -> None:
        report = simulate(fan_in_of(), {"process_1": told}).report

        assert report is not None
        assert report["problems"] == [{"name": "process_1", "state": state, "error": error}]

    def test_missing_under_a_key_says_so(self) -> None:
        said = simulate(fan_in_of(key="rows"), {"process_1": "missing"})

        assert "process_1: missing: it pushed nothing under the key 'rows'" in str(said.error)

    def test_an_exception_that_skips_is_a_skip(self) -> None:
        report = simulate(fan_in_of(), {"process_1": AirflowSkipException("no data")}).report

        assert report is not None
        assert (report["skipped"], report["problems"]) == (1, [])

    def test_the_fan_in_may_be_named_by_its_output(self) -> None:
        assert simulate(fan_in_of().output, values={"process_0": 1}).return_value["process_0"] == 1

    @pytest.mark.parametrize(
        "settings", [{}, {"mapped": True}, {"items_per_task": 2}], ids=["static", "mapped", "batched"]
    )
    def test_names_are_the_same_in_every_mode(self, settings: dict[str, Any]) -> None:
        fan_in = fan_in_of({"items": {"eu": 1, "us": 2}, "count": None, **settings}, min_success=1)
        said = simulate(fan_in, {"us": "failed"}, {"eu": 5})

        assert (said.state, said.return_value) == ("degraded", {"eu": 5})

    def test_a_group_without_prefix(self) -> None:
        said = simulate(fan_in_of({"prefix_group_id": False}), values={"process_0": 1})

        assert said.return_value["process_0"] == 1

    def test_a_branch_of_several_tasks_is_one(self) -> None:
        @task
        def extract(index: int) -> int:
            return index

        @task
        def load(index: int) -> int:
            return index

        @task_group
        def etl(index: int) -> Any:
            return load(extract(index))

        said = simulate(fan_in_of({"branch": etl, "count": 2}), {"process_1": ValueError("x")})

        assert "process_1: failed: ValueError: x" in str(said.error)

    def test_a_fan_in_within_a_mapped_task_group(self) -> None:
        made: list[FanInOperator] = []

        @task_group
        def region(name: str) -> None:
            made.append(fan_in_of({"partial": {"item": name}}))

        region.expand(name=["eu", "us"])

        assert simulate(made[0], {"process_0": "failed"}).state == "failed"


class TestStopped:
    def stopping(self, **more: Any) -> FanInOperator:
        return fan_in_of({"stop_after_failures": 1, **more}, min_success=1, count_skipped="success")

    def test_a_stopped_branch_counts_as_a_failure_and_says_why(self) -> None:
        said = simulate(self.stopping(), told_of("success", "failed", "stopped", "stopped"))

        assert said.state == "degraded"
        assert said.report is not None
        assert said.report["skipped"] == 2
        assert said.report["problems"][1]["error"] == (
            "not started: 1 of 4 branches of 'process' have failed (stop_after_failures=1): 'process_1'"
        )

    def test_in_a_batch_it_says_what_the_batch_says(self) -> None:
        said = simulate(self.stopping(items_per_task=4), told_of("failed", "success", "success", "stopped"))

        assert said.report is not None
        assert said.report["problems"][1]["error"] == (
            "not started: 1 or more items of 'process' have failed (stop_after_failures=1)"
        )

    def test_nobody_is_stopped_without_enough_failures(self) -> None:
        with pytest.raises(
            DeclarationValueError, match="'process_3' can't have been stopped after 0 failures"
        ):
            simulate(self.stopping(), {"process_3": "stopped"})

    def test_nor_in_a_group_that_does_not_stop(self) -> None:
        with pytest.raises(DeclarationValueError, match="its group has no stop_after_failures="):
            simulate(fan_in_of(), {"process_3": "stopped"})


class TestKnownAtRunTime:
    @pytest.mark.parametrize("batch", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    def test_count_stands_in(self, batch: dict[str, Any]) -> None:
        said = simulate(fan_in_of({**RUN_TIME, "items": tell(), **batch}), values={"process_2": 2}, count=3)

        assert said.return_value == {"process_0": None, "process_1": None, "process_2": 2}

    @pytest.mark.parametrize("batch", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    def test_names_stand_in(self, batch: dict[str, Any]) -> None:
        fan_in = fan_in_of({**RUN_TIME, "items": tell(), **batch}, min_success=1)

        assert simulate(fan_in, {"eu": "failed"}, names=["eu", "us"]).return_value == {"us": None}

    @pytest.mark.parametrize("batch", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    @pytest.mark.parametrize(("on_empty", "state"), [("succeed", "success"), ("fail", "failed")])
    def test_zero_reaches_on_empty(self, batch: dict[str, Any], on_empty: str, state: str) -> None:
        fan_in = fan_in_of({**RUN_TIME, "items": tell(), **batch}, on_empty=on_empty)

        said = simulate(fan_in, count=0)

        assert said.state == state
        assert isinstance(said.exception, EmptyFanInError) == (state == "failed")

    def test_it_has_to_be_told(self) -> None:
        with pytest.raises(DeclarationValueError, match=r"number of branches of 'process'.*give count=3"):
            simulate(fan_in_of({**RUN_TIME, "items": tell()}))

    @pytest.mark.parametrize("told", [{"count": 4}, {"names": ["a"]}])
    def test_it_is_not_told_where_it_is_known(self, told: dict[str, Any]) -> None:
        with pytest.raises(
            DeclarationValueError, match="all branches are known from the Dag file; leave it out"
        ):
            simulate(fan_in_of(), **told)

    def test_not_both(self) -> None:
        with pytest.raises(
            DeclarationValueError, match="expected count= or names= for 'process', found both"
        ):
            simulate(fan_in_of({**RUN_TIME, "items": tell()}), count=1, names=["eu"])

    @pytest.mark.parametrize("count", [-1, True, "3", 1.0])
    def test_a_count_is_a_whole_number(self, count: Any) -> None:
        with pytest.raises((DeclarationValueError, DeclarationTypeError), match=r"count: expected"):
            simulate(fan_in_of({**RUN_TIME, "items": tell()}), count=count)

    @pytest.mark.parametrize("names", ["eu", 3, [1], [""], ["eu", "eu"]])
    def test_names_are_different_texts(self, names: Any) -> None:
        with pytest.raises((DeclarationValueError, DeclarationTypeError), match=r"names: (expected|found)"):
            simulate(fan_in_of({**RUN_TIME, "items": tell()}), names=names)

    @pytest.mark.parametrize("batch", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    def test_a_count_has_no_names(self, batch: dict[str, Any]) -> None:
        with pytest.raises(DeclarationValueError, match="no names of their own; give count="):
            simulate(fan_in_of({"count": something_else(), **batch}), names=["eu"])


class TestOtherTasks:
    @pytest.mark.parametrize("state", ["failed", "skipped"])
    def test_what_does_not_succeed_is_not_degraded(self, state: str) -> None:
        fan_in = fan_in_of(min_success=1)
        something_else() >> fan_in
        run = FakeRun().add("other", state, duration=None).fail("process.process_0", duration=None)
        for index in (1, 2, 3):
            run.succeed(f"process.process_{index}", duration=None)
        said = simulate(fan_in, {"other": state, "process_0": ValueError("broken")})

        assert said.state == state
        assert said.report is not None
        assert said.report["degraded"] is False
        assert said.report == run_fan_in(fan_in, run).report

    @pytest.mark.parametrize("batch", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    @pytest.mark.parametrize("what", ["items", "count"])
    def test_the_items_task_failed(self, batch: dict[str, Any], what: str) -> None:
        fan_in = fan_in_of({**RUN_TIME, what: tell(), **batch}, min_success=1, on_empty="succeed")
        said = simulate(fan_in, {"tell": "failed"})

        assert said.state == "failed"
        assert isinstance(said.exception, UpstreamFailedError)
        assert "'process.each' failed, because 'tell' failed" in str(said.error)

    @pytest.mark.parametrize("batch", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    def test_the_items_task_was_skipped(self, batch: dict[str, Any]) -> None:
        fan_in = fan_in_of({**RUN_TIME, "items": tell(), **batch}, on_empty="fail")

        said = simulate(fan_in, {"tell": AirflowSkipException()})

        assert (said.state, said.error) == ("skipped", None)
        assert isinstance(said.exception, AirflowSkipException)

    @pytest.mark.parametrize(("told", "state"), [("failed", "failed"), ("skipped", "skipped")])
    def test_a_direct_upstream_that_is_no_branch(self, told: str, state: str) -> None:
        fan_in = fan_in_of(min_success=1)
        something_else() >> fan_in

        assert simulate(fan_in).state == "success"
        assert simulate(fan_in, {"other": told, "process_0": "failed"}).state == state

    def test_it_can_be_neither_stopped_nor_missing(self) -> None:
        fan_in = fan_in_of()
        something_else() >> fan_in

        with pytest.raises(
            DeclarationValueError, match=r"'other': expected 'success', 'failed'.*found 'missing'"
        ):
            simulate(fan_in, {"other": "missing"})

    def test_what_a_literal_does_not_wait_for_is_not_told(self) -> None:
        """Airflow expands it before the run begins, so that each instance is a branch."""
        fan_in = fan_in_of({"mapped": True, "partial": {"item": something_else()}})

        with pytest.raises(DeclarationValueError, match="no branch is named 'other'"):
            simulate(fan_in, {"other": "failed"})

    @pytest.mark.parametrize("batch", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])
    def test_a_bound_argument_keeps_a_mapped_group_from_expanding(self, batch: dict[str, Any]) -> None:
        @task(task_id="work")
        def both(one: str, two: str) -> None: ...

        group = {**RUN_TIME, "branch": both, "items": tell(), "partial": {"one": something_else()}, **batch}

        assert isinstance(simulate(fan_in_of(group), {"other": "failed"}).exception, UpstreamFailedError)

    def test_with_another_trigger_rule_nobody_says_what_a_failure_does(self) -> None:
        rule = {"default_args": {"trigger_rule": "all_done"}}
        fan_in = fan_in_of({**RUN_TIME, "items": tell(), **rule})

        with pytest.raises(DeclarationValueError, match="no branch is named 'tell'"):
            simulate(fan_in, {"tell": "failed"}, count=1)

    def test_branches_that_never_came_to_be_have_no_outcome(self) -> None:
        fan_in = fan_in_of({**RUN_TIME, "items": tell()})

        with pytest.raises(DeclarationValueError, match="no branch is named 'process_0'; branches: none"):
            simulate(fan_in, {"tell": "failed", "process_0": "failed"})

    def test_nor_a_number(self) -> None:
        fan_in = fan_in_of({**RUN_TIME, "items": tell()})

        with pytest.raises(DeclarationValueError, match=r"'process' never gets branches, .*; leave it out"):
            simulate(fan_in, {"tell": "failed"}, count=3)

    def test_a_key_that_names_both_is_refused(self) -> None:
        fan_in = fan_in_of()
        task(task_id="process_0")(work)() >> fan_in

        with pytest.raises(DeclarationValueError, match="'process_0' is the name of a branch and the id"):
            simulate(fan_in, {"process_0": "failed"})

    def test_a_fail_fast_dag_does_not_run_it_after_a_failure(self) -> None:
        with DAG("hasty", schedule=None, fail_fast=True):
            fan_in = fan_in_of()

        assert simulate(fan_in).state == "success"
        with pytest.raises(
            DeclarationValueError, match=r"'process.process_0' is failed, and in a fail_fast Dag"
        ):
            simulate(fan_in, {"process_0": "failed"})


class TestPrefix:
    def test_names_are_task_ids(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="load_", min_success=1)
        for number in range(2):
            task(task_id=f"load_{number}")(work)() >> fan_in
        said = simulate(fan_in, {"load_0": ValueError("lost")}, {"load_1": 1})

        assert said.return_value == {"load_1": 1}
        assert said.report is not None
        # Airflow keeps no error of a task that is not made here.
        assert said.report["problems"] == [{"name": "load_0", "state": "failed", "error": None}]

    @pytest.mark.parametrize(
        ("settings", "name"),
        [
            pytest.param({}, "process.process_1", id="static"),
            pytest.param({"mapped": True}, "process.each[1]", id="mapped"),
            pytest.param({"items_per_task": 2}, "process.process_1", id="batched"),
        ],
    )
    def test_of_a_group(self, settings: dict[str, Any], name: str) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.", min_success=1)
        FanOutGroup("process", branch=work, items=["a", "b"], **settings) >> fan_in

        assert list(simulate(fan_in, {name: ValueError("x")}).return_value) == [name.replace("1", "0")]

    def test_several_numbers_by_group_and_task(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="load")
        FanOutGroup("load_a", branch=work, items=tell()) >> fan_in
        FanOutGroup("load_b", branch=work, items=tell(), items_per_task=2) >> fan_in
        task(task_id="load_c")(work).expand(item=["x"]) >> fan_in

        said = simulate(fan_in, count={"load_a": 1, "load_c": 1}, names={"load_b": ["eu"]})

        assert list(said.return_value) == ["load_a.each[0]", "load_b.eu", "load_c[0]"]
        with pytest.raises(DeclarationValueError, match="found 3 for several: 'load_a', 'load_b', 'load_c'"):
            simulate(fan_in, count=3)
        with pytest.raises(
            DeclarationValueError, match=r"number of branches of 'load_a', 'load_c', which only a run knows"
        ):
            simulate(fan_in, count={"load_b": 1})
        with pytest.raises(DeclarationValueError, match="found 'load'; only the branches of 'load_a'"):
            simulate(fan_in, count={"load": 1})

    def test_a_foreign_mapped_task_after_a_failure(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="load", min_success=1)
        task(task_id="load")(work).expand(item=tell()) >> fan_in

        assert simulate(fan_in, {"tell": "failed"}).state == "failed"
        assert simulate(fan_in, {"tell": "skipped"}).state == "skipped"

    def test_a_forgotten_wire_fails_it_before_it_reads(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="load_")
        task(task_id="load_0")(work)() >> fan_in
        task(task_id="load_1")(work)()
        said = simulate(fan_in)

        assert (said.state, said.report) == ("failed", None)
        assert isinstance(said.exception, PrefixError)

    def test_the_prefix_is_rendered(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="{{ params.what }}_")
        task(task_id="load_0")(work)() >> fan_in

        assert simulate(fan_in, context={"params": {"what": "load"}}).return_value == {"load_0": None}
        assert fan_in.task_id_prefix == "{{ params.what }}_"
        with pytest.raises(
            DeclarationValueError, match="to render task_id_prefix, found 'params' is undefined"
        ):
            simulate(fan_in)


class TestItsFunction:
    def test_it_is_given_results_and_op_kwargs(self) -> None:
        def total(results: FanInResults, factor: int) -> int:
            summed: int = sum(results.values())
            return summed * factor

        fan_in = fan_in_of({"count": 2}, python_callable=total, op_kwargs={"factor": 10})

        assert simulate(fan_in, values={"process_0": 1, "process_1": 2}).return_value == 30

    def test_what_it_raises_fails_the_fan_in_and_can_be_looked_at(self) -> None:
        def refuse(results: FanInResults) -> None:
            message = "not like this"
            raise KeyError(message)

        said = simulate(fan_in_of(python_callable=refuse))

        assert (said.state, said.error) == ("failed", "KeyError: 'not like this'")
        assert said.exception is not None
        assert said.exception.__traceback__ is not None
        assert said.report is not None

    def test_it_may_skip(self) -> None:
        def skip(results: FanInResults) -> None:
            raise AirflowSkipException

        assert simulate(fan_in_of(python_callable=skip)).state == "skipped"

    def test_it_is_not_called_after_a_verdict_against_the_run(self) -> None:
        called: list[object] = []

        assert simulate(fan_in_of(python_callable=called.append), {"process_0": "failed"}).state == "failed"
        assert not called

    def test_it_takes_context_values_that_are_told(self) -> None:
        def stamp(results: FanInResults, ds: str) -> str:
            return ds

        fan_in = fan_in_of(python_callable=stamp)

        assert simulate(fan_in, context={"ds": "2026-01-01"}).return_value == "2026-01-01"
        with pytest.raises(DeclarationValueError, match="takes 'ds', which only a run has; give context="):
            simulate(fan_in)
        assert simulate(fan_in, {"process_0": "failed"}).state == "failed"  # it never gets there

    def test_a_default_does_not_hide_that_a_run_has_another_value(self) -> None:
        def stamp(results: FanInResults, ds: str = "") -> str:
            return ds

        with pytest.raises(DeclarationValueError, match="takes 'ds'"):
            simulate(fan_in_of(python_callable=stamp))

    def test_outputs_of_tasks_are_told(self) -> None:
        def least(results: FanInResults, limits: list[int]) -> list[int]:
            return limits

        limits: list[XComArg] = [something_else()]
        fan_in = fan_in_of(python_callable=least, op_kwargs={"limits": limits})

        assert simulate(fan_in, op_kwargs={"limits": [3]}).return_value == [3]
        assert fan_in.op_kwargs == {"limits": limits}
        with pytest.raises(DeclarationValueError, match=r"only a run has 'limits'; give op_kwargs={'limits'"):
            simulate(fan_in)
        with pytest.raises(DeclarationValueError, match=r"the fan-in has no 'limit'; it has 'limits'"):
            simulate(fan_in, op_kwargs={"limit": [3]})

    def test_templates_are_rendered(self) -> None:
        def stamp(results: FanInResults, day: str) -> str:
            return day

        fan_in = fan_in_of(python_callable=stamp, op_kwargs={"day": "day {{ ds }}"})

        assert simulate(fan_in, context={"ds": "2026-01-01"}).return_value == "day 2026-01-01"
        assert simulate(fan_in, context={"ds": "2026-01-02"}).return_value == "day 2026-01-02"
        with pytest.raises(DeclarationValueError, match="to render op_kwargs, found 'ds' is undefined"):
            simulate(fan_in)


class TestMistakes:
    @pytest.mark.parametrize("argument", ["outcomes", "values"])
    def test_an_unknown_name_lists_the_branches(self, argument: str) -> None:
        with pytest.raises(
            DeclarationValueError, match=rf"{argument}: no branch is named 'process_9'.*'process_0'"
        ):
            simulate(fan_in_of(), **{argument: {"process_9": "failed"}})  # type: ignore[arg-type]

    def test_and_the_other_tasks(self) -> None:
        fan_in = fan_in_of({**RUN_TIME, "items": tell()})

        with pytest.raises(DeclarationValueError, match="other tasks: 'tell'"):
            simulate(fan_in, {"process_9": "failed"}, count=1)

    def test_a_task_before_the_branches_is_told_by_these(self) -> None:
        first = something_else()
        fan_in = fan_in_of()
        first >> fan_in.dag.get_task("process.process_0")

        with pytest.raises(
            DeclarationValueError,
            match=r"no branch is named 'other'; branches: 'process_0', .*; to say that 'other' fails, which "
            "comes before the branches, give those after it 'upstream_failed'",
        ):
            simulate(fan_in, {"other": "failed"})

    def test_only_a_success_has_a_value(self) -> None:
        with pytest.raises(
            DeclarationValueError, match="'process_0' has no value, because its outcome is 'failed'"
        ):
            simulate(fan_in_of(), {"process_0": "failed"}, {"process_0": 1})

    @pytest.mark.parametrize("told", ["fail", ValueError, None, 3])
    def test_an_outcome_is_a_state_or_an_exception(self, told: Any) -> None:
        with pytest.raises(
            (DeclarationValueError, DeclarationTypeError), match="'missing', 'removed', 'stopped'"
        ):
            simulate(fan_in_of(), {"process_0": told})

    @pytest.mark.parametrize("argument", ["outcomes", "values"])
    def test_outcomes_and_values_are_dicts(self, argument: str) -> None:
        with pytest.raises(
            DeclarationTypeError, match=f"{argument}: expected a dict by the names of branches"
        ):
            simulate(fan_in_of(), **{argument: ["failed"]})  # type: ignore[arg-type]

    def test_the_group_is_no_fan_in(self) -> None:
        group = FanOutGroup("process", branch=work, count=2)

        with pytest.raises(
            DeclarationTypeError, match="fan_in: expected a FanInOperator or its output, found"
        ):
            simulate(group)  # type: ignore[arg-type]

    @pytest.mark.usefixtures("no_dag")
    def test_a_fan_in_is_in_a_dag(self) -> None:
        with pytest.raises(DeclarationValueError, match="'combine' is in no Dag"):
            simulate(FanInOperator(task_id="combine", task_id_prefix="load_"))


def test_what_it_says_can_not_be_changed() -> None:
    said = simulate(fan_in_of())

    with pytest.raises(dataclasses.FrozenInstanceError):
        said.state = "failed"  # type: ignore[misc]


def test_the_fan_in_is_as_it_was() -> None:
    fan_in = fan_in_of(min_success=3)
    before = dict(vars(fan_in))
    simulate(fan_in, {"process_0": "failed"})

    assert vars(fan_in) == before


def test_it_takes_milliseconds() -> None:
    fan_in = fan_in_of({"count": 50}, min_success=10)
    simulate(fan_in)
    begin = time.process_time()
    for number in range(20):
        simulate(fan_in, {f"process_{number}": "failed"})

    assert (time.process_time() - begin) / 20 < 0.05


def documented_example() -> str:
    """The example of the documentation, which is a whole file."""
    page = REPOSITORY / "docs" / "how-to" / "test-the-failure-policy.md"
    return page.read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def test_the_example_passes_in_an_empty_home_and_makes_no_database(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "test_policy.py").write_text(documented_example(), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "test_policy.py"],
        cwd=tmp_path,
        env={**os.environ, "AIRFLOW_HOME": str(home), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert "4 passed" in run.stdout, run.stdout + run.stderr
    assert not list(home.rglob("*.db"))
