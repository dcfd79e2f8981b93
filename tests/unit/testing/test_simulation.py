from __future__ import annotations

import dataclasses
import operator
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, XComArg, task, task_group
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.exceptions import (
    CombineError,
    DeclarationTypeError,
    DeclarationValueError,
    FanInError,
    PrefixError,
    UpstreamFailedError,
)
from airflow_fanout.testing import simulate
from tests.unit.fake_run import FakeRun, run_fan_in
from tests.unit.parsed import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("dag")

in_tasks = pytest.mark.parametrize("batch", [{}, {"items_per_task": 2}], ids=["mapped", "batched"])


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


def of_run_time(**group: Any) -> dict[str, Any]:
    """Settings of a group whose items only a run knows."""
    return {"count": None, "items": tell(), **group}


def told_of(*states: Any) -> dict[str, Any]:
    return {f"process_{index}": state for index, state in enumerate(states)}


class TestItsVerdict:
    """What is decided is in the tests of the policy, and what is read of a branch in those of the readers."""

    @pytest.mark.parametrize(
        ("policy", "states", "expected"),
        [
            ({}, ["success"], "success"),
            ({"min_success": 3}, ["failed"], "degraded"),
            ({"min_success_ratio": 0.8}, ["failed"], "failed"),
            ({}, ["skipped"] * 4, "skipped"),
            ({}, ["removed"], "success"),
        ],
    )
    def test_it_decides_as_the_policy_says(
        self, policy: dict[str, Any], states: list[str], expected: str
    ) -> None:
        assert simulate(fan_in_of(**policy), told_of(*states)).state == expected

    @pytest.mark.parametrize("state", ["success", "failed", "skipped"])
    @pytest.mark.parametrize("min_success", [2, 4], ids=["degraded", "failed"])
    def test_the_operator_does_the_same_with_such_a_run(self, state: str, min_success: int) -> None:
        fan_in = fan_in_of(min_success=min_success)
        something_else() >> fan_in
        run = FakeRun().add("other", state, duration=None)
        run.succeed("process.process_0", 7, duration=None).fail("process.process_1", duration=None)
        run.succeed("process.process_2", duration=None).add("process.process_3", "skipped", duration=None)

        told = told_of("success", ValueError("broken"), "success", "skipped")
        simulated = simulate(fan_in, {"other": state, **told}, {"process_0": 7})
        did = run_fan_in(fan_in, run)

        assert (simulated.return_value, simulated.report) == (did.value, did.report)
        assert (type(simulated.exception), str(simulated.exception)) == (type(did.error), str(did.error))
        is_failed = isinstance(did.error, FanInError)
        assert simulated.error == (f"{type(did.error).__name__}: {did.error}" if is_failed else None)

    def test_it_cannot_be_changed(self) -> None:
        simulated: Any = simulate(fan_in_of())

        with pytest.raises(dataclasses.FrozenInstanceError):
            simulated.state = "failed"

    def test_the_fan_in_is_as_it_was(self) -> None:
        fan_in = fan_in_of(min_success=3)
        before = dict(vars(fan_in))
        simulate(fan_in, {"process_0": "failed"})

        assert vars(fan_in) == before

    def test_it_takes_milliseconds(self) -> None:
        fan_in = fan_in_of({"count": 50}, min_success=10)
        simulate(fan_in)
        begin = time.process_time()
        for number in range(20):
            simulate(fan_in, {f"process_{number}": "failed"})

        assert (time.process_time() - begin) / 20 < 0.05


