from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
from airflow.sdk import DAG, task
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import BranchesRunningError, ItemsError, TooFewBranchesError
from airflow_fanout.execution_time.xcom import NOTHING
from airflow_fanout.rules.outcomes import LOST_VALUE, MARKED_BY_HAND, NO_EXCEPTION_RECORDED
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE, batch_key
from tests.unit.fake_run import FakeRun, Verdict, run_fan_in

pytestmark = pytest.mark.usefixtures("dag")


def work(item: str = "") -> str:
    return item


@task
def load() -> list[str]:
    return []


def dump(results: Any) -> Any:
    """Whatever a fan-in's function can know."""
    return {name: (o.state, o.value, o.error) for name, o in results.outcomes.items()}, list(results.items())


class Batches(FakeRun):
    """A run of a group whose items were cut into batches of so many."""

    def cut(self, total: int, size: int) -> Batches:
        places = [[start, min(start + size, total)] for start in range(0, total, size)]
        self.add("load").add("g.split", value=places, map_index=-1)
        return self

    def batch(self, number: int, states: str, *, names: list[str] | None = None, **more: Any) -> Batches:
        """Add a batch that has reported; a success returned the number of its batch, and its place."""
        record = {
            "state": "batch",
            "map_index": number,
            "start": 0,
            "names": names,
            "statuses": states,
            "errors": {
                str(place): "ValueError: broken" for place, state in enumerate(states) if state == "F"
            },
            "stopped": "enough" if "X" in states else None,
            "seconds": [float(place) for place in range(len(states))],
            "cpu_seconds": [0.0] * len(states),
            "peak_memory_bytes": 1,
        }
        start = number * 2
        labels = names or [f"g_{start + place}" for place in range(len(states))]
        values = {label: [number, place] for place, label in enumerate(labels) if states[place] == "S"}
        given = {"state": "failed" if "F" in states else "success", "value": values, **more}
        self.add("g.each", map_index=number, record=record, **given)
        return self

    def dead(self, number: int, state: str = "failed", **more: Any) -> Batches:
        """Add a batch that has not reported."""
        self.add("g.each", state, map_index=number, **more)
        return self


def collect(run: FakeRun, *, min_success: int | None = 1, prefix: bool = False, **group: Any) -> Verdict:
    fan_out = FanOutGroup("g", **{"branch": work, "items": load(), "items_per_task": 2, **group})
    arguments: Any = {"task_id": "f", "python_callable": dump, "min_success": min_success}
    fan_in = FanInOperator(**arguments, **({"task_id_prefix": "g."} if prefix else {"fan_out": fan_out}))
    fan_out >> fan_in
    return run_fan_in(fan_in, run)


def outcomes(verdict: Verdict) -> dict[str, Any]:
    assert verdict.error is None, verdict.message
    found: dict[str, Any] = verdict.value[0]
    return found


def states(verdict: Verdict) -> str:
    letters = {"success": "S", "failed": "F", "skipped": "K", "missing": "M", "upstream_failed": "U"}
    return "".join(letters[each[0]] for each in outcomes(verdict).values())


def requests(verdict: Verdict) -> int:
    reader = verdict.reader
    return sum(
        method.call_count
        for method in (
            reader.states,
            reader.value,
            reader.record,
            reader.page,
            reader.record_page,
            reader.value_count,
        )
    )


