from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from structlog.testing import capture_logs

from airflow_fanout import BranchOutcome, FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.exceptions import (
    BranchesRunningError,
    EmptyFanInError,
    FanInError,
    PrefixError,
    TooFewBranchesError,
    UpstreamFailedError,
)
from airflow_fanout.execution_time.ledger import refuse_cleared
from airflow_fanout.execution_time.results import Page
from airflow_fanout.rules.outcomes import NO_EXCEPTION_RECORDED
from airflow_fanout.rules.records import REPORT_KEY
from tests.unit.fake_run import FakeRun, run_fan_in

pytestmark = pytest.mark.usefixtures("dag")

REPORT_FIELDS = {
    "expected",
    "counted",
    "succeeded",
    "failed",
    "skipped",
    "missing",
    "degraded",
    "total_branch_seconds",
    "longest_branch",
    "longest_branch_seconds",
    "problems",
}


def work(item: str = "") -> str:
    return item


def fan_in_of(count: int = 3, *, group: dict[str, Any] | None = None, **arguments: Any) -> FanInOperator:
    process = FanOutGroup("process", **{"branch": work, "count": count, **(group or {})})
    return FanInOperator(task_id="combine", fan_out=process, **arguments)


def run_of(*states: str, prefix: str = "process.process_") -> FakeRun:
    """A run with one branch in each of these states; a success returns its own index."""
    run = FakeRun()
    for index, state in enumerate(states):
        task_id = f"{prefix}{index}"
        if state == "success":
            run.succeed(task_id, index)
        elif state == "failed":
            run.fail(task_id)
        elif state == "missing":
            run.add(task_id, "success", duration=0.0)
        else:
            run.add(task_id, state, duration=None)
    return run


class TestWhatItReturns:
    def test_without_a_function_values_by_name(self) -> None:
        verdict = run_fan_in(fan_in_of(3), run_of("success", "success", "success"))

        assert verdict.value == {"process_0": 0, "process_1": 1, "process_2": 2}
        assert list(verdict.value) == ["process_0", "process_1", "process_2"]
        assert type(verdict.value) is dict

    def test_names_of_a_mapping_are_its_keys_in_its_order(self) -> None:
        fan_in = fan_in_of(group={"items": {"b": 1, "a": 2}, "count": None})
        run = FakeRun().succeed("process.a", "A").succeed("process.b", "B")

        assert list(run_fan_in(fan_in, run).value.items()) == [("b", "B"), ("a", "A")]

    def test_the_tenth_comes_after_the_ninth(self) -> None:
        verdict = run_fan_in(fan_in_of(12), run_of(*["success"] * 12))

        assert list(verdict.value.values()) == list(range(12))

    def test_none_is_a_value(self) -> None:
        run = FakeRun().succeed("process.process_0").succeed("process.process_1", 0)

        assert run_fan_in(fan_in_of(2), run).value == {"process_0": None, "process_1": 0}

    def test_a_failed_branch_leaves_no_gap_and_moves_nobody(self) -> None:
        verdict = run_fan_in(fan_in_of(3, min_success=2), run_of("success", "failed", "success"))

        assert verdict.value == {"process_0": 0, "process_2": 2}

    def test_another_key_is_read(self) -> None:
        run = FakeRun().succeed("process.process_0", "value", key="rows")
        run.xcoms["process.process_0", -1, "return_value"] = "not this"

        assert run_fan_in(fan_in_of(1, key="rows"), run).value == {"process_0": "value"}


class TestItsFunction:
    def test_it_is_given_the_results(self) -> None:
        given: list[object] = []
        verdict = run_fan_in(fan_in_of(2, python_callable=given.append), run_of("success", "success"))

        assert verdict.value is None
        (results,) = given
        assert isinstance(results, FanInResults)
        assert results == {"process_0": 0, "process_1": 1}

    def test_its_value_is_the_fan_ins(self) -> None:
        assert run_fan_in(fan_in_of(2, python_callable=len), run_of("success", "success")).value == 2

    def test_it_is_given_op_kwargs(self) -> None:
        def combine(results: FanInResults, factor: int, *, start: int) -> int:
            total: int = sum(results.values())
            return total * factor + start

        fan_in = fan_in_of(3, python_callable=combine, op_kwargs={"factor": 10, "start": 1})

        assert run_fan_in(fan_in, run_of(*["success"] * 3)).value == 31

    def test_it_is_given_the_context_values_that_it_names(self) -> None:
        def combine(results: FanInResults, ds: str, *, run_id: str) -> list[str]:
            return [ds, run_id]

        verdict = run_fan_in(
            fan_in_of(1, python_callable=combine),
            run_of("success"),
            ds="2026-01-01",
            run_id="manual",
            extra=1,
        )

        assert verdict.value == ["2026-01-01", "manual"]

    def test_op_kwargs_come_before_the_context(self) -> None:
        fan_in = fan_in_of(1, python_callable=lambda results, ds: ds, op_kwargs={"ds": "mine"})

        assert run_fan_in(fan_in, run_of("success"), ds="Airflow's").value == "mine"

    def test_any_keyword_is_given_all(self) -> None:
        fan_in = fan_in_of(1, python_callable=lambda results, **all_: sorted(all_), op_kwargs={"mine": 1})

        assert run_fan_in(fan_in, run_of("success"), ds="x").value == ["ds", "mine", "ti"]

    def test_it_is_not_called_when_the_verdict_is_against_the_run(self) -> None:
        called: list[object] = []

        run_fan_in(fan_in_of(1, python_callable=called.append), run_of("failed"))

        assert called == []

    def test_it_is_called_with_an_empty_mapping_where_there_are_no_branches(self) -> None:
        run = FakeRun().add("process.no_branches", operator="EmptyOperator")

        assert run_fan_in(fan_in_of(0, python_callable=lambda results: [*results, "end"]), run).value == [
            "end"
        ]

    def test_what_it_raises_is_raised(self) -> None:
        def combine(results: FanInResults) -> None:
            raise LookupError(*results)

        verdict = run_fan_in(fan_in_of(1, python_callable=combine), run_of("success"))

        assert isinstance(verdict.error, LookupError)
        assert verdict.report is not None


