from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import XComArg, task
from airflow.sdk.definitions.xcom_arg import PlainXComArg

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import BranchesRunningError, EmptyFanInError, ItemsError, TooFewBranchesError
from airflow_fanout.execution_time.batched import failures_of_others
from airflow_fanout.execution_time.xcom import NOTHING, PAGE_SIZE
from airflow_fanout.rules.identity import NEVER_RAN, REMOVED
from airflow_fanout.rules.instances import runs_mark
from airflow_fanout.rules.outcomes import LOST_VALUE, NO_EXCEPTION_RECORDED
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE, BatchRecord, batch_key
from tests.unit.fake_run import FakeRun, run_fan_in

if TYPE_CHECKING:
    from tests.unit.fake_run import Verdict

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


@task
def load() -> list[str]:
    return []


class Batches(FakeRun):
    """A run of a group whose items were cut into batches."""

    size = 2

    def cut(self, total: int, size: int = 2) -> Batches:
        """Add the tasks before the batches."""
        self.size = size
        mark = runs_mark(self.add("load").instances, ["load"])
        bounds = [[start, min(start + size, total), 1, mark] for start in range(0, total, size)]
        self.add("g.split", value=bounds)
        return self

    def batch(
        self,
        number: int,
        statuses: str,
        *,
        names: list[str] | None = None,
        split: int = 1,
        tries: dict[str, int] | None = None,
        **more: Any,
    ) -> Batches:
        """Add a batch that has reported; each success returned its batch and its index within that."""
        start = number * self.size
        record = BatchRecord(
            map_index=number,
            start=start,
            split=split,
            names=names,
            statuses=statuses,
            errors={str(index): "ValueError: broken" for index, s in enumerate(statuses) if s == "F"},
            stopped="enough" if "X" in statuses else None,
            tries=tries or {},
            seconds=[float(index) for index in range(len(statuses))],
            cpu_seconds=[0.0] * len(statuses),
        )
        labels = names or [f"g_{start + index}" for index in range(len(statuses))]
        values = {label: [number, index] for index, label in enumerate(labels) if statuses[index] == "S"}
        given = {"state": "failed" if "F" in statuses else "success", "value": values, **more}
        self.add("g.each", map_index=number, record=record.to_xcom(), **given)
        return self

    def dead(self, number: int, state: str = "failed", **more: Any) -> Batches:
        """Add a batch that has not reported."""
        self.add("g.each", state, map_index=number, **more)
        return self

    def lose(self, *numbers: int) -> Batches:
        """Have somebody delete the values of batches."""
        for number in numbers:
            del self.xcoms["g.each", number, RETURN_VALUE]
        return self


def collect(run: FakeRun, *, min_success: int | None = 1, prefix: bool = False, **group: Any) -> Verdict:
    fan_out = FanOutGroup("g", **{"branch": work, "items": load(), "items_per_task": 2, **group})
    arguments: Any = {"task_id_prefix": "g."} if prefix else {"fan_out": fan_out}
    fan_in = FanInOperator(
        task_id="f",
        min_success=min_success,
        python_callable=lambda results: (
            {name: (o.state, o.value, o.error) for name, o in results.outcomes.items()},
            list(results.items()),
        ),
        **arguments,
    )
    fan_out >> fan_in
    return run_fan_in(fan_in, run)


def test_how_often_an_item_was_called_is_in_its_outcome() -> None:
    run = Batches().cut(4)
    run.batch(0, "SK", tries={"0": 3}).batch(1, "SS", names=None)
    calls = FanInOperator(
        task_id="calls",
        fan_out=FanOutGroup("g", branch=work, items=load(), items_per_task=2),
        python_callable=lambda results: [outcome.tries for outcome in results.outcomes.values()],
    )

    assert run_fan_in(calls, run).value == [3, 1, 1, 1]


def outcomes(verdict: Verdict) -> dict[str, Any]:
    assert verdict.error is None, verdict.message
    branches: dict[str, Any] = verdict.value[0]
    return branches


def states(verdict: Verdict) -> str:
    letters = {
        "success": "S",
        "failed": "F",
        "skipped": "K",
        "missing": "M",
        "upstream_failed": "U",
        "removed": "R",
    }
    return "".join(letters[state] for state, _, _ in outcomes(verdict).values())


def states_by_name(verdict: Verdict) -> dict[str, str]:
    return {name: state for name, (state, *_) in outcomes(verdict).items()}


