"""Mapped groups: the promises of static ones, at a number of requests that doesn't grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.run import Collected, Run

DAG_ID = "mapped"


@pytest.fixture(scope="module")
def fates(run: Run) -> Collected:
    return run.collected("collect_fates")


def test_every_instance_has_its_own_outcome_in_order(fates: Collected) -> None:
    states = {4: "failed", 5: "skipped"}
    outcomes = fates.outcomes.values()
    assert [(o["name"], o["index"], o["task_id"], o["map_index"], o["state"]) for o in outcomes] == [
        (f"fates_{index}", index, "fates.each", index, states.get(index, "success")) for index in range(8)
    ]
    assert fates.outcomes["fates_4"]["error"] == "ValueError: broken on try 2"


def test_every_value_is_under_its_own_name(fates: Collected) -> None:
    values = {0: "a", 1: None, 2: 0, 3: "", 6: "recovers", 7: "b"}
    assert fates.items == [(f"fates_{index}", value) for index, value in values.items()]


def test_a_prefix_calls_instances_as_airflow_does(run: Run, fates: Collected) -> None:
    by_prefix = run.collected("fates_by_prefix")
    assert list(by_prefix.states) == [f"fates.each[{index}]" for index in range(8)]
    assert [value for _, value in by_prefix.items] == [value for _, value in fates.items]


@pytest.mark.parametrize(
    ("fan_in", "states", "values"),
    [
        pytest.param(
            # In no order: a PostgreSQL database does not keep that of a mapping.
            "collect_named",
            {"north": "success", "south": "failed", "east": "success", "west": "skipped"},
            {"north": "a", "east": None},
            id="names known at run time",
        ),
        pytest.param(
            "collect_literal",
            {"x": "success", "y": "failed", "z": "success"},
            {"x": "1", "z": "3"},
            id="literal names",
        ),
        pytest.param(
            "collect_chains",
            {"chains_0": "success", "chains_1": "failed", "chains_2": "skipped"},
            {"chains_0": "done good"},
            id="several tasks",
        ),
        pytest.param(
            "collect_at_run_time",
            {"north": "success", "south": "failed", "east": "success", "west": "skipped"},
            {"north": "done a", "east": "done None"},
            id="several tasks, names known at run time",
        ),
        pytest.param(
            "collect_commands",
            {"commands_0": "success", "commands_1": "failed"},
            {"commands_0": "here"},
            id="operators",
        ),
        pytest.param(
            "collect_pushed",
            {"pushed_0": "failed", "pushed_1": "success", "pushed_2": "success", "pushed_3": "success"},
            {"pushed_1": "a", "pushed_2": None, "pushed_3": "b"},
            id="a value pushed before a failure",
        ),
    ],
)
def test_outcomes_are_kept_apart(run: Run, fan_in: str, states: dict[str, str], values: Any) -> None:
    collected = run.collected(fan_in)
    assert collected.states == states
    assert dict(collected.items) == values


def test_a_branch_of_several_tasks_names_the_one_that_failed(run: Run) -> None:
    failed = run.collected("collect_chains").outcomes["chains_1"]
    assert (failed["task_id"], failed["map_index"]) == ("chains.each.first", 1)
    assert failed["error"] == "ValueError: broken on try 1"


@pytest.mark.parametrize(
    ("fan_in", "values"),
    [
        pytest.param("collect_by_param", {f"by_param_{n}": 10 + n for n in range(3)}, id="a Dag param"),
        pytest.param("collect_counted", {f"counted_{n}": 7 for n in range(3)}, id="a task's count"),
        pytest.param("collect_pairs", {"pairs_0": ["k", "v"], "pairs_1": ["l", "w"]}, id="pairs"),
        pytest.param("collect_one", {"of_one_0": "only"}, id="one item"),
        pytest.param("collect_sensors", {"sensors_0": "one", "sensors_1": "two"}, id="sensors"),
        pytest.param("collect_none", {}, id="no items"),
        pytest.param("collect_no_chains", {}, id="no items for several tasks"),
        pytest.param(
            "collect_stored", {"stored_0": [10, 3, [1, 2]], "stored_1": [30, 3, [1, 2]]}, id="objects"
        ),
        pytest.param("collect_stored_batch", {"stored_batch_0": [10, 3, [1, 2]]}, id="objects in a batch"),
        pytest.param("collect_stored_sums", {"stored_sums_0": 3, "stored_sums_1": 7}, id="sets"),
        pytest.param("collect_stored_commands", {"stored_commands_0": "there"}, id="a param in env"),
    ],
)
def test_values_are_collected(run: Run, fan_in: str, values: dict[str, Any]) -> None:
    assert run.xcom(fan_in) == values


@pytest.mark.parametrize(
    ("fan_in", "logged"),
    [
        ("tolerate_none", "Nothing to fan in"),
        ("collect_broken", "'broken'"),
        ("tolerate_broken", "'broken'"),
    ],
)
def test_items_that_never_came_fail_the_fan_in(run: Run, fan_in: str, logged: str) -> None:
    assert run.instance(fan_in).state == "failed"
    assert logged in run.log(fan_in)


@pytest.mark.parametrize(
    "fan_in",
    [
        *("collect_fates", "fates_by_prefix", "collect_named", "collect_by_param", "collect_counted"),
        *("collect_literal", "collect_chains", "collect_commands", "collect_sensors"),
    ],
)
def test_requests_do_not_grow_with_the_instances(run: Run, fan_in: str) -> None:
    assert run.requests(fan_in) <= 4 + 2


def test_values_are_read_one_by_one_where_some_were_pushed_before_a_failure(run: Run) -> None:
    assert "one by one" in run.log("collect_pushed")


def test_the_ui_shows_names(run: Run) -> None:
    shown = {
        (instance["task_id"], instance["map_index"]): instance["rendered_map_index"]
        for instance in run.airflow.task_instances("mapped", run.run_id)
    }
    for fan_in, task_id in (("named", "named.each"), ("at_run_time", "at_run_time.each.first")):
        for name, outcome in run.collected(f"collect_{fan_in}").outcomes.items():
            assert shown[task_id, outcome["map_index"]] == name
    assert [shown["literal.each", index] for index in range(3)] == ["x", "y", "z"]
    assert [shown["by_param.each", index] for index in range(3)] == [f"by_param_{n}" for n in range(3)]
    assert [shown["chains.each.first", index] for index in range(3)] == [f"chains_{n}" for n in range(3)]
