from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from airflow.sdk import DAG, task, task_group
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import BranchesRunningError, TooFewBranchesError, UnreadableValueError
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE
from airflow_fanout.rules.outcomes import NO_EXCEPTION_RECORDED
from airflow_fanout.rules.records import RECORD_KEY
from tests.unit.fake_run import FakeRun, Verdict, run_fan_in

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


@task
def load() -> Any:
    return []


def dump(results: Any) -> Any:
    """Whatever a fan-in's function can know."""
    return {name: (o.state, o.value, o.error) for name, o in results.outcomes.items()}


class Instances(FakeRun):
    """A run of a mapped group."""

    def __init__(self) -> None:
        super().__init__()
        self.add("load")

    def ok(self, map_index: int, value: Any = NOTHING, *, name: Any = NOTHING, **more: Any) -> Instances:
        """Add an instance that succeeded and recorded it."""
        record: dict[str, Any] = {
            "state": "success",
            "has_value": value is not NOTHING,
            "map_index": map_index,
        }
        if name is not NOTHING:
            record["name"] = name
        self.add("g.each", value=value, map_index=map_index, record=record, **more)
        return self

    def bad(self, map_index: int, **more: Any) -> Instances:
        """Add an instance that failed and recorded it."""
        record = {"state": "failed", "error": "ValueError: broken", "map_index": map_index, **more}
        self.add("g.each", "failed", map_index=map_index, record=record)
        return self

    def other(self, map_index: int, state: str, **more: Any) -> Instances:
        """Add an instance that recorded nothing."""
        self.add("g.each", state, map_index=map_index, **more)
        return self


def collect(run: FakeRun, *, found: Any = None, key: str = "return_value", **group: Any) -> Verdict:
    """Collect a group; ``found`` is what its items' task returned, a list unless told."""
    if found is None:
        found = [""] * sum(task_id == "g.each" for task_id, _ in run.states)
    fan_out = FanOutGroup("g", **{"branch": work, "items": load(), **group})
    arguments: Any = {"python_callable": dump, "min_success": 1, "key": key}
    fan_in = FanInOperator(task_id="f", fan_out=fan_out, **arguments)
    with mock.patch.object(PlainXComArg, "resolve", return_value=found) as resolve:
        verdict = run_fan_in(fan_in, run)
    verdict.reader.asked = resolve.call_count
    return verdict


def outcomes(verdict: Verdict) -> dict[str, Any]:
    assert verdict.error is None, verdict.message
    found: dict[str, Any] = verdict.value
    return found


def requests(verdict: Verdict) -> int:
    reader = verdict.reader
    calls = (
        reader.states,
        reader.value,
        reader.record,
        reader.page,
        reader.record_page,
        reader.value_count,
        reader.instance_count,
    )
    return sum(int(method.call_count) for method in calls) + int(reader.asked) + 1  # and the report