class TestItems:
    def test_each_has_its_own_outcome_in_order(self) -> None:
        verdict = collect(Batches().cut(5, 2).batch(0, "SF").batch(1, "KS").batch(2, "S"))

        assert outcomes(verdict) == {
            "g_0": ("success", [0, 0], None),
            "g_1": ("failed", None, "ValueError: broken"),
            "g_2": ("skipped", None, None),
            "g_3": ("success", [1, 1], None),
            "g_4": ("success", [2, 0], None),
        }
        assert verdict.value[1] == [("g_0", [0, 0]), ("g_3", [1, 1]), ("g_4", [2, 0])]

    def test_the_log_promises_no_speed_up_for_items_that_share_a_task(self) -> None:
        with capture_logs() as logged:
            collect(Batches().cut(3, 2).batch(0, "SS").batch(1, "S"))

        (said,) = (each["event"] for each in logged if "the longest is" in each["event"])
        assert said.endswith("the longest is g_1 with 1.0 s")

    def test_none_is_a_value(self) -> None:
        run = Batches().cut(1, 2).batch(0, "S", value={"g_0": None})

        assert outcomes(collect(run)) == {"g_0": ("success", None, None)}

    def test_a_dead_batch_keeps_its_items(self) -> None:
        """Ten items in two batches, of which one was killed for good."""
        run = FakeRun().add("load").add("g.split", value=[[0, 5], [5, 10]])
        run.add("g.each", map_index=0, record=Batches().batch(0, "SSSSS").xcoms["g.each", 0, RECORD_KEY])
        run.xcoms["g.each", 0, RETURN_VALUE] = {f"g_{place}": place for place in range(5)}
        run.add("g.each", "failed", map_index=1)
        verdict = collect(run, items_per_task=5)

        assert states(verdict) == "SSSSSFFFFF"
        assert outcomes(verdict)["g_9"] == ("failed", None, NO_EXCEPTION_RECORDED)
        assert verdict.report is not None
        assert (verdict.report["expected"], verdict.report["failed"]) == (10, 5)

    def test_of_a_batch_that_failed_before_it_began_have_its_error(self) -> None:
        run = (
            Batches()
            .cut(3, 2)
            .batch(0, "SS")
            .dead(1, record={"state": "failed", "error": "ItemsError: gone"})
        )

        assert outcomes(collect(run))["g_2"] == ("failed", None, "ItemsError: gone")

    def test_the_stopped_say_why_and_count_as_failures(self) -> None:
        verdict = collect(Batches().cut(2, 2).batch(0, "FX"), min_success=1)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert verdict.report is not None
        assert (verdict.report["counted"], verdict.report["skipped"]) == (2, 1)
        assert "enough" in verdict.message

    @pytest.mark.parametrize("state", ["upstream_failed", "skipped"])
    def test_what_an_earlier_try_left_is_ignored(self, state: str) -> None:
        run = Batches().cut(4, 2).batch(0, "SS").batch(1, "SS", state=state)

        assert states(collect(run)) == ("SSUU" if state == "upstream_failed" else "SSKK")

    def test_what_a_longer_list_left_is_ignored(self) -> None:
        run = Batches().cut(2, 2).batch(0, "SS").batch(1, "SS", state="removed")

        assert list(outcomes(collect(run))) == ["g_0", "g_1"]

    def test_a_batch_marked_success_by_hand_has_no_failed_items(self) -> None:
        verdict = collect(Batches().cut(4, 2).batch(0, "SF", state="success").dead(1, "success"))

        assert states(verdict) == "SMMM"
        assert outcomes(verdict)["g_3"] == ("missing", None, MARKED_BY_HAND)

    def test_a_batch_cleared_meanwhile_is_waited_for(self) -> None:
        verdict = collect(Batches().cut(4, 2).batch(0, "SS"))

        assert isinstance(verdict.error, BranchesRunningError)
        assert r"'g.each[1]'" in verdict.message

    def test_a_batch_that_starts_again_while_it_is_read_is_waited_for(self) -> None:
        verdict = collect(Batches().cut(4, 2).batch(0, "SS").batch(1, "SS").start_again("g.each", 1))

        assert isinstance(verdict.error, BranchesRunningError)
        assert verdict.error.names == ("g_2", "g_3")

    def test_a_batch_that_starts_again_before_its_values_are_read_is_waited_for(self) -> None:
        run = Batches().cut(2, 2).batch(0, "SS")
        record = run.xcoms["g.each", 0, RECORD_KEY]
        run.start_again("g.each", 0)
        run.xcoms["g.each", 0, RECORD_KEY] = record

        assert isinstance(collect(run).error, BranchesRunningError)

    def test_places_that_are_gone_are_no_empty_list(self) -> None:
        verdict = collect(Batches().batch(0, "SS").add("g.split").add("load"), min_success=None)

        assert isinstance(verdict.error, BranchesRunningError)
        assert "'g.split' no longer says which items there are" in verdict.message

    def test_places_whose_artifact_is_gone_fail_the_fan_in(self) -> None:
        run = Batches().cut(2, 2).batch(0, "SS")
        run.xcoms["g.split", -1, RETURN_VALUE] = FileNotFoundError("s3://gone")

        verdict = collect(run)

        assert isinstance(verdict.error, ItemsError)
        assert "what 'g.split' returned is no longer stored (s3://gone). Clear it" in verdict.message

    @pytest.mark.parametrize(("state", "expected"), [("success", "missing"), ("failed", "failed")])
    def test_a_record_whose_artifact_is_gone_is_said_to_be(self, state: str, expected: str) -> None:
        run = Batches().cut(3, 2).batch(0, "SS", state=state).batch(1, "S")
        run.xcoms["g.each", 0, RECORD_KEY] = FileNotFoundError("s3://gone")

        why = "what it recorded is no longer stored: s3://gone"
        assert list(outcomes(collect(run)).values()) == [
            (expected, None, why),
            (expected, None, why),
            ("success", [1, 0], None),
        ]

    @pytest.mark.parametrize(
        "others",
        [
            pytest.param(lambda run: run, id="nothing else"),
            pytest.param(lambda run: run.dead(3), id="unreported"),
            pytest.param(lambda run: run.batch(3, "SS", state="upstream_failed"), id="of an earlier try"),
            pytest.param(lambda run: run.batch(4, "SS", state="removed"), id="of a longer list"),
        ],
    )
    @pytest.mark.parametrize("state", ["success", "failed"])
    def test_values_that_are_gone_are_missing_and_count(self, others: Any, state: str) -> None:
        total = 8 if others(Batches()).states.keys() & {("g.each", 3)} else 6
        run = others(Batches().cut(total, 2).batch(0, "SS").batch(1, "SK", state=state).batch(2, "SS"))
        del run.xcoms["g.each", 1, RETURN_VALUE]
        verdict = collect(run, min_success=1)

        assert states(verdict)[:6] == "SSMKSS"
        assert outcomes(verdict)["g_2"] == ("missing", None, LOST_VALUE)
        assert verdict.value[1] == [("g_0", [0, 0]), ("g_1", [0, 1]), ("g_4", [2, 0]), ("g_5", [2, 1])]
        assert verdict.report is not None
        assert (verdict.report["succeeded"], verdict.report["missing"]) == (4, 1)

    def test_values_that_are_gone_fail_a_fan_in_without_a_tolerance(self) -> None:
        run = Batches().cut(4, 2).batch(0, "SS").batch(1, "SS")
        del run.xcoms["g.each", 1, RETURN_VALUE]
        verdict = collect(run, min_success=None)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert f"g_2: missing: {LOST_VALUE}" in verdict.message

    def test_a_value_without_a_record_is_no_success(self) -> None:
        """Its batch was killed between the two."""
        run = Batches().cut(4, 2).batch(0, "SS").dead(1, value={"g_2": 1, "g_3": 2})
        verdict = collect(run)

        assert states(verdict) == "SSFF"
        assert verdict.value[1] == [("g_0", [0, 0]), ("g_1", [0, 1])]

    def test_values_that_are_gone_behind_the_count_fail_the_fan_in(self) -> None:
        """One batch was killed before its record, and so its value makes up for another's in the count."""
        run = Batches().cut(6, 2).batch(0, "SS").batch(1, "SS").dead(2, value={"g_4": 1, "g_5": 2})
        del run.xcoms["g.each", 1, RETURN_VALUE]
        verdict = collect(run)

        assert isinstance(verdict.error, BranchesRunningError)
        assert "gone since they were counted: 'g_2', 'g_3'" in verdict.message

    def test_artifacts_that_are_gone_are_found_out_before_the_verdict(self) -> None:
        run = Batches().cut(2, 2).batch(0, "SS", value=FileNotFoundError("s3://gone"))
        with mock.patch("airflow_fanout.execution_time.batched.values_lie_elsewhere", return_value=True):
            verdict = collect(run, min_success=1)

        assert isinstance(verdict.error, TooFewBranchesError)
        assert "s3://gone" in verdict.message


