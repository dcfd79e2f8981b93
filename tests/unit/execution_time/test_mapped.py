from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import task, task_group
from airflow.sdk.definitions.xcom_arg import PlainXComArg
from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import (
    BranchesRunningError,
    EmptyFanInError,
    TooFewBranchesError,
    UnreadableValueError,
)
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE
from airflow_fanout.rules.identity import NEVER_RAN, REMOVED
from airflow_fanout.rules.outcomes import NO_EXCEPTION_RECORDED
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE
from tests.unit.fake_run import FakeRun, run_fan_in

if TYPE_CHECKING:
    from tests.unit.fake_run import Verdict

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


@task
def load() -> Any:
    return []


@task_group
def chain(item: str) -> Any:
    step = task(work)
    first = step.override(task_id="first")(item)
    return step.override(task_id="third")(step.override(task_id="second")(first))


class Instances(FakeRun):
    """A run of a mapped group."""

    def ok(self, map_index: int, value: Any = NOTHING, *, name: str | None = None, **more: Any) -> Instances:
        """Add an instance that succeeded and recorded it."""
        record = {"state": "success", "has_value": value is not NOTHING, "map_index": map_index, "name": name}
        self.add("g.each", value=value, map_index=map_index, record=record, **more)
        return self

    def bad(self, map_index: int, *, name: str | None = None) -> Instances:
        """Add an instance that failed and recorded it."""
        record = {"state": "failed", "error": "ValueError: broken", "map_index": map_index, "name": name}
        self.add("g.each", "failed", map_index=map_index, record=record)
        return self

    def silent(self, map_index: int, state: str) -> Instances:
        """Add an instance that recorded nothing."""
        self.add("g.each", state, map_index=map_index)
        return self


def collect(run: FakeRun, *, returned: Any = None, key: str = RETURN_VALUE, **group: Any) -> Verdict:
    """Collect a group; ``returned`` is what its items' task returned, a list unless told."""
    if returned is None:
        returned = [""] * len({map_index for _, map_index in run.instances})
    if "count" not in group:
        group.setdefault("items", load())
    fan_out = FanOutGroup("g", **{"branch": work, **group})
    fan_in = FanInOperator(
        task_id="f",
        fan_out=fan_out,
        key=key,
        min_success=1,
        python_callable=lambda results: {n: (o.state, o.value, o.error) for n, o in results.outcomes.items()},
    )
    with mock.patch.object(PlainXComArg, "resolve", return_value=returned) as resolve:
        verdict = run_fan_in(fan_in, run)
    verdict.reader.calls += [("ask", ())] * resolve.call_count
    return verdict


def outcomes(verdict: Verdict) -> dict[str, Any]:
    assert verdict.error is None, verdict.message
    branches: dict[str, Any] = verdict.value
    return branches


class TestValues:
    def test_each_is_that_of_the_instance_that_recorded_it(self) -> None:
        run = Instances().ok(0, "a").bad(1).silent(2, "skipped").ok(3).ok(4, 0)

        assert outcomes(collect(run)) == {
            "g_0": ("success", "a", None),
            "g_1": ("failed", None, "ValueError: broken"),
            "g_2": ("skipped", None, None),
            "g_3": ("success", None, None),
            "g_4": ("success", 0, None),
        }

    def test_where_none_succeeded_none_is_asked_for(self) -> None:
        run = Instances().bad(0).silent(1, "skipped")
        run.xcoms["g.each", 0, RETURN_VALUE] = "never a value"
        verdict = collect(run, returned=["x", "y"])

        assert (verdict.reader.asked("page"), verdict.reader.asked("value_count")) == ([], [])

    def test_one_that_cannot_be_read_is_told_after_the_report(self) -> None:
        run = Instances().ok(0, "a").ok(1, "b")
        run.xcoms["g.each", 1, RETURN_VALUE] = UnreadableValueError("g.each[1]", cause=ValueError("odd"))
        verdict = collect(run)

        assert isinstance(verdict.error, UnreadableValueError)
        assert verdict.report is not None
        assert verdict.report["succeeded"] == 2

    def test_one_that_is_gone_since_it_was_counted_makes_the_fan_in_run_again(self) -> None:
        verdict = collect(Instances().ok(0, "a").ok(1, FileNotFoundError("s3://gone")))

        assert isinstance(verdict.error, BranchesRunningError)
        assert "gone since they were counted: 'g_1'" in verdict.message

    def test_those_of_another_key_are_read_where_all_pushed_one(self) -> None:
        run = Instances()
        for index in range(3):
            run.ok(index, f"rows {index}", key="rows")
        verdict = collect(run, key="rows")

        assert [value for _, value, _ in outcomes(verdict).values()] == ["rows 0", "rows 1", "rows 2"]
        assert verdict.reader.asked("value") == []