class TestBranches:
    def test_who_is_not_named_succeeds_with_none_in_declared_order(self) -> None:
        simulated = simulate(fan_in_of({"count": 11}), values={"process_10": "last", "process_2": "third"})

        values = {**dict.fromkeys(range(11)), 10: "last", 2: "third"}
        assert list(simulated.return_value.items()) == [(f"process_{n}", v) for n, v in values.items()]
        assert (simulated.state, simulated.error, simulated.exception) == ("success", None, None)

    def test_the_fan_in_may_be_named_by_its_output(self) -> None:
        assert simulate(fan_in_of().output, values={"process_0": 1}).return_value["process_0"] == 1

    @pytest.mark.parametrize(
        "settings", [{}, {"mapped": True}, {"items_per_task": 2}, {"prefix_group_id": False}], ids=repr
    )
    def test_names_are_the_same_in_every_mode(self, settings: dict[str, Any]) -> None:
        fan_in = fan_in_of({"items": {"eu": 1, "us": 2}, "count": None, **settings}, min_success=1)
        simulated = simulate(fan_in, {"us": "failed"}, {"eu": 5})

        assert (simulated.state, simulated.return_value) == ("degraded", {"eu": 5})

    def test_a_branch_of_several_tasks_is_one(self) -> None:
        @task_group
        def etl(index: str) -> Any:
            step = task(work)
            return step.override(task_id="load")(step.override(task_id="extract")(index))

        simulated = simulate(fan_in_of({"branch": etl, "count": 2}), {"process_1": ValueError("x")})

        assert "process_1: failed: ValueError: x" in str(simulated.error)

    def test_a_fan_in_within_a_mapped_task_group_has_its_own(self) -> None:
        made: list[FanInOperator] = []

        @task_group
        def region(name: str) -> None:
            made.append(fan_in_of({"partial": {"item": name}}))

        region.expand(name=["eu", "us"])

        assert simulate(made[0], {"process_0": "failed"}).state == "failed"


def stopping(**more: Any) -> FanInOperator:
    return fan_in_of({"stop_after_failures": 1, **more}, min_success=1, count_skipped="success")


class TestStopped:
    @pytest.mark.parametrize(
        ("settings", "count"),
        [({}, "1 of 4 branches"), ({"items_per_task": 4}, "1 or more items")],
        ids=["static", "batched"],
    )
    def test_branches_count_as_failures_and_say_why(self, settings: dict[str, Any], count: str) -> None:
        simulated = simulate(stopping(**settings), told_of("success", "failed", "stopped", "stopped"))

        assert simulated.state == "degraded"
        assert simulated.report is not None
        assert simulated.report["skipped"] == 2
        reason = f"not started: {count} of 'process' have failed"
        assert str(simulated.report["problems"][1]["error"]).startswith(reason)


class TestKnownAtRunTime:
    @in_tasks
    def test_a_count_stands_in(self, batch: dict[str, Any]) -> None:
        simulated = simulate(fan_in_of(of_run_time(**batch)), values={"process_2": 2}, count=3)

        assert simulated.return_value == {"process_0": None, "process_1": None, "process_2": 2}

    @in_tasks
    def test_names_stand_in(self, batch: dict[str, Any]) -> None:
        fan_in = fan_in_of(of_run_time(**batch), min_success=1)

        assert simulate(fan_in, {"eu": "failed"}, names=["eu", "us"]).return_value == {"us": None}

    @pytest.mark.parametrize(
        ("group", "numbers"),
        [
            ({"count": 0}, {}),
            ({"count": None, "items": []}, {}),
            ({"count": None, "items": "of run time"}, {"count": 0}),
            ({"count": None, "items": "of run time", "items_per_task": 2}, {"count": 0}),
        ],
        ids=["count", "items", "mapped", "batched"],
    )
    @pytest.mark.parametrize(
        ("on_empty", "state"), [("succeed", "success"), ("fail", "failed"), ("skip", "skipped")]
    )
    def test_zero_reaches_on_empty(
        self, group: dict[str, Any], numbers: dict[str, Any], on_empty: str, state: str
    ) -> None:
        items = {"items": tell()} if group.get("items") == "of run time" else {}

        assert simulate(fan_in_of({**group, **items}, on_empty=on_empty), **numbers).state == state