class TestNames:
    def test_of_run_time_are_recorded(self) -> None:
        run = Batches().cut(3, 2).batch(0, "SF", names=["x", "y"]).batch(1, "S", names=["z"])

        assert list(outcomes(collect(run))) == ["x", "y", "z"]

    def test_of_a_dead_batch_come_from_its_items(self) -> None:
        run = Batches().cut(3, 2).dead(0).batch(1, "S", names=["z"])
        run.xcoms["g.split", -1, batch_key(0)] = {"names": ["x", "y"], "items": [1, 2]}

        assert list(outcomes(collect(run))) == ["x", "y", "z"]

    @pytest.mark.parametrize(
        "left", [NOTHING, FileNotFoundError("s3://gone")], ids=["deleted", "its artifact"]
    )
    def test_that_are_gone_cost_the_other_batches_nothing(self, left: Any) -> None:
        run = Batches().cut(3, 2).dead(0).batch(1, "S", names=["z"])
        if left is not NOTHING:
            run.xcoms["g.split", -1, batch_key(0)] = left

        assert list(outcomes(collect(run))) == ["g_0", "g_1", "z"]

    def test_of_the_dag_file_need_no_record(self) -> None:
        run = Batches().cut(3, 2).dead(0).batch(1, "S", names=["z"])

        assert list(outcomes(collect(run, items={"x": 1, "y": 2, "z": 3}))) == ["x", "y", "z"]

    def test_by_prefix_have_their_group_before_them(self) -> None:
        verdict = collect(Batches().cut(3, 2).batch(0, "SF").batch(1, "S"), prefix=True)

        assert list(outcomes(verdict)) == ["g.g_0", "g.g_1", "g.g_2"]
        assert verdict.value[1] == [("g.g_0", [0, 0]), ("g.g_2", [1, 0])]