class TestInstances:
    def test_each_has_its_own_outcome(self) -> None:
        run = (
            Instances()
            .ok(0, "a", name=None)
            .bad(1, name=None)
            .other(2, "skipped")
            .ok(3, name=None)
            .ok(4, 0, name=None)
        )

        assert outcomes(collect(run)) == {
            "g_0": ("success", "a", None),
            "g_1": ("failed", None, "ValueError: broken"),
            "g_2": ("skipped", None, None),
            "g_3": ("success", None, None),
            "g_4": ("success", 0, None),
        }

    @pytest.mark.parametrize(
        ("state", "outcome"),
        [
            ("failed", ("failed", None, NO_EXCEPTION_RECORDED)),
            ("success", ("success", None, None)),
            ("upstream_failed", ("upstream_failed", None, None)),
            ("removed", ("removed", None, None)),
        ],
    )
    def test_one_that_recorded_nothing_moves_no_other(self, state: str, outcome: Any) -> None:
        run = Instances().other(0, state).ok(1, "b", name=None)

        assert outcomes(collect(run, found=["x", "y"])) == {"g_0": outcome, "g_1": ("success", "b", None)}

    def test_what_a_longer_list_left_is_no_value(self) -> None:
        run = Instances().ok(0, "a", name=None).ok(1, "left", name=None, state="success")
        left = run.states["g.each", 1]
        run.states["g.each", 1] = type(left)(state="removed", duration=1.0, operator=None)

        assert outcomes(collect(run)) == {"g_0": ("success", "a", None), "g_1": ("removed", None, None)}

    def test_a_value_pushed_before_a_failure_shifts_nothing(self) -> None:
        run = Instances().bad(0, name=None).ok(1, "b", name=None)
        run.xcoms["g.each", 0, "return_value"] = "never a value"

        assert outcomes(collect(run))["g_1"] == ("success", "b", None)
        assert outcomes_of_a_failure(run) is None

    def test_a_value_deleted_by_hand_shifts_nothing(self) -> None:
        run = Instances().ok(0, "a", name=None).ok(1, "b", name=None)
        del run.xcoms["g.each", 0, "return_value"]
        found = outcomes(collect(run))

        assert (found["g_0"][0], found["g_1"]) == ("missing", ("success", "b", None))

    def test_a_stopped_one_says_why(self) -> None:
        run = Instances().bad(0, name=None)
        record = {"state": "stopped", "error": "not started", "map_index": 1, "name": None}
        run.ok(2, "c", name=None).add("g.each", "skipped", map_index=1, record=record)

        assert outcomes(collect(run, stop_after_failures=1))["g_1"] == ("skipped", None, "not started")

    def test_one_that_runs_again_is_waited_for(self) -> None:
        run = Instances().ok(0, "a", name=None).ok(2, "c", name=None)
        run.unfinished = 1
        verdict = collect(run)

        assert isinstance(verdict.error, BranchesRunningError)
        assert "'g_1'" in verdict.message

    def test_another_key_is_read_where_all_pushed_it(self) -> None:
        run = Instances()
        for index in range(3):
            run.ok(index, f"rows {index}", name=None, key="rows")

        assert [value for _, value, _ in outcomes(collect(run, key="rows")).values()] == [
            "rows 0",
            "rows 1",
            "rows 2",
        ]

    def test_another_key_that_nobody_pushed_is_missing(self) -> None:
        run = Instances().ok(0, "a", name=None).bad(1, name=None)
        verdict = collect(run, key="rows")

        assert "g_0: missing: it pushed nothing under the key 'rows'" in verdict.message
        assert "g_1: failed" in verdict.message

    def test_where_none_succeeded_no_value_is_asked_for(self) -> None:
        run = Instances().bad(0, name=None).other(1, "skipped")
        run.xcoms["g.each", 0, "return_value"] = "never a value"
        verdict = collect(run, found=["x", "y"])

        verdict.reader.page.assert_not_called()
        verdict.reader.value_count.assert_not_called()

    def test_a_value_that_cannot_be_read_is_told_after_the_report(self) -> None:
        run = Instances().ok(0, "a", name=None).ok(1, "b", name=None)
        run.xcoms["g.each", 1, "return_value"] = UnreadableValueError("g.each[1]", cause=ValueError("odd"))
        verdict = collect(run)

        assert isinstance(verdict.error, UnreadableValueError)
        assert verdict.report is not None
        assert verdict.report["succeeded"] == 2

    def test_another_key_that_one_did_not_push_moves_no_other(self) -> None:
        run = Instances().ok(0, name=None).ok(1, "rows", name=None, key="rows")
        found = outcomes(collect(run, key="rows"))

        assert found["g_1"] == ("success", "rows", None)
        assert found["g_0"] == ("missing", None, "it pushed nothing under the key 'rows'")


def outcomes_of_a_failure(run: FakeRun) -> Any:
    with DAG("again", schedule=None):
        return outcomes(collect(run))["g_0"][1]


class TestRecordsThatAreGone:
    def test_leave_the_others_where_they_are(self) -> None:
        run = Instances().ok(0).ok(1, "b").bad(2).ok(3)
        run.xcoms["g.each", 2, RECORD_KEY] = FileNotFoundError("s3://gone")

        assert outcomes(collect(run, found=["", "", "", ""])) == {
            "g_0": ("success", None, None),
            "g_1": ("success", "b", None),
            "g_2": ("failed", None, "what it recorded is no longer stored: s3://gone"),
            "g_3": ("success", None, None),
        }

    def test_leave_the_value(self) -> None:
        run = Instances().ok(0, "a").ok(1, "b")
        run.xcoms["g.each", 0, RECORD_KEY] = FileNotFoundError("s3://gone")

        assert outcomes(collect(run, found=["", ""]))["g_0"] == ("success", "a", None)

    def test_leave_none_missing(self) -> None:
        run = Instances().ok(0).ok(1, "b")
        run.xcoms["g.each", 0, RECORD_KEY] = FileNotFoundError("s3://gone")

        why = "what it recorded is no longer stored: s3://gone"
        assert outcomes(collect(run, found=["", ""]))["g_0"] == ("missing", None, why)


