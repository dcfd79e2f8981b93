"""What is folded in batches and in the fan-in is ``functools.reduce`` over the declared order."""

from __future__ import annotations

import copy
import functools
import math
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout
from airflow.sdk.execution_time.timeout import timeout
from hypothesis import event, given, settings
from hypothesis import strategies as st

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import BatchFailedError, BranchesRunningError, CombineError
from airflow_fanout.execution_time.combination import Combination, is_folded
from airflow_fanout.operators.batch import BatchOperator
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE, part_key
from tests.unit.fake_batch import run_batch
from tests.unit.fake_run import FakeRun, run_fan_in
from tests.unit.fake_store import FakeStore

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.unit.fake_batch import Ran
    from tests.unit.fake_run import Verdict

DOINGS = ("value", "value", "value", "fail", "skip")
ENDINGS = ("whole", "whole", "killed", "killed before the report", "timed out")
"""How a try of a batch ends."""


def extend(some: list[str], others: list[str]) -> list[str]:
    """Join lists, which is associative and not commutative; it changes what it is given."""
    some.extend(others)
    others.append("changed")
    return some


def first_letter(value: list[str]) -> str:
    return value.pop()[0]


def key_of(value: list[str]) -> str:
    return value[0][0]


def fold(values: Sequence[list[str]], *, by: bool) -> Any:
    """What should come of values in declared order."""
    of_key: dict[str, list[list[str]]] = {}
    for value in values:
        of_key.setdefault(key_of(value), []).append(value)
    if by:
        return {key: functools.reduce(operator.add, alike) for key, alike in of_key.items()}
    return functools.reduce(operator.add, values) if values else None


@dataclass(kw_only=True)
class Run:
    """
    A run of a group whose batches fail, are killed, and resume.

    :param doings: What each item does, by its name and the try of its task.
    :param endings: How each try of each batch ends.
    """

    names: list[str]
    size: int
    by: bool
    retries: int
    doings: Mapping[tuple[str, int], str] = field(default_factory=dict)
    endings: Mapping[tuple[int, int], str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def group(self, names: Sequence[str]) -> FanOutGroup:
        with DAG("pipeline", schedule=None):
            return FanOutGroup(
                "g",
                branch=self._act,
                items={name: name for name in names},
                items_per_task=self.size,
                combine=extend,
                combine_by=key_of if self.by else None,
            )

    def _act(self, item: str, ti: Any) -> list[str]:
        self.calls.append(item)
        ending = self.endings.get((ti.map_index, ti.try_number), "whole")
        does = self.doings.get((item, ti.try_number), "value")
        if ending == "killed" and does == "fail":
            raise KeyboardInterrupt
        if does == "fail":
            message = f"{item} is told to"
            raise ValueError(message)
        if does == "skip":
            raise AirflowSkipException
        return [item]

    def _try(self, group: FanOutGroup, number: int, try_number: int, store: FakeStore) -> Ran:
        first = number * self.size
        stop = min(first + self.size, len(self.names))
        told: dict[str, Any] = {"map_index": number, "try_number": try_number, "retries": self.retries}
        ending = self.endings.get((number, try_number), "whole")
        if ending == "killed before the report":
            with mock.patch.object(BatchOperator, "_report", autospec=True, side_effect=SystemExit):
                return run_batch(group, first, stop, store=store, **told)
        if ending == "timed out":
            with mock.patch.object(Combination, "fold", autospec=True, side_effect=AirflowTaskTimeout):
                return run_batch(group, first, stop, store=store, **told)
        return run_batch(group, first, stop, store=store, **told)

    def run(self) -> FakeRun:
        """Run all batches to their end."""
        group, run = self.group(self.names), FakeRun()
        bounds = [
            [first, min(first + self.size, len(self.names)), 1]
            for first in range(0, len(self.names), self.size)
        ]
        run.add("g.split", value=bounds)
        for number in range(len(bounds)):
            store = FakeStore()
            for try_number in range(1, self.retries + 2):
                ran = self._try(group, number, try_number, store)
                if ran.error is None:
                    break
            state = "success" if ran.error is None else "failed"
            values = {} if RETURN_VALUE not in ran.pushed else {"value": ran.pushed[RETURN_VALUE]}
            record = copy.deepcopy(ran.pushed.get(RECORD_KEY))
            run.add("g.each", state, map_index=number, record=record, **values)
        return run

    def collect(self, run: FakeRun, names: Sequence[str] | None = None) -> Verdict:
        group = self.group(self.names if names is None else names)
        fan_in = FanInOperator(
            task_id="f",
            fan_out=group,
            min_success=0,
            count_skipped="success",
            dag=group.dag,
            python_callable=lambda results: (list(results), results.combined, results.combined),
        )
        return run_fan_in(fan_in, run)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    letters = draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=10))
    names = [f"{letter}{index}" for index, letter in enumerate(letters)]
    retries = draw(st.integers(0, 2))
    tries = range(1, retries + 2)
    return Run(
        names=names,
        size=draw(st.integers(1, 4)),
        by=draw(st.booleans()),
        retries=retries,
        doings={(name, number): draw(st.sampled_from(DOINGS)) for name in names for number in tries},
        endings={
            (batch, number): draw(st.sampled_from(ENDINGS)) for batch in range(len(names)) for number in tries
        },
    )


