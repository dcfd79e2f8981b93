from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, AssetAlias, TaskGroup, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from airflow_fanout.exceptions import (
    BranchesRunningError,
    EmptyFanInError,
    FanInError,
    PrefixError,
    ResultTooLargeError,
    TooFewBranchesError,
    UpstreamFailedError,
)
from airflow_fanout.execution_time import accounting
from airflow_fanout.execution_time.accounting import collected
from airflow_fanout.execution_time.results import Page
from airflow_fanout.rules.outcomes import BranchOutcome
from airflow_fanout.rules.records import REPORT_KEY, RETURN_VALUE, BatchRecord
from tests.unit.fake_run import FakeRun, run_fan_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.fake_run import Verdict

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


@task_group(group_id="each")
def grouped(x: Any) -> None:
    task(task_id="step")(work)(x)


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
        elif state == "stopped":
            run.add(task_id, "skipped", record={"state": "stopped", "error": "not started: 1 of 3"})
        else:
            run.add(task_id, state, duration=None)
    return run


def no_branches() -> FakeRun:
    return FakeRun().add("process.no_branches", operator="EmptyOperator")


def report_of(verdict: Verdict) -> dict[str, Any]:
    assert verdict.report is not None
    return verdict.report


class TestWhatItReturns:
    @pytest.mark.parametrize(
        "how_many",
        [{"count": 12}, {"items": {"b": 1, "a": 2}, "count": None}],
        ids=["a number", "a mapping"],
    )
    def test_values_by_name_in_declared_order(self, how_many: dict[str, Any]) -> None:
        fan_in = fan_in_of(group=how_many)
        names = list(how_many.get("items", [f"process_{index}" for index in range(12)]))
        run = FakeRun()
        for name in sorted(names):
            run.succeed(f"process.{name}", f"value of {name}")

        value = run_fan_in(fan_in, run).value

        assert list(value.items()) == [(name, f"value of {name}") for name in names]
        assert type(value) is dict
        assert run_fan_in(fan_in, run).value == value

    def test_another_key_is_read(self) -> None:
        run = FakeRun().succeed("process.process_0", "value", key="rows")
        run.xcoms["process.process_0", -1, RETURN_VALUE] = "not this"

        assert run_fan_in(fan_in_of(1, key="rows"), run).value == {"process_0": "value"}

    def test_two_groups_of_one_name_do_not_mix(self) -> None:
        with TaskGroup("outer"):
            fan_in = fan_in_of(1)
        FanOutGroup("process", branch=work, count=2)
        run = run_of("success", "success").succeed("outer.process.process_0", "inner")

        assert run_fan_in(fan_in, run).value == {"process_0": "inner"}

    def test_a_map_index_that_airflow_leaves_out_is_that_of_a_plain_task(self) -> None:
        assert run_fan_in(fan_in_of(1), run_of("success"), map_index=None).value == {"process_0": 0}