class TestNames:
    def test_of_run_time_are_recorded(self) -> None:
        run = Instances().ok(0, "a", name="north").silent(1, "failed").silent(2, "skipped")
        verdict = collect(run, returned={"north": 1, "south": 2, "east": 3})

        assert list(outcomes(verdict)) == ["north", "south", "east"]
        assert len(verdict.reader.asked("ask")) == 1

    def test_of_a_number_of_run_time_are_numbers(self) -> None:
        verdict = collect(Instances().silent(0, "failed").ok(1, "b", name="g_1"), count=load(), returned=2)

        assert list(outcomes(verdict)) == ["g_0", "g_1"]

    @pytest.mark.parametrize(
        ("now", "name", "outcome"),
        [
            pytest.param(3, "g_2", ("missing", None, NEVER_RAN), id="more"),
            pytest.param(1, "g_1", ("removed", None, REMOVED.error), id="fewer"),
        ],
    )
    def test_of_a_number_that_is_another_now_are_as_many(self, now: int, name: str, outcome: Any) -> None:
        """Its task has run again by itself, and ``split`` has not."""
        run = Instances().ok(0, "a").ok(1, "b")

        assert outcomes(collect(run, count=load(), returned=now))[name] == outcome


def _of_batches(*names: str) -> Instances:
    """A run of what was batched, an item in each task, and is mapped now."""
    run = Instances()
    for index, name in enumerate(names):
        record = {"state": "batch", "map_index": index, "start": index, "split": 1, "names": [name]}
        record |= {"statuses": "S", "errors": {}, "seconds": [1.0], "cpu_seconds": [0.5]}
        run.add("g.each", value={name: f"of {name}"}, map_index=index, record=record)
    return run