class TestItems:
    def test_each_has_its_own_outcome_in_order(self) -> None:
        verdict = collect(Batches().cut(5).batch(0, "SF").batch(1, "KS").batch(2, "S"))

        assert outcomes(verdict) == {
            "g_0": ("success", [0, 0], None),
            "g_1": ("failed", None, "ValueError: broken"),
            "g_2": ("skipped", None, None),
            "g_3": ("success", [1, 1], None),
            "g_4": ("success", [2, 0], None),
        }
        assert verdict.value[1] == [("g_0", [0, 0]), ("g_3", [1, 1]), ("g_4", [2, 0])]

    def test_of_a_dead_batch_are_all_expected(self) -> None:
        """Ten items in two batches, of which one was killed for good."""
        verdict = collect(Batches().cut(10, 5).batch(0, "SSSSS").dead(1), items_per_task=5)

        assert states(verdict) == "SSSSSFFFFF"
        assert outcomes(verdict)["g_9"] == ("failed", None, NO_EXCEPTION_RECORDED)
        assert verdict.report is not None
        assert (verdict.report["expected"], verdict.report["failed"]) == (10, 5)

    def test_of_another_batch_get_no_value_from_a_batch(self) -> None:
        run = Batches().cut(4).batch(0, "SS").batch(1, "SF", value={"g_2": "c", "g_0": "stolen"})

        assert dict(collect(run).value[1]) == {"g_0": [0, 0], "g_1": [0, 1], "g_2": "c"}

    def test_that_were_stopped_say_why_and_count_as_failures(self) -> None:
        verdict = collect(Batches().cut(2).batch(0, "FX"))

        assert isinstance(verdict.error, TooFewBranchesError)
        assert verdict.report is not None
        assert (verdict.report["counted"], verdict.report["skipped"]) == (2, 1)
        assert "enough" in verdict.message

    def test_that_a_longer_list_left_are_removed(self) -> None:
        run = Batches().cut(2).batch(0, "SS").batch(1, "SS", state="removed")
        verdict = collect(run)

        assert states_by_name(verdict) == {
            "g_0": "success",
            "g_1": "success",
            "g_2": "removed",
            "g_3": "removed",
        }
        assert verdict.report is not None
        assert verdict.report["expected"] == 2

    def test_whose_bounds_are_gone_are_no_empty_list(self) -> None:
        verdict = collect(Batches().batch(0, "SS").add("g.split").add("load"), min_success=None)

        assert isinstance(verdict.error, BranchesRunningError)
        assert "'g.split' no longer says which items there are" in verdict.message

    def test_whose_bounds_are_no_longer_stored_fail_the_fan_in(self) -> None:
        run = Batches().cut(2).batch(0, "SS")
        run.xcoms["g.split", -1, RETURN_VALUE] = FileNotFoundError("s3://gone")
        verdict = collect(run)

        assert isinstance(verdict.error, ItemsError)
        assert "what 'g.split' returned is no longer stored (s3://gone). Clear it" in verdict.message


class TestBatchesThatRunAgain:
    def test_are_waited_for_where_they_were_cleared(self) -> None:
        run = Batches().cut(4).batch(0, "SS")
        run.unfinished = 1
        verdict = collect(run)

        assert isinstance(verdict.error, BranchesRunningError)
        assert "'g.each[1]'" in verdict.message

    @pytest.mark.parametrize("prefix", [False, True], ids=["its group", "a prefix"])
    def test_are_waited_for_where_all_of_them_were_cleared(self, prefix: bool) -> None:
        run = Batches().cut(4)
        run.unfinished = 2
        verdict = collect(run, min_success=None, prefix=prefix)

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("g.each[0]", "g.each[1]")

    def test_are_waited_for_where_they_start_while_they_are_read(self) -> None:
        verdict = collect(Batches().cut(4).batch(0, "SS").batch(1, "SS").start_again("g.each", 1))

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("g_2", "g_3")

    def test_are_waited_for_where_they_start_between_record_and_values(self) -> None:
        run = Batches().cut(2).batch(0, "SS")
        record = run.xcoms["g.each", 0, RECORD_KEY]
        run.start_again("g.each", 0).xcoms["g.each", 0, RECORD_KEY] = record

        assert isinstance(collect(run).error, BranchesRunningError)


