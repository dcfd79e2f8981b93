from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_fanout.reports.suggest import SIDE_EFFECTS, Suggestion, suggest
from airflow_fanout.serialization.data_flow import READS_ANY, Step


def step(task_id: str, *upstream: str, reads: str = "", **more: Any) -> Step:
    """A task, its upstream tasks, and those of them that it reads, a letter each."""
    return Step(task_id=task_id, upstream=frozenset(upstream), reads=frozenset(reads), **more)


def suggested(*steps: Step, runs: int = 1, **seconds: float) -> Suggestion:
    durations = {task_id: [value] for task_id, value in seconds.items()}
    return suggest("etl", {each.task_id: each for each in steps}, durations, runs=runs)


def pairs(suggestion: Suggestion) -> list[tuple[str, str]]:
    return [(pair.before, pair.after) for chain in suggestion.chains for pair in chain.pairs]


EXTRACTS = [step("a"), step("b", "a"), step("c", "b"), step("d", "c", reads="abc")]


def test_tasks_one_after_another_without_data_are_a_chain_and_what_it_costs() -> None:
    found = suggested(*EXTRACTS, a=30, b=20, c=10, d=5)

    (chain,) = found.chains
    assert (chain.tasks, chain.pairs) == (("a", "b", "c"), (("a", "b"), ("b", "c")))
    assert (found.critical_path, found.parallel_path) == ((("a", "b", "c", "d"), 65), (("a", "d"), 35))
    assert found.saved_seconds == chain.saved_seconds == 30
    assert SIDE_EFFECTS in found.unknown


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([step("a"), step("b", "a", reads="a")], id="data"),
        pytest.param([step("a"), step("b", "a", waits="runs by the trigger rule all_done")], id="a rule"),
        pytest.param([step("a", holds="may skip what comes after it"), step("b", "a")], id="a skip"),
        pytest.param([step("a"), step("b", "a", waits=READS_ANY)], id="XComs of a task that a run knows"),
        pytest.param([step("a", is_junction=True), step("b", "a")], id="a start that does nothing"),
        pytest.param([step("a"), step("b")], id="side by side"),
    ],
)
def test_an_order_with_a_reason_is_left_alone(steps: list[Step]) -> None:
    found = suggested(*steps, a=1, b=1)

    assert (found.chains, found.saved_seconds) == ((), 0)
    assert SIDE_EFFECTS not in found.unknown


def test_tasks_before_and_after_a_junction_are_one_after_another() -> None:
    found = suggested(step("a"), step("j", "a", is_junction=True), step("b", "j"), a=2, b=3)

    assert pairs(found) == [("a", "b")]
    assert found.parallel_path == (("b",), 3)


def test_what_needs_data_of_an_earlier_task_waits_for_all_that_was_before_that() -> None:
    steps = [step("a"), step("b", "a"), step("c", "b"), step("d", "c", reads="b")]

    found = suggested(*steps, a=10, b=1, c=5, d=1)

    assert pairs(found) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert found.parallel_path == (("a", "d"), 11)


def test_what_comes_after_for_another_reason_waits_for_all_as_before() -> None:
    found = suggested(step("a"), step("b", "a"), step("c", "b", reads="b"), a=10, b=1, c=1)

    assert found.parallel_path == (("a", "c"), 11)
    assert found.saved_seconds == 1


def test_each_chain_says_what_it_saves_alone_and_the_largest_comes_first() -> None:
    steps = [step("a"), step("b", "a"), step("c", "b", reads="ab"), step("d", "c", reads="c"), step("e", "d")]

    found = suggested(*steps, a=1, b=2, c=1, d=8, e=9)

    assert [(chain.tasks, chain.saved_seconds) for chain in found.chains] == [
        (("d", "e"), 8),
        (("a", "b"), 1),
    ]
    assert found.saved_seconds == 9


def test_a_median_of_the_runs_is_what_a_task_takes() -> None:
    found = suggest("etl", {"a": step("a")}, {"a": [1, 90, 2], "gone": [7]}, runs=3)

    assert found.seconds == {"a": 2}


@pytest.mark.parametrize(
    ("runs", "seconds", "text"),
    [
        (0, {}, "How long the tasks take: the Dag has no run that has ended"),
        (2, {"a": 1.0}, "How long these take, which succeeded in none of the runs (0 s here): 'b', 'c', 'd'"),
    ],
)
def test_tasks_that_no_run_has_timed_are_named(runs: int, seconds: Any, text: str) -> None:
    found = suggested(*EXTRACTS, runs=runs, **seconds)

    assert text in found.unknown
    assert (found.critical_path is None) is (not seconds)
    assert (found.chains[0].saved_seconds is None) is (not seconds)


def test_tasks_of_unknown_sources_and_functions_that_nobody_has_are_named() -> None:
    found = suggest("etl", {"a": step("a"), "b": step("b", "a", waits=READS_ANY)}, {}, source="database")

    assert "Of whom they take XComs, so that they stay where they are: 'b'" in found.unknown
    assert any("the database has no functions" in text for text in found.unknown)


def test_a_dag_without_tasks_has_no_path() -> None:
    assert suggested().critical_path is None


@given(st.data())
def test_the_critical_path_is_never_longer_and_keeps_what_data_asks_for(data: st.DataObject) -> None:
    names = [chr(ord("a") + index) for index in range(data.draw(st.integers(1, 7)))]
    steps, ancestors = [], dict[str, set[str]]()
    for index, name in enumerate(names):
        upstream = data.draw(st.sets(st.sampled_from(names[:index]))) if index else set()
        ancestors[name] = upstream.union(*(ancestors[other] for other in upstream))
        reads = data.draw(st.sets(st.sampled_from(sorted(ancestors[name])))) if ancestors[name] else set()
        steps.append(step(name, *sorted(upstream), reads="".join(sorted(reads))))
    seconds = {name: float(data.draw(st.integers(0, 9))) for name in names}

    found = suggested(*steps, runs=1, **seconds)
    assert found.critical_path is not None
    assert found.parallel_path is not None
    assert max(seconds.values()) <= found.parallel_path.seconds <= found.critical_path.seconds
    assert found.parallel_path.seconds == sum(seconds[name] for name in found.parallel_path.tasks)
    for before, after in pairwise(found.critical_path.tasks):
        assert before in ancestors[after]