class TestADagThatChanged:
    def test_values_belong_to_the_names_that_instances_ran_under(self) -> None:
        run = Instances().ok(0, "of de", name="de").bad(1, name="fr").ok(2, "of us", name="us")
        verdict = collect(run, items={"at": 1, "de": 2, "fr": 3, "us": 4}, mapped=True)

        assert outcomes(verdict) == {
            "at": ("missing", None, "its instance ran as 'de' before the Dag, or its items, changed"),
            "de": ("success", "of de", None),
            "fr": ("failed", None, "ValueError: broken"),
            "us": ("success", "of us", None),
        }
        assert verdict.report is not None
        assert (verdict.report["expected"], verdict.report["missing"]) == (4, 1)

    def test_what_is_no_longer_declared_is_removed_and_hides_nothing(self) -> None:
        run = Instances()
        for index in range(3):
            run.ok(index, f"value {index}", name=f"g_{index}")
        verdict = collect(run, items={"g_2": 1}, mapped=True)

        assert outcomes(verdict) == {
            "g_2": ("success", "value 2", None),
            "g_0": ("removed", None, "it is no longer declared"),
            "g_1": ("removed", None, "it is no longer declared"),
        }
        assert verdict.report is not None
        assert verdict.report["expected"] == 1

    @pytest.mark.parametrize("items", [{"de": 1, "fr": 2}, [1, 2]], ids=["named", "numbered"])
    def test_what_a_batch_left_is_that_of_no_branch(self, items: Any) -> None:
        verdict = collect(_of_batches("de", "fr"), items=items, mapped=True)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert "missing: its instance ran as 'g batch 0' before the Dag" in verdict.message

    def test_nor_is_it_by_a_prefix(self) -> None:
        group = FanOutGroup("g", branch=work, items={"de": 1, "fr": 2}, mapped=True)
        fan_in = FanInOperator(task_id="f", task_id_prefix="g.")
        group >> fan_in
        verdict = run_fan_in(fan_in, _of_batches("de", "fr"))

        assert isinstance(verdict.error, TooFewBranchesError)
        assert "2 × missing: its instance ran as 'g batch 0'" in verdict.message

    def test_what_removed_instances_of_the_items_task_left_is_no_item(self) -> None:
        returned: Any = LazyXComSequence(xcom_arg=mock.Mock(), ti=mock.Mock())
        run = Instances().ok(0, "a", name="g_0").silent(1, "removed")
        with mock.patch("airflow_fanout.execution_time.xcom.current_count", return_value=1):
            verdict = collect(run, returned=returned)

        assert {name: state for name, (state, *_) in outcomes(verdict).items()} == {
            "g_0": "success",
            "g_1": "removed",
        }

    def test_a_task_that_the_run_does_not_have_leaves_every_branch_missing(self) -> None:
        verdict = collect(FakeRun(), items={"de": 1, "fr": 2}, mapped=True)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert f"2 × missing: {NEVER_RAN} (de, fr)" in verdict.message

    @pytest.mark.parametrize("returned", [["x"], {"g_0": "x"}], ids=["a list", "a mapping"])
    def test_items_of_a_task_that_had_none_are_missing(self, returned: Any) -> None:
        run = FakeRun().add("load").add("g.each", "skipped", duration=None)
        verdict = collect(run, returned=returned)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert f"g_0: missing: {NEVER_RAN}" in verdict.message

    def test_no_items_then_and_now_are_no_branches(self) -> None:
        run = FakeRun().add("load").add("g.each", "skipped", duration=None)
        verdict = collect(run, returned=[])

        assert isinstance(verdict.error, EmptyFanInError)
        assert verdict.requests <= 4

    @pytest.mark.parametrize("named", [False, True], ids=["a list", "a mapping"])
    @pytest.mark.parametrize("number", [1, 5])
    def test_expected_is_what_the_items_task_yielded_last(self, named: bool, number: int) -> None:
        run = Instances()
        for index in range(3):
            run.ok(index, index, name=f"g_{index}")
        items = {f"g_{index}": 0 for index in range(number)}
        verdict = collect(run, returned=items if named else list(items))

        states = {name: state for name, (state, *_) in outcomes(verdict).items()}
        assert states == {
            f"g_{n}": "success" if n < min(number, 3) else "missing" if n >= 3 else "removed"
            for n in range(max(number, 3))
        }

    def test_the_first_of_several_tasks_tells_the_name(self) -> None:
        run = FakeRun()
        for index, name in enumerate(["a", "b"]):
            record = {"state": "success", "has_value": True, "map_index": index}
            run.add("g.each.first", value="", map_index=index, record={**record, "name": name})
            run.add("g.each.second", value="", map_index=index, record=record)
            run.add("g.each.third", value=f"of {name}", map_index=index, record=record)
        verdict = collect(run, branch=chain, returned={"b": 1, "a": 2})

        assert outcomes(verdict) == {"b": ("success", "of b", None), "a": ("success", "of a", None)}
        assert verdict.requests <= 4 + 3


class TestInstancesThatAreNotFinished:
    def test_are_named_where_they_are_counted(self) -> None:
        run = Instances().ok(0, "a", name="north").ok(2, "c", name="east")
        run.unfinished = 1
        verdict = collect(run, returned={"north": 1, "south": 2, "east": 3})

        assert isinstance(verdict.error, BranchesRunningError)
        assert "'south'" in verdict.message

    def test_are_named_where_all_of_them_were_cleared(self) -> None:
        run = Instances()
        run.unfinished = 2
        verdict = collect(run, returned={"north": 1, "south": 2})

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("north", "south")

    def test_and_start_again_while_they_are_read_are_waited_for(self) -> None:
        verdict = collect(Instances().ok(0, "a").ok(1, "b").ok(2, "c").start_again("g.each", 1))

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("g_1",)

    @pytest.mark.parametrize("finishes", [False, True], ids=["still runs", "has ended"])
    def test_one_that_starts_again_shifts_no_value_of_another_page(self, finishes: bool) -> None:
        run = Instances()
        for index in range(2 * PAGE_SIZE + 1):
            run.ok(index, index, name=f"g_{index}")
        fan_out = FanOutGroup("g", branch=work, count=2 * PAGE_SIZE + 1, mapped=True)

        def read(results: Any) -> Any:
            del reader.xcoms["g.each", 3, RETURN_VALUE]
            reader.instances["g.each", 3] = replace(reader.instances["g.each", 3], duration=2.0)
            if not finishes:
                del reader.instances["g.each", 3]
            return results["g_700"]

        fan_in = FanInOperator(task_id="f", fan_out=fan_out, python_callable=read)
        reader = run.reader()
        with mock.patch.object(FakeRun, "reader", return_value=reader):
            verdict = run_fan_in(fan_in, run)

        assert isinstance(verdict.error, BranchesRunningError)