VERDICTS = [
    pytest.param(["success"] * 3, {}, None, id="all succeeded"),
    pytest.param(["success", "success", "failed"], {}, TooFewBranchesError, id="one failed"),
    pytest.param(["success", "success", "upstream_failed"], {}, TooFewBranchesError, id="one not started"),
    pytest.param(["success", "success", "missing"], {}, TooFewBranchesError, id="one missing"),
    pytest.param(["success", "success", "skipped"], {}, None, id="one skipped"),
    pytest.param(["skipped"] * 3, {}, AirflowSkipException, id="all skipped"),
    pytest.param(
        ["skipped"] * 3,
        {"min_success": 1, "count_skipped": "success"},
        None,
        id="all skipped and taken for successes",
    ),
    pytest.param(
        ["skipped"] * 3,
        {"min_success": 1, "count_skipped": "failure"},
        TooFewBranchesError,
        id="all skipped and taken for failures",
    ),
    pytest.param(["success", "success", "failed"], {"min_success": 2}, None, id="as many as are needed"),
    pytest.param(["success", "failed", "failed"], {"min_success": 2}, TooFewBranchesError, id="one too few"),
    pytest.param(["success", "success", "failed"], {"min_success_ratio": 0.66}, None, id="the share"),
    pytest.param(
        ["success", "success", "failed"],
        {"min_success_ratio": 0.67},
        TooFewBranchesError,
        id="less than the share",
    ),
    pytest.param(
        ["success", "failed", "skipped"], {"min_success_ratio": 0.5}, None, id="the share of the counted"
    ),
    pytest.param([], {}, None, id="no branches"),
    pytest.param([], {"min_success": 1}, EmptyFanInError, id="no branches, a number"),
    pytest.param([], {"min_success_ratio": 0.1}, EmptyFanInError, id="no branches, a share"),
    pytest.param([], {"on_empty": "fail"}, EmptyFanInError, id="no branches, told to fail"),
    pytest.param([], {"on_empty": "skip"}, AirflowSkipException, id="no branches, told to skip"),
    pytest.param([], {"min_success": 1, "on_empty": "succeed"}, None, id="no branches, told to succeed"),
]