class TestValuesThatAreGone:
    def test_are_missing_and_count(self) -> None:
        verdict = collect(Batches().cut(5).batch(0, "SS").batch(1, "SK").batch(2, "S").lose(1))

        assert states(verdict) == "SSMKS"
        assert outcomes(verdict)["g_2"] == ("missing", None, LOST_VALUE)
        assert verdict.value[1] == [("g_0", [0, 0]), ("g_1", [0, 1]), ("g_4", [2, 0])]
        assert verdict.report is not None
        assert (verdict.report["succeeded"], verdict.report["missing"]) == (3, 1)

    @pytest.mark.parametrize(("state", "total"), [("upstream_failed", 8), ("removed", 6)])
    def test_are_missing_where_a_batch_kept_those_of_an_earlier_try(self, state: str, total: int) -> None:
        run = Batches().cut(total).batch(0, "SS").batch(1, "SS").batch(2, "SS").batch(3, "SS", state=state)

        assert states(collect(run.lose(1)))[:6] == "SSMMSS"

    def test_behind_the_count_fail_the_fan_in(self) -> None:
        """One batch was killed before its record, and so its value makes up for another's in the count."""
        run = Batches().cut(6).batch(0, "SS").batch(1, "SS").dead(2, value={"g_4": 1, "g_5": 2})
        verdict = collect(run.lose(1))

        assert isinstance(verdict.error, BranchesRunningError)
        assert "gone since they were counted: 'g_2', 'g_3'" in verdict.message

    def test_from_storage_are_found_out_before_the_verdict(self) -> None:
        run = Batches().cut(2).batch(0, "SS", value=FileNotFoundError("s3://gone"))
        with mock.patch("airflow_fanout.execution_time.batched.values_lie_elsewhere", return_value=True):
            verdict = collect(run)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert f"2 × missing: {LOST_VALUE}: s3://gone (g_0, g_1)" in verdict.message

    @pytest.mark.parametrize("count", [1, 3])
    def test_cost_one_request_more(self, count: int) -> None:
        verdict = collect(Batches().cut(6).batch(0, "SS").batch(1, "SS").batch(2, "SS").lose(*range(count)))

        assert verdict.report is not None
        assert verdict.report["missing"] == 2 * count
        assert verdict.requests <= 5 + 2 * 3


class TestNames:
    def test_of_run_time_are_recorded(self) -> None:
        run = Batches().cut(3).batch(0, "SF", names=["x", "y"]).batch(1, "S", names=["z"])

        assert list(outcomes(collect(run))) == ["x", "y", "z"]

    @pytest.mark.parametrize(
        ("stored", "names"),
        [
            pytest.param({"names": ["x", "y"], "items": [1, 2]}, ["x", "y", "z"], id="there"),
            pytest.param(NOTHING, ["g_0", "g_1", "z"], id="deleted"),
            pytest.param(FileNotFoundError("s3://gone"), ["g_0", "g_1", "z"], id="no longer stored"),
        ],
    )
    def test_of_a_dead_batch_come_from_its_items(self, stored: Any, names: list[str]) -> None:
        run = Batches().cut(3).dead(0).batch(1, "S", names=["z"])
        if stored is not NOTHING:
            run.xcoms["g.split", -1, batch_key(0)] = stored

        assert list(outcomes(collect(run))) == names

    def test_by_prefix_have_their_group_before_them(self) -> None:
        verdict = collect(Batches().cut(3).batch(0, "SF").batch(1, "S"), prefix=True)

        assert list(outcomes(verdict)) == ["g.g_0", "g.g_1", "g.g_2"]
        assert verdict.value[1] == [("g.g_0", [0, 0]), ("g.g_2", [1, 0])]