@settings(max_examples=30)
@given(run=runs())
def test_it_is_reduce_over_the_declared_order_however_batches_end(run: Run) -> None:
    check_reduce(run)


@pytest.mark.slow
@settings(max_examples=300)
@given(run=runs())
def test_it_is_reduce_over_the_declared_order_in_300_faulty_runs(run: Run) -> None:
    check_reduce(run)


def check_reduce(run: Run) -> None:
    verdict = run.collect(run.run())

    assert verdict.error is None, verdict.message
    succeeded, combined, once_more = verdict.value
    event(f"{len(succeeded)} of {len(run.names)}")
    assert combined == once_more == fold([[name] for name in run.names if name in succeeded], by=run.by)
    if run.by:
        assert list(combined) == list(dict.fromkeys(name[0] for name in run.names if name in succeeded))


@given(run=runs(), data=st.data())
def test_after_an_edit_it_is_that_or_an_error(run: Run, data: st.DataObject) -> None:
    """What was folded can't be taken apart, and is never taken for something else."""
    finished = run.run()
    names = data.draw(
        st.one_of(
            st.permutations(run.names),
            st.lists(st.sampled_from(run.names), min_size=1, unique=True),
            st.just(["new", *run.names]),
            st.just([*run.names, "new"]),
        )
    )
    verdict = run.collect(finished, names)
    event(type(verdict.error).__name__)

    if [name for name in names if name != "new"] == run.names:
        assert verdict.error is None, verdict.message
    if verdict.error is None:
        succeeded, combined, _ = verdict.value
        assert combined == fold([[name] for name in names if name in succeeded], by=run.by)
        assert set(combined or {}) <= {*run.names, *"abc"}
    else:
        assert isinstance(verdict.error, CombineError)
        assert "can't be told apart any more; clear it, with the fan-in" in verdict.message


def test_a_retry_folds_what_was_saved_with_what_is_new_and_runs_nothing_twice() -> None:
    run = Run(
        names=["a0", "a1", "a2"], size=3, by=False, retries=1, doings={("a1", 1): "fail", ("a1", 2): "value"}
    )
    verdict = run.collect(run.run())

    assert (verdict.value[1], run.calls) == (["a0", "a1", "a2"], ["a0", "a1", "a2", "a1"])


pytestmark = pytest.mark.usefixtures("dag")


def work(item: Any) -> Any:
    return item


def group_of(*items: Any, **arguments: Any) -> FanOutGroup:
    return FanOutGroup(
        "g",
        **{"branch": work, "items": list(items), "items_per_task": 2, "combine": operator.add, **arguments},
    )


def ran_all(group: FanOutGroup, *, size: int = 2) -> FakeRun:
    """Run all batches of a group."""
    count = group.declared.count or 0
    bounds = [[first, min(first + size, count), 1] for first in range(0, count, size)]
    run = FakeRun().add("g.split", value=bounds)
    for number, (first, stop, _) in enumerate(bounds):
        ran = run_batch(group, first, stop, map_index=number)
        state = "success" if ran.error is None else "failed"
        run.add("g.each", state, ran.pushed[RETURN_VALUE], map_index=number, record=ran.record)
    return run