class TestItsVerdict:
    @pytest.mark.parametrize(("states", "policy", "error"), VERDICTS)
    def test_the_table_decides(
        self, states: list[str], policy: dict[str, Any], error: type[Exception] | None
    ) -> None:
        run = run_of(*states).add("process.no_branches", operator="EmptyOperator")

        verdict = run_fan_in(fan_in_of(len(states), **policy), run)

        assert type(verdict.error) is (type(None) if error is None else error)

    @pytest.mark.parametrize(("states", "policy", "error"), VERDICTS)
    def test_the_report_is_pushed_whatever_the_verdict(
        self, states: list[str], policy: dict[str, Any], error: type[Exception] | None
    ) -> None:
        run = run_of(*states).add("process.no_branches", operator="EmptyOperator")

        report = run_fan_in(fan_in_of(len(states), **policy), run).report

        assert report is not None
        assert set(report) == REPORT_FIELDS
        assert report["expected"] == len(states)

    @pytest.mark.parametrize(
        "error", [TooFewBranchesError, EmptyFanInError, UpstreamFailedError, PrefixError, FanInError]
    )
    def test_a_verdict_against_the_run_is_not_retried(self, error: type[Exception]) -> None:
        assert issubclass(error, AirflowFailException)
        assert issubclass(error, FanInError)

    def test_a_branch_that_was_cleared_in_between_is_retried(self) -> None:
        assert not issubclass(BranchesRunningError, AirflowFailException)

    def test_it_names_numbers_tolerance_branches_states_and_errors(self) -> None:
        verdict = run_fan_in(
            fan_in_of(4, min_success=3, min_success_ratio=0.5),
            run_of("success", "failed", "upstream_failed", "missing"),
        )

        assert verdict.message == (
            "1 of 4 branches succeeded, 3 needed (min_success=3, min_success_ratio=0.5).\n"
            "  process_1: failed: ValueError: broken\n"
            "  process_2: upstream_failed\n"
            "  process_3: missing: it was marked success by hand, and pushed nothing"
        )

    def test_the_facts_are_attributes_too(self) -> None:
        error = run_fan_in(fan_in_of(3), run_of("success", "failed", "skipped")).error

        assert isinstance(error, TooFewBranchesError)
        assert (error.needed, error.succeeded) == (2, 1)
        assert [(problem.name, problem.error) for problem in error.problems] == [
            ("process_1", "ValueError: broken")
        ]

    @pytest.mark.parametrize(
        ("failures", "end"), [(20, "process_19"), (21, "and 1 more"), (300, "and 280 more")]
    )
    def test_it_names_the_first_twenty(self, failures: int, end: str) -> None:
        verdict = run_fan_in(fan_in_of(failures), run_of(*["failed"] * failures))

        assert verdict.message.count("process_") == 20
        assert end in verdict.message.splitlines()[-1]
        assert verdict.report is not None
        assert [problem["name"] for problem in verdict.report["problems"]] == [
            f"process_{index}" for index in range(20)
        ]

    @pytest.mark.parametrize(
        ("states", "policy", "end"),
        [
            pytest.param(["failed"] * 15 + ["missing"] * 10, {}, "and 5 more", id="failed and missing"),
            pytest.param(["failed"] * 21 + ["skipped"] * 5, {}, "and 1 more", id="the skipped are none"),
            pytest.param(
                ["failed"] * 21 + ["skipped"] * 5,
                {"min_success": 1, "count_skipped": "failure"},
                "and 6 more",
                id="the skipped are failures",
            ),
        ],
    )
    def test_it_counts_the_others_that_are_at_fault(
        self, states: list[str], policy: dict[str, Any], end: str
    ) -> None:
        verdict = run_fan_in(fan_in_of(len(states), **policy), run_of(*states))

        assert verdict.message.splitlines()[-1].strip() == end

    def test_skipped_branches_that_count_as_failures_are_named(self) -> None:
        verdict = run_fan_in(
            fan_in_of(3, min_success=3, count_skipped="failure"), run_of("success", "skipped", "skipped")
        )

        assert "process_1: skipped" in verdict.message
        assert "process_2: skipped" in verdict.message

    def test_skipped_branches_that_do_not_are_not(self) -> None:
        verdict = run_fan_in(fan_in_of(3), run_of("failed", "skipped", "skipped"))

        assert "skipped" not in verdict.message

    def test_a_failure_without_a_record_says_so(self) -> None:
        run = FakeRun().add("process.process_0", "failed")

        assert NO_EXCEPTION_RECORDED in run_fan_in(fan_in_of(1), run).message

    def test_degraded_is_said_in_log_and_report(self) -> None:
        with capture_logs() as logged:
            verdict = run_fan_in(fan_in_of(3, min_success=2), run_of("success", "failed", "success"))

        assert verdict.report is not None
        assert verdict.report["degraded"] is True
        (warning,) = [entry for entry in logged if entry["log_level"] == "warning"]
        said = warning["event"]
        assert said.splitlines() == [
            "Degraded: 2 of 3 branches succeeded, 2 needed (min_success=2).",
            "  process_1: failed: ValueError: broken",
        ]

    def test_all_succeeded_is_not_degraded(self) -> None:
        report = run_fan_in(fan_in_of(1, min_success=1), run_of("success")).report

        assert report is not None
        assert report["degraded"] is False


class TestItsReport:
    def test_one_branch_is_one(self) -> None:
        with capture_logs() as logged:
            run_fan_in(fan_in_of(1), run_of("success"))

        assert logged[0]["event"].startswith("1 branch: 1 succeeded (")

    def test_the_log_has_the_numbers_and_the_longest_branch(self) -> None:
        with capture_logs() as logged:
            run_fan_in(fan_in_of(3, min_success=1), run_of("success", "failed", "skipped"))

        said = [entry["event"] for entry in logged]
        degraded, numbers, longest, more = said
        assert degraded.startswith("Degraded: ")
        assert numbers.startswith("3 branches: 1 succeeded, 1 failed, 1 skipped (")
        assert longest == (
            "1.0 s in successful branches; the longest is process_0 with 1.0 s: at best a speed-up of 1.0×"
        )
        assert more == "More: airflow fanout report pipeline 'the run'"

    def test_the_log_says_that_there_are_no_branches(self) -> None:
        with capture_logs() as logged:
            run_fan_in(fan_in_of(0), FakeRun().add("process.no_branches", operator="EmptyOperator"))

        (entry,) = logged
        assert entry["event"].startswith("0 branches: none (")

    def test_it_has_the_numbers(self) -> None:
        states = ["success", "failed", "upstream_failed", "skipped", "missing", "success"]
        report = run_fan_in(fan_in_of(6, min_success=1), run_of(*states)).report

        assert report is not None
        counts = {
            name: report[name]
            for name in ("expected", "counted", "succeeded", "failed", "skipped", "missing")
        }
        assert counts == {
            "expected": 6,
            "counted": 5,
            "succeeded": 2,
            "failed": 2,
            "skipped": 1,
            "missing": 1,
        }

    def test_seconds_are_those_of_successful_branches(self) -> None:
        run = FakeRun()
        run.succeed("process.process_0", 0, duration=1.5).succeed("process.process_1", 1, duration=4.25)
        run.fail("process.process_2", duration=100.0)

        report = run_fan_in(fan_in_of(3, min_success=1), run).report

        assert report is not None
        assert report["total_branch_seconds"] == 5.75
        assert (report["longest_branch"], report["longest_branch_seconds"]) == ("process_1", 4.25)

    def test_of_equally_long_branches_the_first_is_named(self) -> None:
        run = run_of("success", "success")

        report = run_fan_in(fan_in_of(2), run).report

        assert report is not None
        assert report["longest_branch"] == "process_0"

    def test_a_branch_of_no_seconds_may_be_the_longest(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="part_")
        EmptyOperator(task_id="part_0") >> fan_in

        report = run_fan_in(fan_in, FakeRun().add("part_0", duration=0.0, operator="EmptyOperator")).report

        assert report is not None
        assert (report["longest_branch"], report["longest_branch_seconds"]) == ("part_0", 0.0)

    def test_without_successes_there_is_no_longest(self) -> None:
        report = run_fan_in(fan_in_of(1), run_of("failed")).report

        assert report is not None
        assert (report["total_branch_seconds"], report["longest_branch"]) == (0, None)
        assert report["longest_branch_seconds"] is None

    def test_problems_are_name_state_and_error(self) -> None:
        report = run_fan_in(
            fan_in_of(3, min_success=1), run_of("success", "failed", "upstream_failed")
        ).report

        assert report is not None
        assert report["problems"] == [
            {"name": "process_1", "state": "failed", "error": "ValueError: broken"},
            {"name": "process_2", "state": "upstream_failed", "error": None},
        ]

    def test_it_is_json(self) -> None:
        verdict = run_fan_in(fan_in_of(3, min_success=1), run_of("success", "failed", "skipped"))

        assert json.loads(json.dumps(verdict.report)) == verdict.report

    def test_its_key_is_the_one_that_is_documented(self) -> None:
        assert REPORT_KEY == "fan_out_report"