class TestItemsThatAreOthersNow:
    """Their task has run again by itself since they were cut: in another number of seconds."""

    def collect(self, run: FakeRun, yielded: Any, **group: Any) -> Verdict:
        run.add("load", duration=2.0)
        with mock.patch.object(PlainXComArg, "resolve", return_value=yielded):
            return collect(run, min_success=0, **group)

    @pytest.mark.parametrize(
        ("yielded", "expected"),
        [
            pytest.param(["a", "b", "c"], "SFS", id="as many"),
            pytest.param(["a", "b", "c", "d"], "SFSM", id="more"),
            pytest.param(["a"], "SRR", id="fewer"),
        ],
    )
    @pytest.mark.parametrize("gives", ["items", "count", "map", "zip"])
    def test_are_told_from_those_that_ran(self, gives: str, yielded: list[str], expected: str) -> None:
        run = Batches().cut(3).batch(0, "SF").batch(1, "S")
        items: Any = load()
        group = {
            "items": {"items": items},
            "map": {"items": items.map(str)},
            "zip": {"items": items.zip(items)},
            "count": {"branch": lambda: None, "items": None, "count": items},
        }[gives]
        verdict = self.collect(run, len(yielded) if gives == "count" else yielded, **group)

        assert states(verdict) == expected
        reasons = {"missing": NEVER_RAN, "removed": REMOVED.error, "failed": "ValueError: broken"}
        for state, _, error in outcomes(verdict).values():
            assert error == reasons.get(state)

    def test_are_those_of_several_tasks_together(self) -> None:
        run = Batches().cut(3).batch(0, "SF").batch(1, "S")

        assert states(self.collect(run, ["a", "b"], items=load().concat(load()))) == "SFSM"

    def test_are_none_at_all(self) -> None:
        verdict = self.collect(Batches().cut(3).batch(0, "SF").batch(1, "S"), [])

        assert isinstance(verdict.error, EmptyFanInError)

    @pytest.mark.parametrize("has_map", [False, True])
    def test_are_told_by_their_names(self, has_map: bool) -> None:
        run = Batches().cut(3).batch(0, "SS", names=["de", "fr"]).batch(1, "S", names=["us"])
        items: XComArg = load().map(str) if has_map else load()
        verdict = self.collect(run, {"at": 0, "us": 1, "de": 2}, items=items)

        assert outcomes(verdict) == {
            "at": ("missing", None, "its instance ran as 'de' before the Dag, or its items, changed"),
            "us": ("success", [1, 0], None),
            "de": ("success", [0, 0], None),
            "fr": ("removed", None, REMOVED.error),
        }

    def test_are_missing_where_there_were_none(self) -> None:
        run = Batches().cut(0).add("g.each", "skipped")

        assert states(self.collect(run, ["a", "b"])) == "MM"

    def test_are_no_success(self) -> None:
        run = Batches().cut(2).batch(0, "SS").add("load", duration=2.0)
        with mock.patch.object(PlainXComArg, "resolve", return_value=["a", "b", "c"]):
            verdict = collect(run, min_success=None)

        assert isinstance(verdict.error, TooFewBranchesError)

    def test_are_waited_for_where_their_task_runs(self) -> None:
        run = Batches().cut(2).batch(0, "SS")
        del run.instances["load", -1]
        with mock.patch.object(PlainXComArg, "resolve", return_value=None):
            verdict = collect(run)

        assert isinstance(verdict.error, BranchesRunningError)

    @pytest.mark.parametrize("total", [0, 3])
    def test_are_not_asked_for_where_it_has_not(self, total: int) -> None:
        run = Batches().cut(total)
        if total:
            run.batch(0, "SS").batch(1, "S")
        else:
            run.add("g.each", "skipped")
        with mock.patch.object(PlainXComArg, "resolve", return_value=[]) as resolve:
            verdict = collect(run)

        assert resolve.call_count == (total == 0)
        assert verdict.requests + resolve.call_count <= 4 + 2 * -(-total // 2)


class TestADagThatChanged:
    def test_values_belong_to_the_names_that_items_ran_under(self) -> None:
        run = Batches().cut(3).batch(0, "SF", names=["de", "fr"]).batch(1, "S", names=["us"])
        verdict = collect(run, items={"at": 1, "us": 2, "de": 3, "fr": 4})

        assert outcomes(verdict) == {
            "at": ("missing", None, "its instance ran as 'de' before the Dag, or its items, changed"),
            "us": ("success", [1, 0], None),
            "de": ("success", [0, 0], None),
            "fr": ("failed", None, "ValueError: broken"),
        }

    def test_a_shorter_list_is_accounted_for(self) -> None:
        run = Batches().cut(3).batch(0, "SF", names=["de", "fr"]).batch(1, "S", names=["us"])

        assert states_by_name(collect(run, items={"fr": 1}, min_success=0)) == {
            "fr": "failed",
            "de": "removed",
            "us": "removed",
        }

    def test_functions_that_changed_places_keep_their_outcomes(self) -> None:
        run = Batches().cut(3, 3).batch(0, "FKS", names=["a", "b", "c"])
        functions = dict.fromkeys("bca", work)

        assert states_by_name(collect(run, branch=functions, items=None, items_per_task=3)) == {
            "b": "skipped",
            "c": "success",
            "a": "failed",
        }

    def test_items_that_were_split_where_there_had_been_none_are_missing(self) -> None:
        verdict = collect(Batches().cut(3).add("g.each", "skipped", duration=None))

        assert isinstance(verdict.error, TooFewBranchesError)
        assert verdict.report is not None
        assert (verdict.report["expected"], verdict.report["missing"]) == (3, 3)

    def test_items_that_were_split_again_are_expected(self) -> None:
        run = Batches().cut(3).batch(0, "SS", names=["x", "y"], split=0).batch(1, "S", names=["z"], split=0)
        for number, names in enumerate([["z", "w"], ["x"]]):
            run.xcoms["g.split", -1, batch_key(number)] = {"names": names, "items": []}

        assert states_by_name(collect(run)) == {
            "z": "success",
            "w": "missing",
            "x": "success",
            "y": "removed",
        }

    @pytest.mark.parametrize("total", [3, 7])
    def test_expected_is_what_was_cut_last(self, total: int) -> None:
        run = Batches().cut(total).batch(0, "SS", split=0).batch(1, "SS", split=0)

        assert (
            list(states_by_name(collect(run)).values())
            == {
                3: ["success"] * 3 + ["removed"],
                7: ["success"] * 4 + ["missing"] * 3,
            }[total]
        )


class TestRequests:
    @pytest.mark.parametrize("dies", [False, True], ids=["all reported", "all but one died"])
    @pytest.mark.parametrize("size", [2, 50])
    def test_they_grow_with_the_tasks_alone(self, size: int, dies: bool) -> None:
        tasks = 6
        run = Batches().cut(tasks * size, size)
        for number in range(tasks):
            names = [f"n_{number * size + index}" for index in range(size)]
            run.xcoms["g.split", -1, batch_key(number)] = {"names": names, "items": []}
            if dies and number:
                run.dead(number)
            else:
                run.batch(number, "S" * size, names=names)
        verdict = collect(run, items_per_task=size)

        assert len(outcomes(verdict)) == tasks * size
        assert verdict.requests <= 4 + 2 * tasks

    def test_of_a_batch_that_did_not_run_no_record_is_asked_for(self) -> None:
        verdict = collect(Batches().cut(4).batch(0, "SS").batch(1, "SS", state="upstream_failed"))

        assert verdict.reader.asked("record") == [("g.each", 0)]

    def test_of_items_in_a_list_one_batch_is_asked_for_names(self) -> None:
        run = Batches().cut(6).dead(0).dead(1).batch(2, "SS")
        for number in range(3):
            run.xcoms["g.split", -1, batch_key(number)] = {"names": None, "items": []}
        asked = collect(run).reader.asked("value")

        assert [key for _, _, key in asked if key != RETURN_VALUE] == [batch_key(0)]

    def test_a_batch_is_read_when_its_items_are_asked_for(self) -> None:
        fan_out = FanOutGroup("g", branch=work, items=load(), items_per_task=2)
        fan_in = FanInOperator(task_id="f", fan_out=fan_out, python_callable=lambda results: results["g_3"])
        verdict = run_fan_in(fan_in, Batches().cut(4).batch(0, "SS").batch(1, "SS"))

        read = [map_index for task_id, map_index, _ in verdict.reader.asked("value") if task_id == "g.each"]
        assert (verdict.value, read) == ([1, 1], [1])


class TestFailuresOfTheOtherBatches:
    @pytest.mark.parametrize(
        ("run", "expected", "requests"),
        [
            pytest.param(Batches().batch(0, "SS").batch(1, "FF", state="success"), 0, 1, id="none failed"),
            pytest.param(
                Batches().batch(0, "SF").batch(1, "FF").batch(2, "FF"), 3, 2, id="of those that did"
            ),
            pytest.param(Batches().cut(6).batch(0, "SF").dead(1), 3, 3, id="all of one that died"),
            pytest.param(Batches().dead(0).add("g.split"), 0, 3, id="nobody knows how many"),
        ],
    )
    def test_are_counted(self, run: FakeRun, expected: int, requests: int) -> None:
        reader = run.reader()

        assert failures_of_others(reader, "g.each", 2, split_task_id="g.split") == expected
        assert len(reader.calls) == requests

    def test_are_read_in_pages(self) -> None:
        run = Batches()
        for number in range(PAGE_SIZE + 1):
            run.batch(number, "F")
        reader = run.reader()

        assert failures_of_others(reader, "g.each", 0, split_task_id="g.split") == PAGE_SIZE
        assert len(reader.asked("record_page")) == 2