class TestNames:
    def test_of_run_time_are_recorded(self) -> None:
        verdict = collect(Instances().ok(0, "a", name="north").bad(1, name="south"))

        assert list(outcomes(verdict)) == ["north", "south"]
        assert verdict.reader.asked == 0

    def test_of_one_without_a_record_are_asked_for(self) -> None:
        run = Instances().ok(0, "a", name="north").other(1, "failed").other(2, "skipped")
        verdict = collect(run, found={"north": 1, "south": 2, "east": 3})

        assert list(outcomes(verdict)) == ["north", "south", "east"]
        assert verdict.reader.asked == 1

    def test_of_the_dag_file_need_no_record(self) -> None:
        run = Instances().other(0, "failed").ok(1, "b")

        assert list(outcomes(collect(run, items={"x": 1, "y": 2}, mapped=True))) == ["x", "y"]

    def test_the_names_asked_for_tell_what_has_not_finished(self) -> None:
        verdict = collect(Instances().other(0, "failed"), found={"north": 1, "south": 2})

        assert isinstance(verdict.error, BranchesRunningError)
        assert "'south'" in verdict.message


class TestRequests:
    COUNT = 2 * PAGE_SIZE + 1

    @pytest.mark.parametrize("dies", [False, True], ids=["all recorded", "some died"])
    def test_they_do_not_grow_with_the_instances(self, dies: bool) -> None:
        run = Instances()
        for index in range(self.COUNT):
            if dies and index % 7 == 0:
                run.other(index, "failed")
            else:
                run.ok(index, index, name=f"n_{index}")
        verdict = collect(run, found={f"n_{index}": 0 for index in range(self.COUNT)})

        assert len(outcomes(verdict)) == self.COUNT
        assert all(value in {None, index} for index, (_, value, _) in enumerate(verdict.value.values()))
        assert requests(verdict) <= 4 + 2 * 3

    def test_a_page_is_read_when_it_is_asked_for(self) -> None:
        run = Instances()
        for index in range(self.COUNT):
            run.ok(index, index, name=None)
        fan_out = FanOutGroup("g", branch=work, items=load())
        fan_in = FanInOperator(task_id="f", fan_out=fan_out, python_callable=lambda results: results["g_700"])
        with mock.patch.object(PlainXComArg, "resolve", return_value=[""] * self.COUNT):
            verdict = run_fan_in(fan_in, run)

        pages = [
            call.args[2:] for call in verdict.reader.page.call_args_list if call.args[1] == "return_value"
        ]
        assert (verdict.value, pages) == (700, [(500, 1000)])


@task_group
def chain(item: str) -> Any:
    step = task(work)
    first = step.override(task_id="first")(item)
    return step.override(task_id="third")(step.override(task_id="second")(first))