class TestWhatIsUpstreamAndNoBranch:
    @pytest.mark.parametrize("tolerance", [{}, {"min_success": 1}], ids=["no tolerance", "a tolerance"])
    @pytest.mark.parametrize("state", ["failed", "upstream_failed"])
    def test_its_failure_fails_the_fan_in(self, tolerance: dict[str, Any], state: str) -> None:
        fan_in = fan_in_of(1, **tolerance)
        EmptyOperator(task_id="before") >> fan_in

        verdict = run_fan_in(fan_in, run_of("success").add("before", state))

        assert isinstance(verdict.error, UpstreamFailedError)
        assert verdict.error.task_ids == ("before",)
        assert "'before'" in verdict.message
        assert verdict.report is not None

    @pytest.mark.parametrize("tolerance", [{}, {"min_success": 1}], ids=["no tolerance", "a tolerance"])
    def test_its_skipping_skips_the_fan_in(self, tolerance: dict[str, Any]) -> None:
        fan_in = fan_in_of(1, **tolerance)
        EmptyOperator(task_id="before") >> fan_in

        verdict = run_fan_in(fan_in, run_of("success").add("before", "skipped"))

        assert isinstance(verdict.error, AirflowSkipException)
        assert "'before'" in verdict.message

    def test_a_failure_counts_more_than_a_skip(self) -> None:
        fan_in = fan_in_of(1)
        [EmptyOperator(task_id="a"), EmptyOperator(task_id="b")] >> fan_in

        verdict = run_fan_in(fan_in, run_of("success").add("a", "skipped").add("b", "failed"))

        assert isinstance(verdict.error, UpstreamFailedError)

    def test_it_counts_before_the_branches(self) -> None:
        fan_in = fan_in_of(1)
        EmptyOperator(task_id="before") >> fan_in

        verdict = run_fan_in(fan_in, run_of("failed").add("before", "failed"))

        assert isinstance(verdict.error, UpstreamFailedError)

    @pytest.mark.parametrize("state", ["failed", "skipped"])
    def test_a_fan_in_that_does_not_succeed_is_not_degraded(self, state: str) -> None:
        fan_in = fan_in_of(2, min_success=1)
        EmptyOperator(task_id="before") >> fan_in

        report = run_fan_in(fan_in, run_of("success", "failed").add("before", state)).report

        assert report is not None
        assert (report["degraded"], report["succeeded"], report["failed"]) == (False, 1, 1)

    def test_its_success_changes_nothing(self) -> None:
        fan_in = fan_in_of(1)
        EmptyOperator(task_id="before") >> fan_in

        assert run_fan_in(fan_in, run_of("success").add("before", "success")).value == {"process_0": 0}

    def test_the_cause_further_up_is_named(self) -> None:
        first, before = EmptyOperator(task_id="first"), EmptyOperator(task_id="before")
        fan_in = fan_in_of(1)
        first >> before >> fan_in

        run = run_of("success").add("before", "upstream_failed").add("first", "failed").add("other", "failed")
        verdict = run_fan_in(fan_in, run)

        assert "'before' failed, because 'first' failed" in verdict.message

    def test_a_teardown_is_not_asked(self) -> None:
        fan_in = fan_in_of(1)
        EmptyOperator(task_id="clear_up").as_teardown() >> fan_in

        assert run_fan_in(fan_in, run_of("success").add("clear_up", "failed")).error is None

    def test_a_failed_task_that_is_not_direct_is_for_the_branches_to_tell(self) -> None:
        fan_in = fan_in_of(1, min_success=1)
        EmptyOperator(task_id="load") >> list(fan_in.upstream_list)

        verdict = run_fan_in(fan_in, run_of("upstream_failed").add("load", "failed"))

        assert isinstance(verdict.error, TooFewBranchesError)

    def test_a_failure_before_no_branches_fails_the_fan_in(self) -> None:
        """It is never "0 of 0, success"."""
        process = FanOutGroup("process", branch=work, count=0)
        EmptyOperator(task_id="load") >> process
        fan_in = FanInOperator(task_id="combine", fan_out=process)

        run = FakeRun().add("load", "failed").add("process.no_branches", "upstream_failed")
        verdict = run_fan_in(fan_in, run)

        assert isinstance(verdict.error, UpstreamFailedError)
        assert "because 'load' failed" in verdict.message

    def test_a_skip_before_no_branches_skips_the_fan_in(self) -> None:
        run = FakeRun().add("process.no_branches", "skipped", duration=None)

        verdict = run_fan_in(fan_in_of(0, on_empty="fail"), run)

        assert isinstance(verdict.error, AirflowSkipException)