class TestOtherTasks:
    @in_tasks
    @pytest.mark.parametrize("what", ["items", "count"])
    def test_a_failed_items_task_fails_it(self, batch: dict[str, Any], what: str) -> None:
        group = {"count": None, what: tell(), **batch}
        simulated = simulate(fan_in_of(group, min_success=1, on_empty="succeed"), {"tell": "failed"})

        assert simulated.state == "failed"
        assert isinstance(simulated.exception, UpstreamFailedError)
        assert "'process.each' failed, because 'tell' failed" in str(simulated.error)

    @in_tasks
    def test_a_skipped_items_task_skips_it(self, batch: dict[str, Any]) -> None:
        fan_in = fan_in_of(of_run_time(**batch), on_empty="fail")
        simulated = simulate(fan_in, {"tell": AirflowSkipException()})

        assert (simulated.state, simulated.error) == ("skipped", None)
        assert isinstance(simulated.exception, AirflowSkipException)

    @in_tasks
    def test_a_bound_argument_keeps_a_mapped_group_from_expanding(self, batch: dict[str, Any]) -> None:
        @task(task_id="work")
        def both(one: str, two: str) -> None: ...

        group = of_run_time(branch=both, partial={"one": something_else()}, **batch)

        assert isinstance(simulate(fan_in_of(group), {"other": "failed"}).exception, UpstreamFailedError)

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
        simulated = simulate(fan_in, {"load_0": ValueError("lost")}, {"load_1": 1})

        assert simulated.return_value == {"load_1": 1}
        assert simulated.report is not None
        # Airflow keeps no error of a task that is not made here.
        assert simulated.report["problems"] == [{"name": "load_0", "state": "failed", "error": None}]

    @pytest.mark.parametrize(
        ("settings", "name"),
        [
            pytest.param({}, "process.process_1", id="static"),
            pytest.param({"mapped": True}, "process.each[1]", id="mapped"),
            pytest.param({"items_per_task": 2}, "process.process_1", id="batched"),
        ],
    )
    def test_branches_of_a_group_have_their_ids(self, settings: dict[str, Any], name: str) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.", min_success=1)
        FanOutGroup("process", branch=work, items=["a", "b"], **settings) >> fan_in

        assert list(simulate(fan_in, {name: ValueError("x")}).return_value) == [name.replace("1", "0")]

    def test_several_numbers_are_told_by_group_and_task(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="load")
        FanOutGroup("load_a", branch=work, items=tell()) >> fan_in
        FanOutGroup("load_b", branch=work, items=tell(), items_per_task=2) >> fan_in
        task(task_id="load_c")(work).expand(item=["x"]) >> fan_in

        simulated = simulate(fan_in, count={"load_a": 1, "load_c": 1}, names={"load_b": ["eu"]})

        assert list(simulated.return_value) == ["load_a.each[0]", "load_b.eu", "load_c[0]"]
        counts: list[tuple[Any, str]] = [
            (3, "found 3 for several: 'load_a', 'load_b', 'load_c'"),
            ({"load_b": 1}, "number of branches of 'load_a', 'load_c', which only a run knows"),
            ({"load": 1}, "found 'load'; only the branches of 'load_a'"),
        ]
        for count, message in counts:
            with pytest.raises(DeclarationValueError, match=message):
                simulate(fan_in, count=count)

    @pytest.mark.parametrize("state", ["failed", "skipped"])
    def test_a_foreign_mapped_task_waits_for_its_items(self, state: str) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="load", min_success=1)
        task(task_id="load")(work).expand(item=tell()) >> fan_in

        assert simulate(fan_in, {"tell": state}).state == state

    def test_a_forgotten_wire_fails_it_before_it_reads(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="load_")
        task(task_id="load_0")(work)() >> fan_in
        task(task_id="load_1")(work)()
        simulated = simulate(fan_in)

        assert (simulated.state, simulated.report) == ("failed", None)
        assert isinstance(simulated.exception, PrefixError)

    def test_it_is_rendered(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="{{ params.what }}_")
        task(task_id="load_0")(work)() >> fan_in

        assert simulate(fan_in, context={"params": {"what": "load"}}).return_value == {"load_0": None}
        assert fan_in.task_id_prefix == "{{ params.what }}_"


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

        simulated = simulate(fan_in_of(python_callable=refuse))

        assert (simulated.state, simulated.error) == ("failed", "KeyError: 'not like this'")
        assert simulated.exception is not None
        assert simulated.exception.__traceback__ is not None
        assert simulated.report is not None

    @pytest.mark.parametrize("default", [False, True], ids=["without a default", "with one"])
    def test_context_values_that_it_takes_are_told(self, default: bool) -> None:
        def stamp(results: FanInResults, ds: Any) -> Any:
            return ds

        def stamp_by_default(results: FanInResults, ds: Any = "") -> Any:
            return ds

        fan_in = fan_in_of(python_callable=stamp_by_default if default else stamp)

        assert simulate(fan_in, context={"ds": "2026-01-01"}).return_value == "2026-01-01"
        with pytest.raises(DeclarationValueError, match="takes 'ds', which only a run has; give context="):
            simulate(fan_in)
        assert simulate(fan_in, {"process_0": "failed"}).state == "failed"  # it never gets there

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

    def test_templates_are_rendered_anew_each_time(self) -> None:
        def stamp(results: FanInResults, day: str) -> str:
            return day

        fan_in = fan_in_of(python_callable=stamp, op_kwargs={"day": "day {{ ds }}"})

        for day in ("2026-01-01", "2026-01-02"):
            assert simulate(fan_in, context={"ds": day}).return_value == f"day {day}"