def collect(group: FanOutGroup, run: FakeRun, **arguments: Any) -> Verdict:
    return run_fan_in(FanInOperator(task_id="f", fan_out=group, min_success=0, **arguments), run)


class TestABatch:
    def test_pushes_one_value_in_place_of_those_by_name(self) -> None:
        ran = run_batch(group_of(1, 2), 0, 2)

        assert (ran.value, ran.outcome) == ([[None, 3]], ("SS", [[None, 3]]))

    def test_pushes_one_for_each_key_in_order_of_first_appearance(self) -> None:
        ran = run_batch(group_of("x1", "a2", "x3", items_per_task=3, combine_by=lambda text: text[0]))

        assert ran.value == [["x", "x1x3"], ["a", "a2"]]

    def test_without_a_success_pushes_nothing_of_any(self) -> None:
        assert run_batch(group_of(1, branch=lambda item: 1 / 0)).outcome == ("F", [])

    def test_whose_combine_raises_fails_with_the_two_names_and_a_retry_runs_no_item_again(self) -> None:
        def call(item: Any) -> Any:
            calls.append(item)
            return item

        def combine(some: Any, others: Any) -> Any:
            return f"{some}{others}" if is_mended else some + others

        calls: list[Any] = []
        is_mended = False
        store = FakeStore()
        group = group_of(1, 2, "three", branch=call, combine=combine, items_per_task=3)
        for try_number in (1, 2):
            ran = run_batch(group, store=store, retries=1, try_number=try_number)

        reason = "raised TypeError: unsupported operand type(s) for +: 'int' and 'str'"
        assert isinstance(ran.error, BatchFailedError)
        assert ran.outcome == ("FFF", [])
        errors = [f"CombineError: combine of 'g_1' and 'g_2' {reason}"] * 3
        assert list(ran.record["errors"].values()) == errors
        assert calls == [1, 2, "three"]
        is_mended = True
        assert run_batch(group, store=store, retries=2, try_number=3).value == [[None, "12three"]]
        assert calls == [1, 2, "three"]

    @pytest.mark.parametrize(
        ("combine_by", "error"),
        [
            pytest.param(
                lambda item: item["key"],
                "combine_by of 'g_1' raised TypeError: 'int' object is not subscriptable",
                id="it raises",
            ),
            pytest.param(
                lambda item: "a" if isinstance(item, dict) else 7,
                "combine_by of 'g_1': expected a text, found 7 of type int",
                id="no text",
            ),
        ],
    )
    def test_of_which_one_has_no_key_fails_that_one_alone(self, combine_by: Any, error: str) -> None:
        group = group_of(
            {"key": "a"}, 1, {"key": "a"}, items_per_task=3, combine=operator.or_, combine_by=combine_by
        )
        ran = run_batch(group)

        assert ran.outcome == ("SFS", [["a", {"key": "a"}]])
        assert ran.record["errors"] == {"1": f"CombineError: {error}"}

    @pytest.mark.parametrize(
        ("combine", "problem"),
        [
            pytest.param(operator.add, "an int beyond 64 bits can't be stored in an XCom", id="large"),
            pytest.param(lambda *_: {"a": math.nan}, "NaN at ['a'] can't be stored in an XCom", id="NaN"),
        ],
    )
    def test_that_makes_what_can_not_be_stored_fails(self, combine: Any, problem: str) -> None:
        ran = run_batch(group_of(2**62, 2**63, 2**63, items_per_task=3, combine=combine))

        assert ran.outcome == ("FFF", [])
        error = f"CombineError: what combine made of 'g_0' and those after it: {problem}"
        assert set(ran.record["errors"].values()) == {error}

    def test_whose_time_is_over_pushes_values_by_name_and_the_fan_in_folds_them(self) -> None:
        def combine(some: Any, others: Any) -> Any:
            if not is_over:
                is_over.append(True)
                while True:
                    pass
            return some + others

        is_over: list[bool] = []
        group = group_of(1, 2, combine=combine)
        with timeout(0.2):  # type: ignore[no-untyped-call]
            ran = run_batch(group)
        assert isinstance(ran.error, AirflowTaskTimeout)
        assert ran.outcome == ("SS", {"g_0": 1, "g_1": 2})

        run = FakeRun().add("g.split", value=[[0, 2, 1]])
        run.add("g.each", "failed", ran.pushed[RETURN_VALUE], map_index=0, record=ran.record)
        assert collect(group, run).value == 3

    def test_what_items_returned_is_unchanged_by_what_combine_does_to_it(self) -> None:
        store = FakeStore()
        group = group_of(["a"], ["b"], combine=extend, branch=work)
        with mock.patch.object(BatchOperator, "_report", autospec=True, side_effect=SystemExit):
            run_batch(group, store=store, retries=1)

        assert run_batch(group, store=store, retries=1, try_number=2).value == [[None, ["a", "b"]]]