class TestRemovedBranches:
    """The Dag file changed while the run was under way."""

    def test_one_that_is_no_longer_declared_is_in_the_outcomes_and_not_expected(self) -> None:
        seen: list[FanInResults] = []
        fan_in = fan_in_of(2, python_callable=seen.append)

        verdict = run_fan_in(fan_in, run_of("success", "success", "removed"))

        assert verdict.error is None
        assert list(seen[0].outcomes) == ["process_0", "process_1", "process_2"]
        assert seen[0].outcomes["process_2"].state == "removed"
        assert verdict.report is not None
        assert (verdict.report["expected"], verdict.report["missing"]) == (2, 0)

    def test_a_value_that_it_left_is_not_shown(self) -> None:
        verdict = run_fan_in(fan_in_of(1), run_of("success", "success"))

        assert verdict.value == {"process_0": 0}

    def test_they_come_in_natural_order(self) -> None:
        seen: list[FanInResults] = []

        run_fan_in(fan_in_of(1, python_callable=seen.append), run_of("success", *["removed"] * 11))

        assert list(seen[0].outcomes) == [f"process_{index}" for index in range(12)]
        assert [outcome.index for outcome in seen[0].outcomes.values()] == list(range(12))

    def test_a_declared_branch_that_is_removed_is_not_expected(self) -> None:
        verdict = run_fan_in(fan_in_of(2), run_of("success", "removed"))

        assert verdict.value == {"process_0": 0}

    def test_other_tasks_are_none(self) -> None:
        seen: list[FanInResults] = []
        fan_in = fan_in_of(1, python_callable=seen.append)
        run = run_of("success").add("process_other.task").add("other").add("load", "removed")

        run_fan_in(fan_in, run)

        assert list(seen[0].outcomes) == ["process_0"]

    def test_the_task_that_stood_for_no_branches_is_none(self) -> None:
        """The count was 0 when the run began; helper tasks are no branches."""
        seen: list[FanInResults] = []
        run = run_of("success").add("process.no_branches", "removed")

        run_fan_in(fan_in_of(1, python_callable=seen.append), run)

        assert list(seen[0].outcomes) == ["process_0"]

    def test_a_task_that_the_author_added_to_the_group_is_none(self) -> None:
        seen: list[FanInResults] = []
        fan_in = fan_in_of(1, python_callable=seen.append)
        with fan_in.dag.task_group.get_child_by_label("process"):  # type: ignore[attr-defined]
            EmptyOperator(task_id="own")

        run_fan_in(fan_in, run_of("success").add("process.own"))

        assert list(seen[0].outcomes) == ["process_0"]


class TestRequests:
    """What it asks of the API server."""

    @pytest.mark.parametrize("count", [0, 1, 30])
    def test_a_static_group_takes_as_many_requests_as_branches_and_a_few(self, count: int) -> None:
        run = run_of(*["success"] * count).add("process.no_branches", operator="EmptyOperator")
        verdict = run_fan_in(fan_in_of(count), run)

        assert len(verdict.reader.method_calls) + len(["report"]) <= count + 3

    def test_a_failed_branch_takes_one_request(self) -> None:
        verdict = run_fan_in(fan_in_of(30, min_success=1), run_of("success", *["failed"] * 29))

        assert len(verdict.reader.method_calls) + len(["report"]) <= 33

    def test_a_branch_without_a_value_takes_one_more(self) -> None:
        run = FakeRun()
        for index in range(30):
            run.succeed(f"process.process_{index}")

        verdict = run_fan_in(fan_in_of(30), run)

        assert len(verdict.reader.method_calls) + len(["report"]) <= 30 + 3 + 30

    @pytest.mark.parametrize("state", ["skipped", "upstream_failed", "removed"])
    def test_a_branch_that_never_ran_takes_none(self, state: str) -> None:
        verdict = run_fan_in(fan_in_of(30, min_success=1), run_of("success", *[state] * 29))

        assert len(verdict.reader.method_calls) + len(["report"]) <= 1 + 3

    def test_a_function_that_looks_at_everything_takes_no_more(self) -> None:
        def look(results: FanInResults) -> list[object]:
            return [dict(results), dict(results.outcomes), results.failed, results.missing, results.get("x")]

        verdict = run_fan_in(fan_in_of(30, python_callable=look), run_of(*["success"] * 30))

        assert verdict.error is None
        assert len(verdict.reader.method_calls) + len(["report"]) <= 33