def beside(task_id: str) -> FanInOperator:
    """A fan-in with a task directly upstream that is no branch."""
    fan_in = fan_in_of()
    task(task_id=task_id)(work)() >> fan_in
    return fan_in


def after_another() -> FanInOperator:
    """A fan-in with a task before its branches."""
    fan_in = fan_in_of()
    something_else() >> fan_in.dag.get_task("process.process_0")
    return fan_in


def batches() -> FanInOperator:
    return fan_in_of({"items_per_task": 4})


def mapped_after_other() -> dict[str, Any]:
    return {"mapped": True, "partial": {"item": something_else()}}


def templated() -> FanInOperator:
    return fan_in_of(python_callable=lambda _, day: day, op_kwargs={"day": "{{ ds }}"})


NOBODY, FAILED, OTHER = {"process_9": "failed"}, {"process_0": "failed"}, {"other": "failed"}


PAST_FAILURES = {"default_args": {"trigger_rule": "all_done"}}


class TestMistakes:
    @pytest.mark.parametrize(
        ("make", "told", "message"),
        [
            (fan_in_of, [NOBODY], "outcomes: no branch is named 'process_9'.*'process_0'"),
            (fan_in_of, [{}, NOBODY], "values: no branch is named 'process_9'.*'process_0'"),
            (lambda: beside("other"), [NOBODY], "other tasks: 'other'"),
            (lambda: beside("process_0"), [FAILED], "'process_0' is the name of a branch and the id"),
            (
                lambda: beside("other"),
                [{"other": "missing"}],
                "'other': expected 'success',.*found 'missing'",
            ),
            (after_another, [OTHER], "'other' fails, .*, give those after it 'upstream_failed'"),
            (lambda: fan_in_of(of_run_time()), [{"tell": "failed", **FAILED}], "'process_0'; branches: none"),
            (fan_in_of, [FAILED, FAILED], "'process_0' has no value, because its outcome is 'failed'"),
            (fan_in_of, [{"process_3": "stopped"}], "its group has no stop_after_failures="),
            (stopping, [{"process_3": "stopped"}], "can't have been stopped after 0 failures"),
            (batches, [told_of("failed", "missing")], "'process_1' can't be missing beside failed"),
            (batches, [told_of("removed")], "'process_1', .* can't be anything but 'removed'"),
            (fan_in_of, [{"process_0": "fail"}], "'missing', 'removed', 'stopped' or an exc.* found 'fail'"),
            (fan_in_of, [{"process_0": ValueError}], "or an exception, found .*; make one: ValueError"),
            (fan_in_of, [{"process_0": None}], "or an exception, found None"),
            (fan_in_of, [["failed"]], "outcomes: expected a dict by the names"),
            (fan_in_of, [{}, ["a"]], "values: expected a dict by the names"),
            (lambda: FanOutGroup("process", branch=work, count=2), [], "fan_in: expected a FanInOperator or"),
            (templated, [], "to render op_kwargs, found 'ds' is undefined"),
            (
                lambda: FanInOperator(task_id="c", task_id_prefix="{{ x }}_"),
                [],
                "to render task_id_prefix, fo",
            ),
            # Over a literal, Airflow expands before the run begins, so that each instance is a branch.
            (lambda: fan_in_of(mapped_after_other()), [OTHER], "no branch is named 'other'"),
            # With another trigger rule nobody says what a failure does.
            (lambda: fan_in_of(of_run_time(**PAST_FAILURES)), [{"tell": "failed"}], "only a run knows"),
        ],
    )
    def test_they_are_refused_with_the_way_out(self, make: Any, told: list[Any], message: str) -> None:
        with pytest.raises((DeclarationValueError, DeclarationTypeError), match=message):
            simulate(make(), *told)

    @pytest.mark.parametrize(
        ("group", "numbers", "message"),
        [
            ("items", {}, r"number of branches of 'process'.*give count=3"),
            ("items", {"count": 1, "names": ["eu"]}, "expected count= or names= for 'process', found both"),
            *(("items", {"count": n}, "count: expected .*'process', found") for n in (-1, True, "3", 1.0)),
            *(("items", {"names": n}, "names: expected .*'process', found") for n in ("eu", 3, [1], [""])),
            ("items", {"names": ["eu", "eu"]}, "names: found 'eu' more than once"),
            ("items", {"count": 3, "outcomes": {"tell": "failed"}}, "never gets branches, .*; leave it out"),
            ("count", {"names": ["eu"]}, "no names of their own; give count="),
            (None, {"count": 4}, "all branches are known from the Dag file; leave it out"),
            (None, {"names": ["a"]}, "all branches are known from the Dag file; leave it out"),
        ],
    )
    @in_tasks
    def test_numbers_of_branches_that_cannot_be_are_refused(
        self, batch: dict[str, Any], group: str | None, numbers: dict[str, Any], message: str
    ) -> None:
        settings = {} if group is None else {"count": None, group: tell()}
        with pytest.raises((DeclarationValueError, DeclarationTypeError), match=message):
            simulate(fan_in_of({**settings, **batch}), **numbers)

    @pytest.mark.usefixtures("no_dag")
    def test_a_fan_in_outside_of_a_dag_is_refused(self) -> None:
        with pytest.raises(DeclarationValueError, match="'combine' is in no Dag"):
            simulate(FanInOperator(task_id="combine", task_id_prefix="load_"))


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


