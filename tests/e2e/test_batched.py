"""Batched groups: the promises of static ones, for items."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.run import Collected, Run

DAG_ID = "batched"


@pytest.fixture(scope="module")
def fates(run: Run) -> Collected:
    return run.collected("collect_fates")


def test_every_item_has_its_own_outcome_in_order(fates: Collected) -> None:
    states = {4: "failed", 5: "skipped", 7: "failed", 8: "failed"}
    outcomes = fates.outcomes.values()
    assert [(o["name"], o["index"], o["task_id"], o["map_index"], o["state"]) for o in outcomes] == [
        (f"fates_{index}", index, "fates.each", index // 4, states.get(index, "success"))
        for index in range(10)
    ]


def test_every_value_is_under_its_own_name(fates: Collected) -> None:
    values = {0: "a", 1: None, 2: 0, 3: "", 6: "recovers", 9: "b"}
    assert fates.items == [(f"fates_{index}", value) for index, value in values.items()]


def test_a_failed_item_has_the_error_of_its_last_try(fates: Collected) -> None:
    errors = {name: outcome["error"] for name, outcome in fates.outcomes.items() if outcome["error"]}
    assert errors.pop("fates_8").startswith("a value of type object can't be stored in an XCom: TypeError: ")
    assert errors == {
        "fates_4": "ValueError: broken on try 2",
        "fates_5": "nothing to do",
        "fates_7": "AirflowFailException: no use",
    }


def test_a_retry_runs_only_what_failed(run: Run, fates: Collected, scratch: Path) -> None:
    ran = Counter((scratch / "batched-fates").read_text().splitlines())
    twice = {"fails", "recovers", "can't be stored"}
    assert ran == {str(fate): 2 if fate in twice else 1 for fate in map(str, ran)}
    assert run.instance("fates.each", 0).try_number == 1
    assert run.instance("fates.each", 1).try_number == 2


def test_items_that_succeeded_run_once_however_often_others_are_retried(run: Run, scratch: Path) -> None:
    ran = Counter((scratch / "batched-mostly").read_text().split())
    assert ran == {str(n): 3 if n % 70 == 50 else 1 for n in range(200)}
    assert len(run.collected("collect_thrice").failed) == 3


def test_numbers_that_only_the_run_knows_hold_as_if_the_dag_file_had_them(run: Run) -> None:
    assert run.xcom("told.split") == [[0, 2, 1], [2, 4, 1], [4, 5, 1]]
    records = [run.xcom("told.each", key="fan_out_branch", map_index=index) for index in range(3)]
    assert [(record["statuses"], record["concurrency"]) for record in records] == [
        ("SS", 2),
        ("FF", 2),
        ("X", 2),
    ]
    assert "2 or more items of 'told' have failed (stop_after_failures=2)" in records[2]["stopped"]
    report = run.report("collect_told")
    assert (report["needed"], report["succeeded"], report["degraded"]) == (2, 2, True)


def test_a_prefix_calls_items_by_their_group_and_name(run: Run, fates: Collected) -> None:
    by_prefix = run.collected("fates_by_prefix")
    assert list(by_prefix.states) == [f"fates.fates_{index}" for index in range(10)]
    assert [value for _, value in by_prefix.items] == [value for _, value in fates.items]


def test_a_mapping_at_run_time_gives_names_and_values(run: Run) -> None:
    named = run.collected("collect_named")
    states = {"north": "success", "south": "failed", "east": "success", "west": "skipped", "mid": "success"}
    assert named.states == states
    assert dict(named.items) == {"north": "a", "east": None, "mid": "b"}


@pytest.mark.parametrize(
    ("fan_in", "tasks"),
    [
        ("collect_fates", 3),
        ("fates_by_prefix", 3),
        ("collect_named", 3),
        ("collect_counted", 3),
        ("collect_told", 3),
        ("collect_literal", 2),
        ("collect_sleeping", 1),
        ("collect_late", 1),
    ],
)
def test_requests_grow_with_the_tasks_and_not_with_the_items(run: Run, fan_in: str, tasks: int) -> None:
    assert run.requests(fan_in) <= 4 + 2 * tasks


@pytest.mark.parametrize(
    ("fan_in", "values"),
    [
        pytest.param(
            "collect_counted", {f"counted_{n}": 10 + n for n in range(5)}, id="a Dag param, own copies"
        ),
        pytest.param("collect_meeting", {"meeting_0": "a", "meeting_1": "b"}, id="threads at the same time"),
        pytest.param("collect_squashed", {"upper": "TWO WORDS", "words": 2, "piped": 2}, id="functions"),
        pytest.param("collect_from_mapped", {f"from_mapped_{n}": n + 1 for n in range(3)}, id="mapped task"),
        pytest.param(
            "collect_paired",
            [repr(item) for item in [("1", "a"), ("2", None), ("3", 0), ("4", ""), 1, 2, 3, 4]],
            id="several tasks zipped and joined",
        ),
        pytest.param("collect_none", {}, id="no items"),
    ],
)
def test_values_are_collected(run: Run, fan_in: str, values: Any) -> None:
    assert run.xcom(fan_in) == values


def test_literal_items_are_rendered(run: Run) -> None:
    assert run.xcom("collect_literal") == {"x": "1", "run": run.run_id, "z": 3}


def test_an_event_loop_runs_items_at_the_same_time(run: Run) -> None:
    outcomes = run.collected("collect_sleeping").outcomes.values()
    assert sum(outcome["duration"] for outcome in outcomes) >= 40 * 0.5
    duration = run.instance("sleeping.each", 0).duration
    assert duration is not None
    assert duration < 0.5 * 40 * 0.5


def test_a_timeout_keeps_what_was_done(run: Run) -> None:
    late = run.collected("collect_late")
    assert 1 <= len(late.items) <= 4
    assert late.items == [(f"late_{index}", index) for index in range(len(late.items))]
    for name in late.outcomes.keys() - dict(late.items):
        outcome = late.outcomes[name]
        assert outcome["state"] == "failed"
        assert outcome["error"].startswith("it was not started, or had not ended, when the task ended")


def test_items_after_enough_failures_are_stopped(run: Run, scratch: Path) -> None:
    stopped = run.collected("collect_stopped")
    assert list(stopped.states.values()) == ["success", "failed", "failed", "skipped", "skipped", "skipped"]
    assert "stop_after_failures=2" in stopped.outcomes["stopped_5"]["error"]
    assert (scratch / "batched-stopped").read_text().split() == ["a", "fails", "fails"]
    report = run.report("collect_stopped")
    assert (report["expected"], report["counted"], report["skipped"]) == (6, 6, 3)


@pytest.mark.parametrize(
    ("task_id", "logged"),
    [
        pytest.param("tolerate_none", "Nothing to fan in", id="no items under a tolerance"),
        pytest.param(
            "no_list.split",
            "expected a list, or a mapping by name, from the task, found a value of",
            id="items that are no list",
        ),
        pytest.param("collect_no_list", "'no_list.split'", id="after items that are no list"),
    ],
)
def test_what_can_not_be_fanned_in_fails(run: Run, task_id: str, logged: str) -> None:
    assert run.instance(task_id).state == "failed"
    assert logged in run.log(task_id)


def test_a_map_makes_each_item_skips_it_or_fails_it_alone(run: Run) -> None:
    made = run.collected("collect_made")
    assert made.states == {"made_0": "failed", "made_1": "success", "made_2": "skipped", "made_3": "success"}
    assert made.items == [("made_1", 20), ("made_3", 13)]


def test_after_a_kill_every_item_is_done_and_few_of_them_twice(run: Run, scratch: Path) -> None:
    assert run.instance("killed.each", 0).try_number == 2
    assert run.xcom("collect_killed") == {f"killed_{index}": index for index in range(200)}
    ran = Counter((scratch / "batched-killed").read_text().split())
    assert len(ran) == 200
    again = [item for item, times in ran.items() if times > 1]
    assert again
    assert len(again) * 0.1 < 5


def test_items_of_a_batch_that_died_have_its_state(run: Run) -> None:
    dead = run.collected("collect_dead")
    assert dead.states == {f"dead_{n}": "success" if n < 5 else "failed" for n in range(10)}
    assert run.report("collect_dead")["expected"] == 10
    assert "no exception was recorded" in dead.outcomes["dead_5"]["error"]


def test_what_a_killed_batch_had_done_is_kept_though_no_retry_follows(run: Run) -> None:
    lost = run.collected("collect_lost")
    assert lost.items == [(f"lost_{n}", n) for n in range(len(lost.items))]
    assert 80 - 25 <= len(lost.items) <= 80  # no more than 2.5 s are gone
    parts = run.xcom("lost.each", key="fan_out_branch", map_index=0)["parts"]
    assert 1 < parts < 6
    assert run.requests("collect_lost") <= 4 + 2 + parts
    errors = {lost.outcomes[name]["error"] for name in lost.failed}
    assert errors == {"the process of its batch ended before it had reported"}


def test_the_log_of_a_batch_tells_where_an_item_failed_and_no_values(run: Run) -> None:
    _, traceback = run.log("fates.each", 1).split("fates_4 failed", 1)
    assert "batched.py" in traceback
    assert "Pushing xcom" in run.log("list_fates")
    assert "Pushing xcom" not in run.log("fates.each", 0)