class TestBranchesOfSeveralTasks:
    @pytest.fixture
    def fan_in(self) -> FanInOperator:
        @task_group
        def branch() -> None:
            step = task(work)
            step.override(task_id="last")(step.override(task_id="first")())

        return fan_in_of(3, group={"branch": branch, "stop_after_failures": 1}, min_success=1)

    def run_of(self, **states: tuple[str, str]) -> FakeRun:
        run = FakeRun()
        for name, its in states.items():
            for step, state in zip(("first", "last"), its, strict=True):
                task_id = f"process.{name}.{step}"
                if state == "failed":
                    run.fail(task_id, f"E: {step} of {name}", duration=2.0)
                elif state == "success":
                    run.succeed(task_id, f"{name} {step}", duration=2.0)
                elif state == "stopped":
                    run.add(task_id, "skipped", record={"state": "stopped", "error": "not started: 1 of 3"})
                else:
                    run.add(task_id, state, duration=None)
        return run

    def test_the_value_is_that_of_the_last_task(self, fan_in: FanInOperator) -> None:
        run = self.run_of(**{f"process_{index}": ("success", "success") for index in range(3)})

        assert run_fan_in(fan_in, run).value == {
            f"process_{index}": f"process_{index} last" for index in range(3)
        }

    def test_a_branch_is_one_problem_with_the_error_of_its_task(self, fan_in: FanInOperator) -> None:
        run = self.run_of(
            process_0=("success", "success"),
            process_1=("failed", "upstream_failed"),
            process_2=("success", "failed"),
        )

        report = run_fan_in(fan_in, run).report

        assert report is not None
        assert (report["expected"], report["succeeded"], report["failed"]) == (3, 1, 2)
        assert report["problems"] == [
            {"name": "process_1", "state": "failed", "error": "E: first of process_1"},
            {"name": "process_2", "state": "failed", "error": "E: last of process_2"},
        ]
        assert report["longest_branch_seconds"] == 4.0

    def test_requests_are_one_for_each_branch_and_a_few(self, fan_in: FanInOperator) -> None:
        run = self.run_of(
            process_0=("success", "success"),
            process_1=("failed", "upstream_failed"),
            process_2=("stopped", "skipped"),
        )

        verdict = run_fan_in(fan_in, run)

        assert len(verdict.reader.method_calls) + len(["report"]) <= 3 + 3

    def test_the_stopped_count_and_are_skipped_with_the_reason(self, fan_in: FanInOperator) -> None:
        seen: list[FanInResults] = []
        fan_in.python_callable = seen.append
        run = self.run_of(
            process_0=("success", "success"),
            process_1=("failed", "upstream_failed"),
            process_2=("stopped", "skipped"),
        )

        report = run_fan_in(fan_in, run).report

        assert report is not None
        assert (report["expected"], report["counted"], report["skipped"]) == (3, 3, 1)
        assert report["degraded"] is True
        (results,) = seen
        assert results.skipped["process_2"].error == "not started: 1 of 3"

    def test_too_few_say_how_many_were_stopped(self, fan_in: FanInOperator) -> None:
        run = self.run_of(
            process_0=("failed", "upstream_failed"),
            process_1=("stopped", "skipped"),
            process_2=("stopped", "skipped"),
        )

        verdict = run_fan_in(fan_in, run)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert verdict.message.startswith(
            "0 of 3 branches succeeded, 1 needed, 2 stopped by stop_after_failures (min_success=1)."
        )

    def test_the_stopped_are_named_with_the_failed(self, fan_in: FanInOperator) -> None:
        run = self.run_of(
            process_0=("failed", "upstream_failed"),
            process_1=("stopped", "skipped"),
            process_2=("stopped", "skipped"),
        )

        verdict = run_fan_in(fan_in, run)

        assert verdict.report is not None
        assert [problem["name"] for problem in verdict.report["problems"]] == [
            "process_0",
            "process_1",
            "process_2",
        ]
        assert "  process_2: skipped: not started: 1 of 3" in verdict.message
        assert "more" not in verdict.message

    def test_if_the_dag_file_lost_a_branch_it_is_one_that_was_removed(self, fan_in: FanInOperator) -> None:
        run = self.run_of(**{f"process_{index}": ("success", "success") for index in range(5)})
        seen: list[FanInResults] = []
        fan_in.python_callable = seen.append

        report = run_fan_in(fan_in, run).report

        assert report is not None
        assert report["expected"] == 3
        (results,) = seen
        assert [(o.name, o.state, o.duration) for o in results.missing.values()] == [
            ("process_3", "removed", 4.0),
            ("process_4", "removed", 4.0),
        ]


class TestInAMappedTaskGroup:
    """Groups in a mapped task group."""

    @pytest.fixture
    def fan_in(self, dag: DAG) -> FanInOperator:
        @task_group
        def each(number: int) -> None:
            fan_in_of(2, min_success=1)

        each.expand(number=[10, 20, 30])
        fan_in = dag.get_task("each.combine")
        assert isinstance(fan_in, FanInOperator)
        return fan_in

    @pytest.fixture
    def run(self) -> FakeRun:
        run = FakeRun()
        for map_index in range(3):
            for branch in range(2):
                value = f"{map_index}/{branch}"
                run.succeed(f"each.process.process_{branch}", value, map_index=map_index)
        return run

    @pytest.mark.parametrize("map_index", range(3))
    def test_a_fan_in_reads_the_branches_of_its_own_map_index(
        self, fan_in: FanInOperator, run: FakeRun, map_index: int
    ) -> None:
        verdict = run_fan_in(fan_in, run, map_index=map_index)

        assert verdict.value == {"process_0": f"{map_index}/0", "process_1": f"{map_index}/1"}

    def test_a_failure_of_another_map_index_is_not_its_own(self, fan_in: FanInOperator, run: FakeRun) -> None:
        run.fail("each.process.process_0", map_index=1)

        report = run_fan_in(fan_in, run, map_index=0).report

        assert report is not None
        assert report["failed"] == 0

    def test_an_instance_of_another_map_index_may_still_run(
        self, fan_in: FanInOperator, run: FakeRun
    ) -> None:
        del run.states["each.process.process_0", 2]

        assert run_fan_in(fan_in, run, map_index=0).error is None

    def test_an_own_instance_may_not(self, fan_in: FanInOperator, run: FakeRun) -> None:
        del run.states["each.process.process_0", 0]

        assert isinstance(run_fan_in(fan_in, run, map_index=0).error, BranchesRunningError)

    def test_a_branch_that_is_gone_is_told_for_its_own_map_index(
        self, fan_in: FanInOperator, run: FakeRun
    ) -> None:
        for map_index in range(3):
            run.add("each.process.process_2", "removed", map_index=map_index)

        verdict = run_fan_in(fan_in, run, map_index=1)

        assert verdict.report is not None
        assert verdict.report["expected"] == 2
        assert verdict.value == {"process_0": "1/0", "process_1": "1/1"}