class TestACombination:
    def test_is_made_batch_by_batch_and_then_of_the_batches(self) -> None:
        fan_in = fan_in_of({"items_per_task": 3, "combine": lambda a, b: f"({a}{b})"})

        assert simulate(fan_in, values=told_of(*"abcd")).return_value == "(((ab)c)d)"

    def test_is_by_key_for_the_function(self) -> None:
        fan_in = fan_in_of(
            {"items_per_task": 3, "combine": operator.add, "combine_by": lambda text: text[0]},
            python_callable=lambda results: (
                results.combined,
                list(results),
                results.outcomes["process_0"].value,
            ),
            min_success=3,
        )
        simulation = simulate(fan_in, {"process_2": "failed"}, told_of("b0", "a1") | {"process_3": "b3"})

        assert simulation.state == "degraded"
        combined = {"b": "b0b3", "a": "a1"}
        assert simulation.return_value == (combined, ["process_0", "process_1", "process_3"], None)
        assert list(simulation.return_value[0]) == ["b", "a"]

    def test_that_fails_in_a_batch_fails_its_items(self) -> None:
        fan_in = fan_in_of({"items_per_task": 3, "combine": operator.add}, min_success=1)
        simulation = simulate(fan_in, values=told_of(1, 2, "3", 4))

        assert (simulation.state, simulation.return_value) == ("degraded", 4)
        assert simulation.report is not None
        error = "CombineError: combine of 'process_1' and 'process_2' raised TypeError: unsupported operand "
        assert [problem["name"] for problem in simulation.report["problems"]] == [*told_of(0, 0, 0)]
        assert {problem["error"] for problem in simulation.report["problems"]} == {
            f"{error}type(s) for +: 'int' and 'str'"
        }

    def test_that_fails_between_batches_fails_the_fan_in(self) -> None:
        fan_in = fan_in_of({"items_per_task": 2, "combine": operator.add})
        simulation = simulate(fan_in, values=told_of(1, 2, "3", "4"))

        assert (simulation.state, type(simulation.exception)) == ("failed", CombineError)

    @pytest.mark.parametrize("count", [0, 2])
    def test_is_of_as_many_as_there_are(self, count: int) -> None:
        fan_in = fan_in_of(of_run_time(items_per_task=2, combine=operator.add, combine_by=str))
        values = told_of("a", "b") if count else {}

        assert simulate(fan_in, values=values, count=count).return_value == dict(
            zip("ab"[:count], "ab"[:count], strict=True)
        )