class TestRequestsOfSeveralTasks:
    STEPS = ("g.each.first", "g.each.second", "g.each.third")

    def run_of(self, count: int, failing: dict[int, int]) -> Instances:
        """A run in which some instances fail, each in the step of this number."""
        run = Instances()
        for index in range(count):
            fails = failing.get(index, len(self.STEPS))
            for number, task_id in enumerate(self.STEPS):
                own: dict[str, Any] = {"map_index": index, "name": None}
                if number < fails:
                    own |= {"state": "success", "has_value": True}
                    run.add(task_id, value=f"value {index}", map_index=index, record=own)
                elif number == fails:
                    own |= {"state": "failed", "error": f"ValueError: {index}"}
                    run.add(task_id, "failed", map_index=index, record=own)
                else:
                    run.add(task_id, "upstream_failed", map_index=index, duration=None)
        return run

    def check(self, verdict: Verdict, count: int, failing: dict[int, int]) -> None:
        for index, (state, value, error) in enumerate(outcomes(verdict).values()):
            expected = ("failed", None, f"ValueError: {index}")
            assert (state, value, error) == (
                expected if index in failing else ("success", f"value {index}", None)
            )
        assert len(verdict.value) == count

    @pytest.mark.parametrize(
        ("count", "failing"),
        [
            pytest.param(8, {}, id="nothing failed"),
            pytest.param(8, {1: 2}, id="the last task failed"),
            pytest.param(8, {1: 0}, id="a task before it failed"),
            pytest.param(8, {1: 1, 2: 1, 3: 2}, id="both did"),
            pytest.param(PAGE_SIZE, {1: 1}, id="a whole page"),
            pytest.param(2 * PAGE_SIZE, {}, id="two pages"),
        ],
    )
    def test_they_are_4_and_2_a_page(self, count: int, failing: dict[int, int]) -> None:
        verdict = collect(self.run_of(count, failing), branch=chain)

        self.check(verdict, count, failing)
        assert requests(verdict) <= 4 + 2 * -(-count // PAGE_SIZE)

    @pytest.mark.parametrize("count", [1, PAGE_SIZE])
    def test_nor_are_they_more_where_no_branch_succeeded(self, count: int) -> None:
        run = self.run_of(count, dict.fromkeys(range(count), 0))
        verdict = collect(run, branch=chain, found=["x"] * count)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert "g_0: failed: ValueError: 0" in verdict.message
        assert requests(verdict) <= 4 + 2

    def test_a_second_task_with_failures_costs_one_more(self) -> None:
        failing = {1: 0, 2: 1}
        verdict = collect(self.run_of(8, failing), branch=chain)

        self.check(verdict, 8, failing)
        assert requests(verdict) == 4 + 2 + 1

    @pytest.mark.parametrize(("failures", "more"), [(1, 1), (2, 2), (3, 3), (300, 3)])
    def test_above_a_page_it_is_one_a_failure_at_most_one_a_page(self, failures: int, more: int) -> None:
        count = 2 * PAGE_SIZE + 1
        failing = dict.fromkeys(range(0, 3 * failures, 3), 1)
        verdict = collect(self.run_of(count, failing), branch=chain)

        self.check(verdict, count, failing)
        asked = [
            call
            for method in (verdict.reader.record, verdict.reader.record_page)
            for call in method.call_args_list
            if call.args[0] == "g.each.second"
        ]
        assert len(asked) == more
        assert requests(verdict) <= 4 + 2 * 3 + more

    def test_a_process_that_died_in_one_costs_no_more(self) -> None:
        run = self.run_of(2, {0: 1})
        del run.xcoms["g.each.second", 0, RECORD_KEY]
        verdict = collect(run, branch=chain, found=["x", "y"])

        assert outcomes(verdict)["g_0"] == ("failed", None, NO_EXCEPTION_RECORDED)
        assert requests(verdict) <= 4 + 2


def test_of_several_groups_no_more_than_a_page_of_values_is_read_before_anybody_asks() -> None:
    run, count = FakeRun(), PAGE_SIZE // 2
    fan_in = FanInOperator(task_id="f", task_id_prefix="g_", python_callable=len)
    for name in ("g_a", "g_b", "g_c"):
        FanOutGroup(name, branch=work, items=["x"] * count, mapped=True) >> fan_in
        for index in range(count):
            record = {"state": "success", "has_value": True, "map_index": index}
            run.add(f"{name}.each", value=index, map_index=index, record=record)
    verdict = run_fan_in(fan_in, run)

    assert verdict.value == 3 * count
    assert [call.args[0] for call in verdict.reader.page.call_args_list] == ["g_a.each", "g_b.each"]
    assert [call.args[0] for call in verdict.reader.value_count.call_args_list] == ["g_c.each"]


@given(
    fates=st.lists(
        st.sampled_from(["value", "none", "fails", "dies", "skips", "by hand"]), min_size=1, max_size=12
    )
)
def test_identity_is_never_a_position(fates: list[str]) -> None:
    run = Instances()
    for index, fate in enumerate(fates):
        match fate:
            case "value":
                run.ok(index, f"value {index}", name=None)
            case "none":
                run.ok(index, name=None)
            case "fails":
                run.bad(index, name=None)
            case "dies":
                run.other(index, "failed")
            case "skips":
                run.other(index, "skipped")
            case "by hand":
                run.other(index, "success", value="left by hand")
    with DAG("d", schedule=None):
        verdict = collect(run, found=fates)
    if verdict.error is not None:
        assert not {"value", "none", "by hand"} & set(fates)
        return
    kept = {"value": "value {}", "by hand": "left by hand"}

    for index, fate in enumerate(fates):
        assert verdict.value[f"g_{index}"][1] == (kept[fate].format(index) if fate in kept else None)


def test_an_instance_that_starts_again_while_it_is_read_is_waited_for() -> None:
    run = Instances().ok(0, "a").ok(1, "b").ok(2, "c").start_again("g.each", 1)
    verdict = collect(run, found=["x", "y", "z"])

    assert isinstance(verdict.error, BranchesRunningError)
    assert verdict.error.names == ("g_1",)