class TestUpstreamOfAFanInInAMappedTaskGroup:
    @pytest.fixture
    def fan_in(self, dag: DAG) -> FanInOperator:
        outside = EmptyOperator(task_id="outside")

        @task_group
        def each(number: int) -> None:
            fan_in = fan_in_of(1)
            [EmptyOperator(task_id="inside"), outside] >> fan_in

        each.expand(number=[10, 20, 30])
        fan_in = dag.get_task("each.combine")
        assert isinstance(fan_in, FanInOperator)
        return fan_in

    @pytest.fixture
    def run(self) -> FakeRun:
        run = FakeRun().add("outside")
        for map_index in range(3):
            run.succeed("each.process.process_0", map_index, map_index=map_index)
            run.add("each.inside", "failed" if map_index == 1 else "success", map_index=map_index)
        return run

    @pytest.mark.parametrize(("map_index", "fails"), [(0, False), (1, True), (2, False)])
    def test_a_task_inside_counts_for_its_own_map_index(
        self, fan_in: FanInOperator, run: FakeRun, map_index: int, fails: bool
    ) -> None:
        verdict = run_fan_in(fan_in, run, map_index=map_index)

        assert isinstance(verdict.error, UpstreamFailedError) is fails

    @pytest.mark.parametrize("map_index", [0, 2])
    def test_a_task_outside_counts_for_all(self, fan_in: FanInOperator, run: FakeRun, map_index: int) -> None:
        verdict = run_fan_in(fan_in, run.add("outside", "failed"), map_index=map_index)

        assert isinstance(verdict.error, UpstreamFailedError)
        assert verdict.error.task_ids == ("outside",)


def test_a_mapped_task_that_is_no_branch_fails_the_fan_in_with_one_instance() -> None:
    fan_in = fan_in_of(1)
    task(task_id="other")(work).expand(item=["a", "b"]) >> fan_in
    run = run_of("success").add("other", map_index=0).add("other", "failed", map_index=1)

    assert isinstance(run_fan_in(fan_in, run).error, UpstreamFailedError)


def test_a_map_index_that_airflow_leaves_out_is_that_of_a_plain_task() -> None:
    assert run_fan_in(fan_in_of(1), run_of("success"), map_index=None).value == {"process_0": 0}


class TestBranchesThatAreNotFinished:
    def test_the_fan_in_asks_to_be_run_again(self) -> None:
        verdict = run_fan_in(fan_in_of(3), run_of("success", "failed"))

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("process_2",)
        assert "process_2" in verdict.message
        assert "It takes them in when it runs again" in verdict.message

    def test_no_value_is_read(self) -> None:
        verdict = run_fan_in(fan_in_of(3), run_of("success", "success"))

        verdict.reader.value.assert_not_called()


class TestBranchesThatStartAgainWhileTheyAreRead:
    def test_what_one_has_lost_is_not_missing(self) -> None:
        run = run_of("success", "success", "success").start_again("process.process_1")

        verdict = run_fan_in(fan_in_of(3, min_success=1), run)

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("process_1",)
        assert verdict.report is None

    def test_what_a_foreign_one_has_lost_is_not_none(self) -> None:
        with DAG("d"):
            fan_in = FanInOperator(task_id="combine", task_id_prefix="native_", min_success=1)
            fan_in << [task(task_id=f"native_{n}")(work)() for n in range(2)]
        run = FakeRun().add("native_0", value=0).add("native_1", value=1).start_again("native_1")

        verdict = run_fan_in(fan_in, run)

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("native_1",)

    def test_one_that_has_already_ended_again_counts_too(self) -> None:
        run = run_of("success", "success")
        reader = run.reader()
        first = reader.states()
        run.add("process.process_1", "success", duration=2.0)

        task_id = "process.process_1"
        outcome = BranchOutcome(name="process_1", index=1, state="missing", task_id=task_id, map_index=-1)
        with pytest.raises(BranchesRunningError, match="'process_1'"):
            refuse_cleared(reader, first, [Page.of([outcome])])

    def test_where_every_branch_has_a_value_nothing_more_is_asked(self) -> None:
        verdict = run_fan_in(fan_in_of(3), run_of("success", "success", "success"))

        assert verdict.reader.states.call_count == 1


