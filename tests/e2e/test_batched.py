"""Batched groups: the promises of static ones, for items."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.run import Collected, Run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("batched")


@pytest.fixture(scope="module")
def fates(run: Run) -> Collected:
    return run.collected("collect_fates")


def requests(run: Run, task_id: str) -> int:
    return sum(run.xcom(task_id, "requests").values())


def test_every_item_has_an_outcome_in_order(fates: Collected) -> None:
    assert [(name, o["index"], o["task_id"], o["map_index"]) for name, o in fates.outcomes.items()] == [
        (f"fates_{index}", index, "fates.each", index // 4) for index in range(10)
    ]


def test_every_state_is_the_items_own(fates: Collected) -> None:
    unsuccessful = {"fates_4": "failed", "fates_5": "skipped", "fates_7": "failed", "fates_8": "failed"}
    assert fates.states == {name: unsuccessful.get(name, "success") for name in fates.states}


def test_every_value_is_under_its_own_name(fates: Collected) -> None:
    assert fates.items == [
        ("fates_0", "a"),
        ("fates_1", None),
        ("fates_2", 0),
        ("fates_3", ""),
        ("fates_6", "recovers"),
        ("fates_9", "b"),
    ]


def test_a_failed_item_has_the_error_of_its_last_try(fates: Collected) -> None:
    errors = {name: outcome["error"] for name, outcome in fates.outcomes.items() if outcome["error"]}
    assert errors.pop("fates_8").startswith("its value can't be stored: TypeError: ")
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


def test_a_prefix_calls_items_by_their_group_and_name(run: Run, fates: Collected) -> None:
    by_prefix = run.collected("fates_by_prefix")
    assert list(by_prefix.states) == [f"fates.fates_{index}" for index in range(10)]
    assert [value for _, value in by_prefix.items] == [value for _, value in fates.items]


def test_a_mapping_at_run_time_gives_names_and_values(run: Run) -> None:
    named = run.collected("collect_named")
    assert named.states == {
        "north": "success",
        "south": "failed",
        "east": "success",
        "west": "skipped",
        "mid": "success",
    }
    assert dict(named.items) == {"north": "a", "east": None, "mid": "b"}


@pytest.mark.parametrize(
    ("fan_in", "tasks"),
    [
        ("collect_fates", 3),
        ("fates_by_prefix", 3),
        ("collect_named", 3),
        ("collect_counted", 3),
        ("collect_literal", 2),
        ("collect_sleeping", 1),
        ("collect_late", 1),
    ],
)
def test_requests_grow_with_the_tasks_and_not_with_the_items(run: Run, fan_in: str, tasks: int) -> None:
    assert requests(run, fan_in) <= 4 + 2 * tasks


def test_a_dag_param_is_a_count_and_each_item_has_its_own_copy_of_what_is_bound(run: Run) -> None:
    assert run.xcom("collect_counted") == {f"counted_{index}": 10 + index for index in range(5)}


def test_literal_items_are_rendered(run: Run) -> None:
    assert run.xcom("collect_literal") == {"x": "1", "run": run.run_id, "z": 3}


def test_threads_run_at_the_same_time(run: Run) -> None:
    assert run.xcom("collect_meeting") == {"meeting_0": "a", "meeting_1": "b"}


def test_an_event_loop_runs_items_at_the_same_time(run: Run) -> None:
    outcomes = run.collected("collect_sleeping").outcomes.values()
    assert sum(outcome["duration"] for outcome in outcomes) >= 40 * 0.5
    assert run.instance("sleeping.each", 0).duration or 99 < 0.5 * 40 * 0.5


def test_a_mapping_of_functions_runs_in_one_task(run: Run) -> None:
    assert run.xcom("collect_squashed") == {"upper": "TWO WORDS", "words": 2, "piped": 2}
    assert run.instance("squashed.each", 0).state == "success"


def test_a_timeout_keeps_what_was_done(run: Run) -> None:
    late = run.collected("collect_late")
    assert 1 <= len(late.items) <= 4
    assert late.items == [(f"late_{index}", index) for index in range(len(late.items))]
    for outcome in late.outcomes.values():
        if outcome["state"] != "success":
            assert outcome["state"] == "failed"
            assert outcome["error"].startswith("it was not started, or had not ended, when the task ended")


def test_items_after_enough_failures_are_stopped(run: Run, scratch: Path) -> None:
    stopped = run.collected("collect_stopped")
    assert list(stopped.states.values()) == ["success", "failed", "failed", "skipped", "skipped", "skipped"]
    assert "stop_after_failures=2" in stopped.outcomes["stopped_5"]["error"]
    assert (scratch / "batched-stopped").read_text().split() == ["a", "fails", "fails"]
    report = run.report("collect_stopped")
    assert (report["expected"], report["counted"], report["skipped"]) == (6, 6, 3)


def test_nothing_reaches_on_empty(run: Run) -> None:
    assert run.xcom("collect_none") == {}
    assert run.instance("tolerate_none").state == "failed"
    assert "Nothing to fan in" in run.log("tolerate_none")


def test_items_that_are_no_list_fail_before_anything_runs(run: Run) -> None:
    assert run.instance("no_list.split").state == "failed"
    assert (
        "expected a list, or a mapping by name, from the task that gives the items, found a value of type str"
        in run.log("no_list.split")
    )
    assert run.instance("collect_no_list").state == "failed"
    assert "'no_list.split'" in run.log("collect_no_list")


def test_items_may_be_what_a_mapped_task_returned(run: Run) -> None:
    assert run.xcom("collect_from_mapped") == {f"from_mapped_{index}": index + 1 for index in range(3)}


def test_airflow_does_not_push_the_values_of_a_batch_again(run: Run) -> None:
    assert "Pushing xcom" in run.log("list_fates")
    assert "Pushing xcom" not in run.log("fates.each", 0)


def test_a_map_makes_each_item_skips_it_or_fails_it_alone(run: Run) -> None:
    made = run.collected("collect_made")
    assert made.states == {"made_0": "failed", "made_1": "success", "made_2": "skipped", "made_3": "success"}
    assert made.items == [("made_1", 20), ("made_3", 13)]


def test_items_may_come_of_several_tasks(run: Run) -> None:
    items = [("1", "a"), ("2", None), ("3", 0), ("4", ""), 1, 2, 3, 4]
    assert run.xcom("collect_paired") == [repr(item) for item in items]


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


def test_items_that_succeeded_run_once_however_often_others_are_retried(run: Run, scratch: Path) -> None:
    ran = Counter((scratch / "batched-mostly").read_text().split())
    assert ran == {str(n): 3 if n % 70 == 50 else 1 for n in range(200)}
    assert len(run.collected("collect_thrice").failed) == 3


def test_the_log_of_a_batch_tells_where_an_item_failed(run: Run) -> None:
    _, traceback = run.log("fates.each", 1).split("fates_4 failed", 1)
    assert "batched.py" in traceback
