"""Mapped groups: the promises of static ones, at a number of requests that doesn't grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Collected, Run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("mapped")


@pytest.fixture(scope="module")
def fates(run: Run) -> Collected:
    return run.collected("collect_fates")


def requests(run: Run, task_id: str) -> int:
    return sum(run.xcom(task_id, "requests").values())


def test_every_instance_has_an_outcome_in_order(fates: Collected) -> None:
    assert list(fates.outcomes) == [f"fates_{index}" for index in range(8)]
    assert [(o["index"], o["task_id"], o["map_index"]) for o in fates.outcomes.values()] == [
        (index, "fates.each", index) for index in range(8)
    ]


def test_every_state_is_the_instances_own(fates: Collected) -> None:
    unsuccessful = {"fates_4": "failed", "fates_5": "skipped"}
    assert fates.states == {name: unsuccessful.get(name, "success") for name in fates.states}


def test_every_value_is_under_its_own_name(fates: Collected) -> None:
    assert fates.items == [
        ("fates_0", "a"),
        ("fates_1", None),
        ("fates_2", 0),
        ("fates_3", ""),
        ("fates_6", "recovers"),
        ("fates_7", "b"),
    ]


def test_a_failed_instance_has_the_error_of_its_last_try(fates: Collected) -> None:
    assert fates.outcomes["fates_4"]["error"] == "ValueError: broken on try 2"


def test_a_prefix_calls_instances_as_airflow_does(run: Run, fates: Collected) -> None:
    by_prefix = run.collected("fates_by_prefix")
    assert list(by_prefix.states) == [f"fates.each[{index}]" for index in range(8)]
    assert [value for _, value in by_prefix.items] == [value for _, value in fates.items]
    assert requests(run, "fates_by_prefix") <= 4 + 2


def test_a_mapping_at_run_time_gives_names_and_values(run: Run) -> None:
    # In no order: a PostgreSQL database does not keep that of a mapping.
    named = run.collected("collect_named")
    assert named.states == {"north": "success", "south": "failed", "east": "success", "west": "skipped"}
    assert dict(named.items) == {"north": "a", "east": None}


@pytest.mark.parametrize(
    "fan_in",
    [
        "collect_fates",
        "collect_named",
        "collect_by_param",
        "collect_counted",
        "collect_literal",
        "collect_chains",
        "collect_commands",
        "collect_sensors",
    ],
)
def test_requests_do_not_grow_with_the_instances(run: Run, fan_in: str) -> None:
    assert requests(run, fan_in) <= 4 + 2


def test_the_ui_shows_names(run: Run) -> None:
    shown = {
        (each["task_id"], each["map_index"]): each["rendered_map_index"]
        for each in run.airflow.task_instances("mapped", run.run_id)
    }
    for name, outcome in run.collected("collect_named").outcomes.items():
        assert shown["named.each", outcome["map_index"]] == name
    assert [shown["literal.each", index] for index in range(3)] == ["x", "y", "z"]
    assert [shown["by_param.each", index] for index in range(3)] == [f"by_param_{n}" for n in range(3)]
    assert [shown["chains.each.first", index] for index in range(3)] == [f"chains_{n}" for n in range(3)]
    for name, outcome in run.collected("collect_at_run_time").outcomes.items():
        assert shown["at_run_time.each.first", outcome["map_index"]] == name


def test_a_dag_param_is_a_count(run: Run) -> None:
    assert run.xcom("collect_by_param") == {"by_param_0": 10, "by_param_1": 11, "by_param_2": 12}


def test_what_a_task_returned_is_a_count(run: Run) -> None:
    assert run.xcom("collect_counted") == {"counted_0": 7, "counted_1": 7, "counted_2": 7}


def test_literal_items_can_be_mapped(run: Run) -> None:
    literal = run.collected("collect_literal")
    assert literal.states == {"x": "success", "y": "failed", "z": "success"}
    assert literal.items == [("x", "1"), ("z", "3")]


def test_an_item_that_is_a_pair_is_an_item(run: Run) -> None:
    assert run.xcom("collect_pairs") == {"pairs_0": ["k", "v"], "pairs_1": ["l", "w"]}


def test_one_is_a_mapping_of_one(run: Run) -> None:
    assert run.xcom("collect_one") == {"of_one_0": "only"}
    assert run.xcom("tolerate_one") == {"of_one_0": "only"}


def test_nothing_reaches_on_empty(run: Run) -> None:
    assert run.xcom("collect_none") == {}
    assert run.xcom("collect_no_chains") == {}
    assert run.instance("tolerate_none").state == "failed"
    assert "Nothing to fan in" in run.log("tolerate_none")


@pytest.mark.parametrize("fan_in", ["collect_broken", "tolerate_broken"])
def test_items_that_failed_fail_the_fan_in(run: Run, fan_in: str) -> None:
    assert run.instance(fan_in).state == "failed"
    assert "'broken'" in run.log(fan_in)


def test_a_mapped_task_group_is_a_branch(run: Run) -> None:
    chains = run.collected("collect_chains")
    assert chains.states == {"chains_0": "success", "chains_1": "failed", "chains_2": "skipped"}
    failed = chains.outcomes["chains_1"]
    assert (failed["task_id"], failed["map_index"]) == ("chains.each.first", 1)
    assert failed["error"] == "ValueError: broken on try 1"
    assert chains.items == [("chains_0", "done good")]


def test_a_mapped_task_group_takes_names_at_run_time(run: Run) -> None:
    chains = run.collected("collect_at_run_time")
    assert chains.states == {"north": "success", "south": "failed", "east": "success", "west": "skipped"}
    assert dict(chains.items) == {"north": "done a", "east": "done None"}


def test_a_mapped_operator_is_a_branch(run: Run) -> None:
    commands = run.collected("collect_commands")
    assert commands.states == {"commands_0": "success", "commands_1": "failed"}
    assert commands.items == [("commands_0", "here")]
    assert run.xcom("collect_sensors") == {"sensors_0": "one", "sensors_1": "two"}


def test_a_value_pushed_before_a_failure_shifts_nothing(run: Run) -> None:
    pushed = run.collected("collect_pushed")
    assert pushed.states == {
        "pushed_0": "failed",
        "pushed_1": "success",
        "pushed_2": "success",
        "pushed_3": "success",
    }
    assert pushed.items == [("pushed_1", "a"), ("pushed_2", None), ("pushed_3", "b")]
    assert "one by one" in run.log("collect_pushed")


def test_tasks_get_what_has_no_text_to_be_stored(run: Run) -> None:
    """Objects, sets and Dag params among literal items and bound arguments."""
    assert run.xcom("collect_stored") == {"stored_0": [10, 3, [1, 2]], "stored_1": [30, 3, [1, 2]]}
    assert run.xcom("collect_stored_batch") == {"stored_batch_0": [10, 3, [1, 2]]}
    assert run.xcom("collect_stored_sums") == {"stored_sums_0": 3, "stored_sums_1": 7}
    assert run.xcom("collect_stored_commands") == {"stored_commands_0": "there"}