class TestAFanIn:
    def test_without_a_function_returns_what_was_combined(self) -> None:
        group = group_of(1, 2, 3)

        assert collect(group, ran_all(group)).value == 6

    def test_keeps_outcomes_and_reads_no_value_for_them(self) -> None:
        group = group_of(1, "2", 3, combine=operator.add, branch=lambda item: 6 / item)
        verdict = collect(
            group,
            ran_all(group),
            python_callable=lambda results: [(o.state, o.value) for o in results.outcomes.values()],
        )

        assert verdict.value == [("success", None), ("failed", None), ("success", None)]
        assert [call for call in verdict.reader.asked("value") if call[0] == "g.each"] == []

    @pytest.mark.parametrize(
        "read",
        [
            pytest.param(lambda results: results["g_0"], id="by name"),
            pytest.param(lambda results: results.get("g_0"), id="get"),
            pytest.param(lambda results: list(results.items()), id="items"),
            pytest.param(lambda results: list(results.values()), id="values"),
            pytest.param(lambda results: results.merge(), id="merge"),
            pytest.param(lambda results: {**results}, id="dict"),
        ],
    )
    def test_has_no_single_values_and_says_so(self, read: Any) -> None:
        group = group_of(1, 2)
        verdict = collect(group, ran_all(group), python_callable=read)

        assert isinstance(verdict.error, KeyError)
        assert (
            "the group has combine=, and what that made of all values is results.combined" in verdict.message
        )

    def test_still_says_what_else_a_name_lacks(self) -> None:
        group = group_of(1, 0, branch=lambda item: 1 / item)
        verdict = collect(
            group, ran_all(group), python_callable=lambda results: (results.get("g_1"), results["g_1"])
        )

        assert "branch 'g_1' has no value: it is failed (ZeroDivisionError" in verdict.message

    def test_of_a_group_that_does_not_combine_says_what_to_declare(self) -> None:
        group = group_of({"combined": 1}, combine=None)
        verdict = collect(group, ran_all(group), python_callable=lambda results: results.combined)

        assert isinstance(verdict.error, AttributeError)
        assert "FanOutGroup(combine=…), but none does" in verdict.message

    @pytest.mark.parametrize(("by", "expected"), [(None, None), (str, {})], ids=["combine", "combine_by"])
    @pytest.mark.parametrize("count", [0, 2])
    def test_without_a_success_has_nothing_combined(self, count: int, by: Any, expected: Any) -> None:
        group = group_of(*[0] * count, branch=lambda item: 1 / item, combine_by=by)
        run = ran_all(group) if count else FakeRun().add("g.no_branches")

        assert collect(group, run, on_empty="succeed").value == expected

    def test_over_a_list_that_turned_out_to_be_empty_has_nothing_combined(self) -> None:
        @task
        def load() -> list[int]:
            return []

        group = group_of(items=load(), combine_by=str)
        run = FakeRun().add("load", value=[]).add("g.split", value=[]).add("g.each", "skipped", duration=None)

        assert collect(group, run, on_empty="succeed").value == {}

    def test_whose_combine_raises_names_the_items_on_both_sides(self) -> None:
        group = group_of(1, 2, "a", "b", "c")
        verdict = collect(group, ran_all(group))

        assert isinstance(verdict.error, CombineError)
        assert "combine of 'g_0' to 'g_1' and 'g_2' to 'g_3' raised TypeError" in verdict.message

    def test_sends_two_requests_for_each_task(self) -> None:
        group = group_of(*range(100), items_per_task=10)
        verdict = collect(group, ran_all(group, size=10))

        assert (verdict.value, verdict.requests) == (sum(range(100)), 4 + 2 * 10)

    def test_takes_items_whose_fold_is_gone_for_missing(self) -> None:
        group = group_of(1, 2, 3)
        run = ran_all(group)
        run.xcoms["g.each", 0, RETURN_VALUE] = FileNotFoundError("s3://gone")
        with mock.patch("airflow_fanout.execution_time.batched.values_lie_elsewhere", return_value=True):
            verdict = collect(group, run)

        assert verdict.value == 3
        assert verdict.report is not None
        assert (verdict.report["succeeded"], verdict.report["missing"]) == (1, 2)

    def test_is_waited_for_where_a_fold_went_after_it_was_counted(self) -> None:
        group = group_of(1, 2, 3)
        run = ran_all(group)
        run.xcoms["g.each", 0, RETURN_VALUE] = FileNotFoundError("s3://gone")

        assert isinstance(collect(group, run).error, BranchesRunningError)

    @pytest.mark.parametrize(
        ("then", "now", "how"),
        [
            pytest.param({}, {"combine": None}, "into one", id="not any more"),
            pytest.param({}, {"combine_by": str}, "into one", id="by key now"),
            pytest.param({"combine_by": str}, {}, "for each key", id="not by key any more"),
        ],
    )
    def test_refuses_what_was_folded_in_another_way(self, then: Any, now: Any, how: str) -> None:
        with DAG("then", schedule=None):
            run = ran_all(group_of(1, 2, **then))
        verdict = collect(group_of(1, 2, **now), run)

        assert isinstance(verdict.error, CombineError)
        message = f"g.each[0] combined its values {how} before the Dag file changed; clear it"
        assert message in verdict.message

    def test_folds_values_that_were_kept_by_name_before_the_dag_file_changed(self) -> None:
        with DAG("then", schedule=None):
            run = ran_all(group_of(1, 2, 3, combine=None))

        assert collect(group_of(1, 2, 3), run).value == 6

    def test_folds_what_a_batch_that_was_killed_has_pushed_in_parts(self) -> None:
        group = group_of("a", "b", "c", "d")
        run = ran_all(group)
        record = {**run.xcoms["g.each", 0, RECORD_KEY], "parts": 2}
        run.add("g.each", "failed", map_index=0, record=record)
        del run.xcoms["g.each", 0, RETURN_VALUE]
        run.xcoms["g.each", 0, part_key(0)], run.xcoms["g.each", 0, part_key(1)] = {"g_1": "b"}, {"g_0": "a"}

        assert collect(group, run).value == "abcd"

    @pytest.mark.parametrize("zero", [False, True], ids=["items", "none"])
    def test_by_prefix_has_it_too(self, zero: bool) -> None:
        group = group_of(*[] if zero else [1, 2, 3])
        fan_in = FanInOperator(task_id="f", task_id_prefix="g.", min_success=0, on_empty="succeed")
        group >> fan_in
        run = FakeRun().add("g.no_branches") if zero else ran_all(group)

        assert run_fan_in(fan_in, run).value == (None if zero else 6)

    def test_by_prefix_keeps_other_values_beside_it_and_returns_neither_alone(self) -> None:
        group, other = group_of(1, 2), task(task_id="g_other")(lambda: "kept")()
        run = ran_all(group).add("g_other", value="kept")
        read = {
            "a function": lambda results: (results.combined, results["g_other"]),
            "none": None,
        }
        values = {}
        for title, function in read.items():
            fan_in = FanInOperator(task_id=f"f_{len(title)}", task_id_prefix="g", python_callable=function)
            [group, other] >> fan_in
            values[title] = run_fan_in(fan_in, run)

        assert values["a function"].value == (3, "kept")
        assert isinstance(values["none"].error, KeyError)


class TestAFold:
    @pytest.mark.parametrize("value", [{}, [], [[1, 2]], [["a"]], [["a", 1, 2]], None, "[[]]", math.nan])
    def test_is_told_from_what_anybody_may_push(self, value: Any) -> None:
        assert not is_folded(value)