class TestTheSizeOfWhatItReturns:
    @pytest.fixture
    def results(self, monkeypatch: pytest.MonkeyPatch) -> FanInResults:
        """Nine values of a hundred characters, of which an XCom can just hold all."""
        values = {f"p_{index}": "x" * 100 for index in range(9)}
        monkeypatch.setattr(accounting, "MOST_BYTES", len(json.dumps(values)))
        outcomes = [
            BranchOutcome(name=name, index=index, state="success", value=value)
            for index, (name, value) in enumerate(values.items())
        ]
        return FanInResults([Page.of(outcomes)])

    def test_may_be_what_an_xcom_can_just_hold(
        self, results: FanInResults, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert collected(results) == dict(results)

        monkeypatch.setattr(accounting, "MOST_BYTES", accounting.MOST_BYTES - 1)
        with pytest.raises(ResultTooLargeError, match=r"9 of 9 branches take 9\d\d bytes.*python_callable"):
            collected(results)

    def test_is_measured_before_all_is_held_unless_it_goes_to_object_storage(
        self, results: FanInResults, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(accounting, "MOST_BYTES", 100)
        monkeypatch.setattr(accounting, "BRANCHES_MEASURED", 2)

        with pytest.raises(ResultTooLargeError, match="The values of 2 of 9 branches") as raised:
            collected(results)
        assert raised.value.size == len(json.dumps({"p_0": "x" * 100, "p_1": "x" * 100}))
        monkeypatch.setattr(accounting, "values_lie_elsewhere", lambda: True)
        assert collected(results) == dict(results)


class TestItsFunction:
    def test_it_is_given_the_results(self) -> None:
        given: list[object] = []
        verdict = run_fan_in(fan_in_of(2, python_callable=given.append), run_of("success", "success"))

        assert (verdict.value, given) == (None, [{"process_0": 0, "process_1": 1}])
        assert isinstance(given[0], FanInResults)

    @pytest.mark.parametrize(
        ("function", "op_kwargs", "expected"),
        [
            (lambda results, ds, *, run_id: [ds, run_id], {}, ["2026-01-01", "manual"]),
            (lambda results, factor, *, start: factor + start, {"factor": 10, "start": 1}, 11),
            (lambda results, ds: ds, {"ds": "mine"}, "mine"),
            (lambda results, **all_: sorted(all_), {"mine": 1}, ["ds", "mine", "run_id", "ti"]),
        ],
        ids=["context values", "op_kwargs", "op_kwargs first", "all"],
    )
    def test_it_is_given_op_kwargs_and_context_values(
        self, function: Any, op_kwargs: dict[str, Any], expected: Any
    ) -> None:
        fan_in = fan_in_of(1, python_callable=function, op_kwargs=op_kwargs)

        verdict = run_fan_in(fan_in, run_of("success"), ds="2026-01-01", run_id="manual")

        assert verdict.value == expected

    def test_it_is_not_called_when_the_verdict_is_against_the_run(self) -> None:
        called: list[object] = []

        run_fan_in(fan_in_of(1, python_callable=called.append), run_of("failed"))

        assert called == []

    def test_it_is_called_with_an_empty_mapping_where_there_are_no_branches(self) -> None:
        fan_in = fan_in_of(0, python_callable=lambda results: [*results, "end"])

        assert run_fan_in(fan_in, no_branches()).value == ["end"]

    def test_what_it_raises_is_raised_after_the_report(self) -> None:
        def combine(results: FanInResults) -> None:
            raise LookupError(*results)

        verdict = run_fan_in(fan_in_of(1, python_callable=combine), run_of("success"))

        assert isinstance(verdict.error, LookupError)
        assert report_of(verdict)["succeeded"] == 1


class TestItsVerdict:
    @pytest.mark.parametrize(
        ("states", "policy", "error"),
        [
            pytest.param(["success", "skipped"], {}, None, id="success"),
            pytest.param(["success", "failed"], {"min_success": 1}, None, id="degraded"),
            pytest.param(["success", "missing"], {}, TooFewBranchesError, id="failed"),
            pytest.param(["skipped"] * 2, {}, AirflowSkipException, id="skipped"),
            pytest.param([], {"min_success": 1}, EmptyFanInError, id="empty"),
        ],
    )
    def test_it_raises_what_the_policy_decides_after_the_report(
        self, states: list[str], policy: dict[str, Any], error: type[Exception] | None
    ) -> None:
        verdict = run_fan_in(fan_in_of(len(states), **policy), run_of(*states) if states else no_branches())

        assert type(verdict.error) is (type(None) if error is None else error)
        assert report_of(verdict)["expected"] == len(states)

    @pytest.mark.parametrize(
        "error", [TooFewBranchesError, EmptyFanInError, UpstreamFailedError, PrefixError]
    )
    def test_a_verdict_against_the_run_is_not_retried(self, error: type[Exception]) -> None:
        assert issubclass(error, AirflowFailException)
        assert issubclass(error, FanInError)
        assert not issubclass(BranchesRunningError, AirflowFailException)  # a branch was cleared in between

    def test_it_names_numbers_tolerance_branches_states_and_errors(self) -> None:
        verdict = run_fan_in(
            fan_in_of(4, min_success=3, min_success_ratio=0.5),
            run_of("success", "failed", "upstream_failed", "missing"),
        )

        assert verdict.message == (
            "1 of 4 branches succeeded, 3 needed (min_success=3, min_success_ratio=0.5).\n"
            "  process_1: failed: ValueError: broken\n"
            "  process_3: missing: it was marked success by hand, and pushed nothing\n"
            "  process_2: upstream_failed"
        )
        assert isinstance(verdict.error, TooFewBranchesError)
        assert (verdict.error.needed, verdict.error.succeeded) == (3, 1)
        assert [problem.name for problem in verdict.error.problems] == ["process_1", "process_2", "process_3"]

    @pytest.mark.parametrize(
        ("states", "policy", "lines"),
        [
            (["failed"] * 20, {}, ["20 × failed: ValueError: broken"]),
            (
                ["failed"] * 15 + ["missing"] * 10,
                {},
                ["15 × failed: ValueError: broken", "10 × missing: it was"],
            ),
            (["failed"] * 21 + ["skipped"] * 5, {}, ["21 × failed: ValueError: broken"]),
            (["stopped"] * 25 + ["failed"], {}, ["process_25: failed", "25 × skipped: not started"]),
            (
                ["failed"] * 21 + ["skipped"] * 5,
                {"min_success": 1, "count_skipped": "failure"},
                ["21 × failed: ValueError: broken", "5 × skipped (process_21, process_22"],
            ),
        ],
    )
    def test_it_names_errors_by_kind_and_their_first_branches(
        self, states: list[str], policy: dict[str, Any], lines: list[str]
    ) -> None:
        verdict = run_fan_in(fan_in_of(len(states), **policy), run_of(*states))

        said = [line.strip() for line in verdict.message.splitlines()[1:]]
        assert [line[: len(start)] for line, start in zip(said, lines, strict=True)] == lines

    def test_the_report_names_the_first_twenty_problems_and_counts_all_by_kind(self) -> None:
        report = report_of(run_fan_in(fan_in_of(25), run_of(*["failed"] * 15, *["missing"] * 10)))

        assert [problem["name"] for problem in report["problems"]] == [f"process_{n}" for n in range(20)]
        assert [(kind["branches"], len(kind["names"])) for kind in report["errors"]] == [(15, 5), (10, 5)]

    def test_of_more_than_twenty_kinds_the_rest_is_counted(self) -> None:
        run = FakeRun()
        for index in range(23):
            run.fail(f"process.process_{index}", f"{chr(65 + index)}Error: no")

        message = run_fan_in(fan_in_of(23), run).message

        assert message.splitlines()[-2:] == ["  process_19: failed: TError: no", "  and 3 more"]

    def test_degraded_is_said_in_log_and_report(self, caplog: pytest.LogCaptureFixture) -> None:
        verdict = run_fan_in(fan_in_of(3, min_success=2), run_of("success", "failed", "success"))

        assert report_of(verdict)["degraded"] is True
        (warning,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
        assert warning.splitlines() == [
            "Degraded: 2 of 3 branches succeeded, 2 needed (min_success=2).",
            "  process_1: failed: ValueError: broken",
        ]

    def test_an_asset_that_it_updates_is_told_how_many_branches_made_it(self) -> None:
        asset, events = Asset("scores"), OutletEventAccessors()
        fan_in = fan_in_of(3, min_success=2, outlets=[asset, AssetAlias("some")])

        run_fan_in(fan_in, run_of("success", "failed", "success"), outlet_events=events)

        assert events[asset].extra == {"expected": 3, "succeeded": 2, "failed": 1, "degraded": True}
        assert len(events) == 1

    def test_what_its_function_tells_an_asset_goes_first(self) -> None:
        asset, events = Asset("scores"), OutletEventAccessors()

        def combine(results: FanInResults, *, outlet_events: Any) -> None:
            outlet_events[asset].extra["expected"] = "all"

        run_fan_in(
            fan_in_of(1, outlets=[asset], python_callable=combine), run_of("success"), outlet_events=events
        )

        assert events[asset].extra["expected"] == "all"
        assert events[asset].extra["succeeded"] == 1

    def test_what_was_stopped_is_counted_and_named_with_the_reason(self) -> None:
        fan_in = fan_in_of(3, min_success=1, group={"stop_after_failures": 1})

        verdict = run_fan_in(fan_in, run_of("failed", "stopped", "stopped"))

        assert verdict.message == (
            "0 of 3 branches succeeded, 1 needed, 2 stopped by stop_after_failures (min_success=1).\n"
            "  process_0: failed: ValueError: broken\n"
            "  2 × skipped: not started: 1 of 3 (process_1, process_2)"
        )
        assert (report_of(verdict)["counted"], report_of(verdict)["skipped"]) == (3, 2)


class TestItsReport:
    def test_it_has_the_numbers_the_seconds_of_successes_and_the_problems(self) -> None:
        run = run_of("success", "failed", "upstream_failed", "skipped", "missing")
        run.succeed("process.process_0", 0, duration=1.5).succeed("process.process_5", 5, duration=4.25)

        report = report_of(run_fan_in(fan_in_of(6, min_success=1), run))

        assert report == {
            "expected": 6,
            "counted": 5,
            "needed": 1,
            "succeeded": 2,
            "failed": 2,
            "skipped": 1,
            "missing": 1,
            "reused": 0,
            "degraded": True,
            "total_branch_seconds": 5.75,
            "longest_branch": "process_5",
            "longest_branch_seconds": 4.25,
            "problems": [
                {"name": "process_1", "state": "failed", "error": "ValueError: broken"},
                {"name": "process_2", "state": "upstream_failed", "error": None},
                {
                    "name": "process_4",
                    "state": "missing",
                    "error": "it was marked success by hand, and pushed nothing",
                },
            ],
            "errors": [
                {"state": "failed", "error": "ValueError: broken", "branches": 1, "names": ["process_1"]},
                {
                    "state": "missing",
                    "error": "it was marked success by hand, and pushed nothing",
                    "branches": 1,
                    "names": ["process_4"],
                },
                {"state": "upstream_failed", "error": None, "branches": 1, "names": ["process_2"]},
            ],
        }
        assert json.loads(json.dumps(report)) == report
        assert REPORT_KEY == "fan_out_report"

    @pytest.mark.parametrize(
        ("durations", "longest", "seconds"),
        [
            pytest.param([1.0, 1.0], "part_0", 1.0, id="the first of equally long ones"),
            pytest.param([0.0], "part_0", 0.0, id="no seconds at all"),
            pytest.param([], None, None, id="no success"),
        ],
    )
    def test_its_longest_branch(
        self, durations: list[float], longest: str | None, seconds: float | None
    ) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="part_")
        run = FakeRun().add("part_9", "failed", duration=9.0)
        [EmptyOperator(task_id=f"part_{index}") for index in (0, 1, 9)] >> fan_in
        for index, duration in enumerate([*durations, None, None][:2]):
            state = "failed" if duration is None else "success"
            run.add(f"part_{index}", state, duration=duration, operator="EmptyOperator")

        report = report_of(run_fan_in(fan_in, run))

        assert (report["longest_branch"], report["longest_branch_seconds"]) == (longest, seconds)
        assert report["total_branch_seconds"] == sum(durations)

    @pytest.mark.parametrize(
        ("states", "logged"),
        [
            pytest.param(
                ["success", "failed", "skipped"],
                [
                    "3 branches: 1 succeeded, 1 failed, 1 skipped (",
                    "1.0 s in successful branches; the longest is process_0 with 1.0 s: at best a speed",
                    "More: airflow fanout report pipeline 'the run'",
                ],
                id="several",
            ),
            pytest.param(["failed"], ["1 branch: 1 failed (", "More: airflow fanout report"], id="one"),
            pytest.param([], ["0 branches: none ("], id="none"),
        ],
    )
    def test_its_figures_are_logged(
        self, states: list[str], logged: list[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", logger=accounting.__name__)
        run_fan_in(fan_in_of(len(states)), run_of(*states) if states else no_branches())

        lines = [record.getMessage() for record in caplog.records if record.name == accounting.__name__]
        assert len(lines) == len(logged)
        assert all(line.startswith(start) for line, start in zip(lines, logged, strict=True))

    def test_no_speed_up_is_promised_for_items_that_share_a_task(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        record = BatchRecord(statuses="SS", seconds=[0.5, 1.0], cpu_seconds=[None, None])
        run = FakeRun().add("process.split", value=[[0, 2, 1]])
        run.add("process.each", value={"process_0": 0}, map_index=0, record=record.to_xcom())
        caplog.set_level("INFO", logger=accounting.__name__)
        run_fan_in(fan_in_of(2, group={"items_per_task": 2}), run)

        assert "the longest is process_1 with 1.0 s\n" in caplog.text


class TestWhatIsUpstreamAndNoBranch:
    @pytest.mark.parametrize(
        ("branch", "others", "error"),
        [
            pytest.param("success", {"a": "success"}, None, id="a success"),
            pytest.param("success", {"a": "failed"}, UpstreamFailedError, id="a failure"),
            pytest.param("success", {"a": "upstream_failed"}, UpstreamFailedError, id="not started"),
            pytest.param("success", {"a": "skipped"}, AirflowSkipException, id="a skip"),
            pytest.param("success", {"b": "skipped", "a": "failed"}, UpstreamFailedError, id="both"),
            pytest.param("failed", {"a": "failed"}, UpstreamFailedError, id="before the branches"),
        ],
    )
    @pytest.mark.parametrize("tolerance", [{}, {"min_success": 1}], ids=["no tolerance", "a tolerance"])
    def test_it_decides_whatever_the_tolerance(
        self,
        branch: str,
        others: dict[str, str],
        error: type[Exception] | None,
        tolerance: dict[str, Any],
    ) -> None:
        fan_in, run = fan_in_of(1, **tolerance), run_of(branch)
        for task_id, state in others.items():
            EmptyOperator(task_id=task_id) >> fan_in
            run.add(task_id, state)

        verdict = run_fan_in(fan_in, run)

        assert type(verdict.error) is (type(None) if error is None else error)
        assert error is None or "'a'" in verdict.message
        assert report_of(verdict)["expected"] == 1

    @pytest.mark.parametrize("state", ["failed", "skipped"])
    def test_a_fan_in_that_does_not_succeed_is_not_degraded(self, state: str) -> None:
        fan_in = fan_in_of(2, min_success=1)
        EmptyOperator(task_id="before") >> fan_in

        report = report_of(run_fan_in(fan_in, run_of("success", "failed").add("before", state)))

        assert (report["degraded"], report["succeeded"], report["failed"]) == (False, 1, 1)

    def test_the_cause_further_up_is_named(self) -> None:
        first, before = EmptyOperator(task_id="first"), EmptyOperator(task_id="before")
        fan_in = fan_in_of(1)
        first >> before >> fan_in

        run = run_of("success").add("before", "upstream_failed").add("first", "failed").add("other", "failed")
        verdict = run_fan_in(fan_in, run)

        assert isinstance(verdict.error, UpstreamFailedError)
        assert verdict.error.task_ids == ("before",)
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

    def test_one_instance_of_a_mapped_task_is_enough(self) -> None:
        fan_in = fan_in_of(1)
        task(task_id="other")(work).expand(item=["a", "b"]) >> fan_in
        run = run_of("success").add("other", map_index=0).add("other", "failed", map_index=1)

        assert isinstance(run_fan_in(fan_in, run).error, UpstreamFailedError)

    @pytest.mark.parametrize(
        ("load", "placeholder", "error", "text"),
        [
            ("failed", "upstream_failed", UpstreamFailedError, "because 'load' failed"),
            ("skipped", "skipped", AirflowSkipException, "skipped"),
        ],
    )
    def test_before_no_branches_it_is_never_zero_of_zero(
        self, load: str, placeholder: str, error: type[Exception], text: str
    ) -> None:
        process = FanOutGroup("process", branch=work, count=0)
        EmptyOperator(task_id="load") >> process
        fan_in = FanInOperator(task_id="combine", fan_out=process, on_empty="succeed")

        run = FakeRun().add("load", load).add("process.no_branches", placeholder, duration=None)
        verdict = run_fan_in(fan_in, run)

        assert type(verdict.error) is error
        assert text in verdict.message


class TestRemovedBranches:
    """The Dag file changed while the run was under way."""

    def outcomes(self, fan_in: FanInOperator, run: FakeRun) -> dict[str, BranchOutcome]:
        fan_in.python_callable = lambda results: dict(results.outcomes)
        verdict = run_fan_in(fan_in, run)
        assert report_of(verdict)["expected"] == 1
        outcomes: dict[str, BranchOutcome] = verdict.value
        return outcomes

    def test_are_in_the_outcomes_without_a_value_and_not_expected(self) -> None:
        outcomes = self.outcomes(fan_in_of(1), run_of(*["success"] * 12))

        assert list(outcomes) == [f"process_{index}" for index in range(12)]
        assert [(o.index, o.state, o.value) for o in outcomes.values()] == [
            (0, "success", 0),
            *((index, "removed", None) for index in range(1, 12)),
        ]

    def test_that_are_declared_are_not_expected_either(self) -> None:
        assert self.outcomes(fan_in_of(2), run_of("success", "removed"))["process_1"].state == "removed"

    @pytest.mark.parametrize("task_id", ["process_other.task", "other", "process.no_branches", "process.own"])
    def test_other_tasks_are_none(self, task_id: str) -> None:
        fan_in = fan_in_of(1)
        with fan_in.dag.task_group.get_child_by_label("process"):  # type: ignore[attr-defined]
            EmptyOperator(task_id="own")

        assert list(self.outcomes(fan_in, run_of("success").add(task_id, "removed"))) == ["process_0"]


class TestRequests:
    """What it asks of the API server: 3 and the report's among them, as many as branches, and a few."""

    @pytest.mark.parametrize(
        ("states", "most"),
        [
            pytest.param([], 3, id="no branches"),
            pytest.param(["success"] * 30, 32, id="values"),
            pytest.param(["success", *["failed"] * 29], 33, id="failures"),
            pytest.param(["success", *["stopped"] * 29], 33, id="stopped"),
            *(
                pytest.param(["success", *[state] * 29], 4, id=f"never ran: {state}")
                for state in ("skipped", "upstream_failed", "removed")
            ),
        ],
    )
    def test_of_a_static_group(self, states: list[str], most: int) -> None:
        fan_in = fan_in_of(len(states), min_success=1, on_empty="succeed")
        verdict = run_fan_in(fan_in, run_of(*states) if states else no_branches())

        assert verdict.requests <= most

    def test_a_branch_without_a_value_takes_one_more(self) -> None:
        run = FakeRun()
        for index in range(30):
            run.succeed(f"process.process_{index}")

        assert run_fan_in(fan_in_of(30), run).requests <= 33 + 30

    def test_a_function_that_looks_at_everything_takes_no_more(self) -> None:
        def look(results: FanInResults) -> list[object]:
            return [dict(results), dict(results.outcomes), results.failed, results.missing, results.get("x")]

        verdict = run_fan_in(fan_in_of(30, python_callable=look), run_of(*["success"] * 30))

        assert verdict.error is None
        assert verdict.requests <= 33


class TestInAMappedTaskGroup:
    @pytest.fixture
    def fan_in(self, dag: DAG) -> FanInOperator:
        """A fan-in after two branches, a task beside them, and one outside of the mapped task group."""
        outside = EmptyOperator(task_id="outside")

        @task_group
        def each(number: int) -> None:
            [EmptyOperator(task_id="inside"), outside] >> fan_in_of(2, min_success=1)

        each.expand(number=[10, 20, 30])
        fan_in = dag.get_task("each.combine")
        assert isinstance(fan_in, FanInOperator)
        return fan_in

    @pytest.fixture
    def run(self) -> FakeRun:
        run = FakeRun().add("outside")
        for map_index in range(3):
            run.add("each.inside", map_index=map_index)
            for branch in range(2):
                run.succeed(f"each.process.process_{branch}", f"{map_index}/{branch}", map_index=map_index)
        return run

    @pytest.mark.parametrize("map_index", range(3))
    def test_a_fan_in_reads_the_branches_of_its_own_map_index(
        self, fan_in: FanInOperator, run: FakeRun, map_index: int
    ) -> None:
        for index in range(3):
            run.add("each.process.process_2", "removed", map_index=index)
        verdict = run_fan_in(fan_in, run, map_index=map_index)

        assert verdict.value == {"process_0": f"{map_index}/0", "process_1": f"{map_index}/1"}
        assert report_of(verdict)["expected"] == 2

    @pytest.mark.parametrize(("map_index", "error"), [(2, type(None)), (0, BranchesRunningError)])
    def test_only_instances_of_its_own_map_index_have_to_be_finished(
        self, fan_in: FanInOperator, run: FakeRun, map_index: int, error: type
    ) -> None:
        del run.instances["each.process.process_0", map_index]

        assert type(run_fan_in(fan_in, run, map_index=0).error) is error

    @pytest.mark.parametrize(
        ("failed", "fails"),
        [(("each.inside", 1), True), (("each.inside", 0), False), (("outside", -1), True)],
        ids=["inside", "inside of another index", "outside"],
    )
    def test_a_task_that_is_no_branch_counts_for_its_own_map_index_or_for_all(
        self, fan_in: FanInOperator, run: FakeRun, failed: tuple[str, int], fails: bool
    ) -> None:
        run.add(failed[0], "failed", map_index=failed[1])

        assert isinstance(run_fan_in(fan_in, run, map_index=1).error, UpstreamFailedError) is fails


class TestBranchesThatAreNotFinished:
    def test_the_fan_in_asks_to_be_run_again_before_any_value_is_read(self) -> None:
        verdict = run_fan_in(fan_in_of(3), run_of("success", "failed"))

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("process_2",)
        assert "It takes them in when it runs again" in verdict.message
        assert verdict.reader.calls == [("states", ())]

    def test_what_one_has_lost_that_starts_again_meanwhile_is_not_missing(self) -> None:
        run = run_of("success", "success", "success").start_again("process.process_1")

        verdict = run_fan_in(fan_in_of(3, min_success=1), run)

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("process_1",)
        assert verdict.report is None

    def test_what_one_has_lost_from_storage_that_starts_again_meanwhile_is_not_missing(self) -> None:
        run = run_of("success").succeed("process.process_1", FileNotFoundError("s3://gone"))
        run.running_again.add(("process.process_1", -1))

        assert isinstance(run_fan_in(fan_in_of(2, min_success=1), run).error, BranchesRunningError)

    def test_what_a_foreign_one_has_lost_is_not_none(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="native_", min_success=1)
        fan_in << [task(task_id=f"native_{n}")(work)() for n in range(2)]
        run = FakeRun().add("native_0", value=0).add("native_1", value=1).start_again("native_1")

        assert isinstance(run_fan_in(fan_in, run).error, BranchesRunningError)


class TestByPrefix:
    def test_branches_of_this_package_are_told_by_their_records(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.", min_success=1)
        FanOutGroup("process", branch=work, count=2) >> fan_in
        run = FakeRun().succeed("process.process_0").fail("process.process_1", "KeyError: 'x'")

        verdict = run_fan_in(fan_in, run)

        assert verdict.value == {"process.process_0": None}
        assert report_of(verdict)["problems"][0]["error"] == "KeyError: 'x'"

    def test_zero_branches_reach_on_empty(self) -> None:
        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.", on_empty="skip")
        FanOutGroup("process", branch=work, count=0) >> fan_in

        verdict = run_fan_in(fan_in, no_branches())

        assert isinstance(verdict.error, AirflowSkipException)
        assert report_of(verdict)["expected"] == 0

    @pytest.mark.parametrize(
        ("mode", "task_ids"),
        [
            ({}, "'process.process_0.first', 'process.process_1.first'"),
            ({"mapped": True}, "'process.each.first'"),
        ],
        ids=["static", "mapped"],
    )
    @pytest.mark.parametrize("setting", ["depends_on_past", "wait_for_downstream"])
    def test_a_tolerance_over_tasks_that_wait_for_the_past_fails_before_anything_is_read(
        self, mode: dict[str, Any], task_ids: str, setting: str
    ) -> None:
        """What a prefix matches is known no earlier."""

        @task_group
        def steps(item: str) -> Any:
            past: Any = {setting: True}
            first: Any = task(task_id="first", **past)(work)
            return task(task_id="last")(work)(first(item))

        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.", min_success=1)
        FanOutGroup("process", branch=steps, items=["a", "b"], **mode) >> fan_in

        verdict = run_fan_in(fan_in, FakeRun())

        assert isinstance(verdict.error, FanInError)
        assert f"depends_on_past or wait_for_downstream ({task_ids})" in verdict.message
        assert verdict.reader.calls == []


class TestMappedBranchesThatNeverCame:
    @pytest.mark.parametrize(
        ("source", "each", "error", "text"),
        [
            ("failed", "upstream_failed", UpstreamFailedError, "'each' failed, because 'source' failed"),
            ("skipped", "skipped", AirflowSkipException, "'each'"),
            ("success", "skipped", type(None), ""),  # no items, which is for on_empty
            ("success", "success", UpstreamFailedError, "'each' was marked by hand"),
            ("success", "failed", UpstreamFailedError, "'each'"),
        ],
    )
    def test_are_never_zero_of_zero(self, source: str, each: str, error: type, text: str) -> None:
        @task(task_id="source")
        def items() -> list[str]:
            return []

        fan_in = FanInOperator(task_id="combine", task_id_prefix="each", min_success=1, on_empty="succeed")
        task(task_id="each")(work).expand(item=items()) >> fan_in

        run = FakeRun().add("source", source, value=[]).add("each", each, duration=None)
        verdict = run_fan_in(fan_in, run)

        assert type(verdict.error) is error
        assert text in verdict.message
        assert verdict.value == ({} if verdict.error is None else None)

    @pytest.mark.parametrize("items", [["a", "b"], {"a": 1}, None])
    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(lambda items: task(task_id="each")(work).expand(item=items), id="task"),
            pytest.param(lambda items: task(task_id="each")(work).expand_kwargs(items), id="expand-kwargs"),
            pytest.param(lambda items: task(task_id="each")(work).expand(item=items.map(str)), id="map"),
            pytest.param(lambda items: grouped.expand(x=items), id="task-group"),
            pytest.param(lambda items: FanOutGroup("g", branch=work, items=items), id="own-mapped"),
            pytest.param(
                lambda items: FanOutGroup("g", branch=work, items=items, items_per_task=2), id="own-batched"
            ),
        ],
    )
    def test_that_a_branching_task_skipped_are_not_taken_for_no_items(
        self, make: Callable[[Any], Any], items: object
    ) -> None:
        @task
        def source() -> Any: ...

        @task.branch
        def choose() -> str:
            return ""

        made = make(source())
        fan_in = FanInOperator(
            task_id="combine", task_id_prefix=("each", "g.")[isinstance(made, FanOutGroup)]
        )
        choose() >> made >> fan_in
        last = next(iter(fan_in.upstream_task_ids))
        run = FakeRun().add("source", value=items).add(last, "skipped", duration=None)
        run.add("choose", key="skipmixin_key", value={"followed": []}).add("g.split", "skipped")

        verdict = run_fan_in(fan_in, run)

        assert isinstance(verdict.error, AirflowSkipException)
        assert verdict.message == f"Upstream task '{last}' was skipped"

    def test_over_nothing_after_a_branching_task_that_went_on_are_none(self) -> None:
        @task
        def source() -> Any: ...

        @task.branch
        def choose() -> str:
            return ""

        group = FanOutGroup("g", branch=work, items=source())
        choose() >> group
        fan_in = FanInOperator(task_id="combine", fan_out=group)
        run = FakeRun().add("source", value=[]).add("g.each", "skipped", duration=None)
        run.add("choose", key="skipmixin_key", value={"followed": ["g.each"]})

        assert run_fan_in(fan_in, run).value == {}