class TestWithoutOurGroup:
    def test_branches_of_this_package_are_told_by_their_records(self) -> None:
        group = FanOutGroup("process", branch=work, count=2)
        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.", min_success=1)
        group >> fan_in
        run = FakeRun().succeed("process.process_0").fail("process.process_1", "KeyError: 'x'")

        verdict = run_fan_in(fan_in, run)

        assert verdict.value == {"process.process_0": None}
        assert verdict.report is not None
        assert verdict.report["problems"][0]["error"] == "KeyError: 'x'"

    def test_zero_branches_reach_on_empty(self) -> None:
        group = FanOutGroup("process", branch=work, count=0)
        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.", on_empty="skip")
        group >> fan_in

        verdict = run_fan_in(fan_in, FakeRun().add("process.no_branches", operator="EmptyOperator"))

        assert isinstance(verdict.error, AirflowSkipException)
        assert verdict.report is not None
        assert verdict.report["expected"] == 0

    @pytest.mark.parametrize(
        ("mode", "task_ids"),
        [
            ({}, "'process.process_0.first', 'process.process_1.first'"),
            ({"mapped": True}, "'process.each.first'"),
        ],
        ids=["static", "mapped"],
    )
    def test_no_task_of_a_tolerated_branch_waits_for_the_past(
        self, mode: dict[str, Any], task_ids: str
    ) -> None:
        @task_group
        def steps(item: str) -> Any:
            return task(task_id="last")(work)(task(task_id="first", depends_on_past=True)(work)(item))

        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.", min_success=1)
        FanOutGroup("process", branch=steps, items=["a", "b"], **mode) >> fan_in

        verdict = run_fan_in(fan_in, FakeRun())

        assert isinstance(verdict.error, FanInError)
        assert f"depends_on_past or wait_for_downstream ({task_ids})" in verdict.message
        assert verdict.report is None

    @pytest.mark.parametrize("setting", ["depends_on_past", "wait_for_downstream"])
    def test_a_tolerance_over_tasks_that_wait_for_the_past_fails_before_anything_is_read(
        self, setting: str
    ) -> None:
        """What a prefix matches is known no earlier."""
        fan_in = FanInOperator(task_id="combine", task_id_prefix="part", min_success=1)
        more: Any = {setting: True}
        EmptyOperator(task_id="part", **more) >> fan_in

        verdict = run_fan_in(fan_in, FakeRun().add("part"))

        assert isinstance(verdict.error, FanInError)
        assert "depends_on_past or wait_for_downstream ('part')" in verdict.message
        assert verdict.reader.method_calls == []

    def test_a_mapped_task_is_a_mapping_of_its_instances(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="each")
        task(task_id="each")(work).expand(item=["a", "b", "c"]) >> fan_in
        run = FakeRun()
        for map_index, value in enumerate("abc"):
            run.add("each", value=value, map_index=map_index)

        assert run_fan_in(fan_in, run).value == {"each[0]": "a", "each[1]": "b", "each[2]": "c"}

    def test_a_mapped_task_expanded_once_is_a_mapping_of_one(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="each")
        task(task_id="each")(work).expand(item=["a"]) >> fan_in

        assert run_fan_in(fan_in, FakeRun().add("each", value="a", map_index=0)).value == {"each[0]": "a"}


class TestItemsThatNeverCame:
    """Mapped branches that never expanded."""

    @pytest.fixture
    def fan_in(self) -> FanInOperator:
        @task
        def source() -> list[str]:
            return []

        fan_in = FanInOperator(task_id="combine", task_id_prefix="each", min_success=1, on_empty="succeed")
        task(task_id="each")(work).expand(item=source()) >> fan_in
        return fan_in

    def test_a_source_that_failed_fails_the_fan_in(self, fan_in: FanInOperator) -> None:
        run = FakeRun().add("source", "failed").add("each", "upstream_failed", duration=None)

        verdict = run_fan_in(fan_in, run)

        assert isinstance(verdict.error, UpstreamFailedError)
        assert "'each' failed, because 'source' failed" in verdict.message

    def test_a_source_that_was_skipped_skips_the_fan_in(self, fan_in: FanInOperator) -> None:
        run = FakeRun().add("source", "skipped").add("each", "skipped", duration=None)

        assert isinstance(run_fan_in(fan_in, run).error, AirflowSkipException)

    def test_a_source_that_yielded_nothing_is_for_on_empty(self, fan_in: FanInOperator) -> None:
        run = FakeRun().add("source", value=[]).add("each", "skipped", duration=None)

        verdict = run_fan_in(fan_in, run)

        assert (verdict.error, verdict.value) == (None, {})

    @pytest.mark.parametrize("state", ["success", "failed"])
    def test_one_marked_by_hand_before_it_expanded_fails_the_fan_in(
        self, fan_in: FanInOperator, state: str
    ) -> None:
        run = FakeRun().add("source", value=["a"]).add("each", state, duration=None)

        verdict = run_fan_in(fan_in, run)

        assert isinstance(verdict.error, UpstreamFailedError)
        assert "'each'" in verdict.message


def test_two_groups_in_one_dag_do_not_mix(dag: DAG) -> None:
    with TaskGroup("outer"):
        inner = FanOutGroup("process", branch=work, count=1)
        fan_in = FanInOperator(task_id="combine", fan_out=inner)
    FanOutGroup("process", branch=work, count=2)
    run = run_of("success", "success").succeed("outer.process.process_0", "inner")

    assert run_fan_in(fan_in, run).value == {"process_0": "inner"}


def test_executing_twice_gives_the_same() -> None:
    fan_in, run = fan_in_of(2), run_of("success", "success")

    assert run_fan_in(fan_in, run).value == run_fan_in(fan_in, run).value