@pytest.mark.parametrize("dies", [False, True], ids=["all reported", "all but one died"])
@pytest.mark.parametrize("size", [2, 50])
def test_requests_grow_with_the_tasks_alone(size: int, dies: bool) -> None:
    tasks = 6
    run = FakeRun().add("load").add("g.split", value=[[n * size, (n + 1) * size] for n in range(tasks)])
    for number in range(tasks):
        names = [f"n_{number * size + place}" for place in range(size)]
        run.xcoms["g.split", -1, batch_key(number)] = {"names": names, "items": []}
        if dies and number:
            run.add("g.each", "failed", map_index=number)
            continue
        reported = Batches().batch(number, "S" * size, names=names).xcoms
        run.add("g.each", map_index=number, record=reported["g.each", number, RECORD_KEY])
        run.xcoms["g.each", number, RETURN_VALUE] = dict.fromkeys(names, 1)
    verdict = collect(run, items_per_task=size)

    assert len(outcomes(verdict)) == tasks * size
    assert requests(verdict) + 1 <= 4 + 2 * tasks  # and the report


@pytest.mark.parametrize("gone", [1, 3])
def test_values_that_are_gone_cost_one_request_more(gone: int) -> None:
    run = Batches().cut(6, 2).batch(0, "SS").batch(1, "SS").batch(2, "SS")
    for number in range(gone):
        del run.xcoms["g.each", number, RETURN_VALUE]
    verdict = collect(run)

    assert verdict.report is not None
    assert verdict.report["missing"] == 2 * gone
    assert requests(verdict) + 1 <= 5 + 2 * 3


def test_a_batch_is_read_when_its_items_are_asked_for(dag: DAG) -> None:
    run = Batches().cut(4, 2).batch(0, "SS").batch(1, "SS")
    fan_out = FanOutGroup("g", branch=work, items=load(), items_per_task=2)
    fan_in = FanInOperator(task_id="f", fan_out=fan_out, python_callable=lambda results: results["g_3"])
    verdict = run_fan_in(fan_in, run)

    read = [call.args[1] for call in verdict.reader.value.call_args_list if call.args[0] == "g.each"]
    assert (verdict.value, read) == ([1, 1], [1])


@given(letters=st.text("SFK", min_size=1, max_size=15), dead=st.sets(st.integers(0, 7)))
def test_every_item_is_accounted_for(letters: str, dead: set[int]) -> None:
    run = Batches().cut(len(letters), 2)
    expected = ""
    for number, start in enumerate(range(0, len(letters), 2)):
        its = letters[start : start + 2]
        expected += "F" * len(its) if number in dead else its
        if number in dead:
            run.dead(number)
        else:
            run.batch(number, its)
    with DAG("d", schedule=None):
        verdict = collect(run)

    assert verdict.report is not None
    assert verdict.report["expected"] == len(letters)
    assert verdict.report["succeeded"] == expected.count("S")
    if verdict.error is None:
        assert states(verdict) == expected