class TestRequests:
    COUNT = 2 * PAGE_SIZE + 1
    STEPS = ("g.each.first", "g.each.second", "g.each.third")

    @pytest.mark.parametrize("dies", [False, True], ids=["all recorded", "some died"])
    def test_they_do_not_grow_with_the_instances(self, dies: bool) -> None:
        run = Instances()
        for index in range(self.COUNT):
            if dies and index % 7 == 0:
                run.silent(index, "failed")
            else:
                run.ok(index, index, name=f"n_{index}")
        verdict = collect(run, returned={f"n_{index}": 0 for index in range(self.COUNT)})

        assert len(outcomes(verdict)) == self.COUNT
        assert all(value in {None, index} for index, (_, value, _) in enumerate(verdict.value.values()))
        assert verdict.requests <= 4 + 3 * 3

    def test_a_page_is_read_when_it_is_asked_for(self) -> None:
        run = Instances()
        for index in range(self.COUNT):
            run.ok(index, index)
        fan_out = FanOutGroup("g", branch=work, count=load())
        fan_in = FanInOperator(task_id="f", fan_out=fan_out, python_callable=lambda results: results["g_700"])
        with mock.patch.object(PlainXComArg, "resolve", return_value=self.COUNT):
            verdict = run_fan_in(fan_in, run)

        assert (verdict.value, verdict.reader.asked("page")) == (700, [("g.each", RETURN_VALUE, 500, 1000)])

    def run_of(self, count: int, failing: dict[int, int]) -> Instances:
        """A run in which some instances fail, each in the step of this number."""
        run = Instances()
        for index in range(count):
            fails = failing.get(index, len(self.STEPS))
            for number, task_id in enumerate(self.STEPS):
                own: dict[str, Any] = {"map_index": index}
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
        assert list(outcomes(verdict).values()) == [
            ("failed", None, f"ValueError: {index}")
            if index in failing
            else ("success", f"value {index}", None)
            for index in range(count)
        ]

    @pytest.mark.parametrize(
        ("count", "failing", "more"),
        [
            pytest.param(8, {}, 0, id="nothing failed"),
            pytest.param(8, {1: 2}, 0, id="the last task failed"),
            pytest.param(8, {1: 0}, 0, id="a task before it failed"),
            pytest.param(8, {1: 1, 2: 1, 3: 2}, 0, id="both did"),
            pytest.param(8, {1: 0, 2: 1}, 1, id="a second one before it failed"),
            pytest.param(PAGE_SIZE, {1: 1}, 0, id="a whole page"),
            pytest.param(2 * PAGE_SIZE, {}, 0, id="two pages"),
        ],
    )
    def test_of_several_tasks_they_are_4_and_2_a_page_and_1_between_two(
        self, count: int, failing: dict[int, int], more: int
    ) -> None:
        verdict = collect(self.run_of(count, failing), branch=chain)

        self.check(verdict, count, failing)
        assert verdict.requests <= 4 + 2 * -(-count // PAGE_SIZE) + (count - 1) // PAGE_SIZE + more

    @pytest.mark.parametrize("count", [1, PAGE_SIZE])
    def test_they_are_no_more_where_no_branch_succeeded(self, count: int) -> None:
        run = self.run_of(count, dict.fromkeys(range(count), 0))
        verdict = collect(run, branch=chain, returned=["x"] * count)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert "failed: ValueError: 0" in verdict.message
        assert verdict.requests <= 4 + 2

    @pytest.mark.parametrize(("failures", "more"), [(1, 1), (2, 2), (3, 3), (300, 3)])
    def test_above_a_page_they_are_one_more_a_failure_at_most_one_a_page(
        self, failures: int, more: int
    ) -> None:
        failing = dict.fromkeys(range(0, 3 * failures, 3), 1)
        verdict = collect(self.run_of(self.COUNT, failing), branch=chain)

        self.check(verdict, self.COUNT, failing)
        reader = verdict.reader
        asked = [task_id for task_id, *_ in reader.asked("record") + reader.asked("record_page")]
        assert asked.count("g.each.second") == more
        assert verdict.requests <= 4 + 2 * 3 + 2 + more

    def test_a_process_that_died_in_one_costs_no_more(self) -> None:
        run = self.run_of(2, {0: 1})
        del run.xcoms["g.each.second", 0, RECORD_KEY]
        verdict = collect(run, branch=chain, returned=["x", "y"])

        assert outcomes(verdict)["g_0"] == ("failed", None, NO_EXCEPTION_RECORDED)
        assert verdict.requests <= 4 + 2

    def test_of_several_groups_no_more_than_a_page_of_values_is_read_before_anybody_asks(self) -> None:
        run, count = FakeRun(), PAGE_SIZE // 2
        fan_in = FanInOperator(task_id="f", task_id_prefix="g_", python_callable=len)
        for name in ("g_a", "g_b", "g_c"):
            FanOutGroup(name, branch=work, items=["x"] * count, mapped=True) >> fan_in
            for index in range(count):
                record = {"state": "success", "has_value": True, "map_index": index}
                run.add(f"{name}.each", value=index, map_index=index, record=record)
        verdict = run_fan_in(fan_in, run)

        assert verdict.value == 3 * count
        assert [task_id for task_id, *_ in verdict.reader.asked("page")] == ["g_a.each", "g_b.each"]
        assert [task_id for task_id, *_ in verdict.reader.asked("value_count")] == ["g_c.each"]


class TestALieInARecord:
    """A branch's code may push under the key of records too."""

    def instances(self, second: dict[str, Any], *names: str | None) -> FakeRun:
        run = FakeRun()
        for index in range(3):
            record = {"state": "success", "has_value": True, "map_index": index}
            record |= {"name": names[index]} if names else {}
            run.add("g.each", value=f"value {index}", map_index=index, record=record)
        run.xcoms["g.each", 1, RECORD_KEY] |= second
        return run

    @pytest.mark.parametrize("claimed", [0, 2, 7], ids=["an earlier one", "a later one", "none"])
    @pytest.mark.parametrize(
        "more", [{}, {"has_value": False}, {"state": "failed", "error": "forged"}], ids=repr
    )
    def test_about_whose_it_is_harms_nobody_else(self, claimed: int, more: dict[str, Any]) -> None:
        branches = outcomes(collect(self.instances({"map_index": claimed, **more})))

        assert (branches["g_0"], branches["g_2"]) == (
            ("success", "value 0", None),
            ("success", "value 2", None),
        )
        assert branches["g_1"][1] in {"value 1", None}

    def test_about_whose_it_is_gives_no_error_to_another(self) -> None:
        run = Instances().ok(2, "c")
        for index in (0, 1):
            record = {"state": "failed", "error": f"E: {index}", "map_index": 1 - index}
            run.add("g.each", "failed", map_index=index, record=record)

        assert [error for _, _, error in outcomes(collect(run)).values()] == ["E: 0", "E: 1", None]

    @pytest.mark.parametrize(
        ("claimed", "its_own"), [("a", None), ("c", None), ("", "value 1"), (None, "value 1"), (8, "value 1")]
    )
    def test_about_a_name_takes_it_from_nobody(self, claimed: Any, its_own: str | None) -> None:
        run = self.instances({"name": claimed}, "a", "b", "c")
        branches = outcomes(collect(run, returned={"a": 0, "b": 1, "c": 2}))

        assert [branches[name][1] for name in "abc"] == ["value 0", its_own, "value 2"]

    def test_about_having_a_value_shifts_nobody_elses(self) -> None:
        branches = outcomes(collect(self.instances({"has_value": False})))

        assert [value for _, value, _ in branches.values()] == ["value 0", "value 1", "value 2"]
