from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Collected, Run

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("native")


@pytest.fixture(scope="module")
def fates(run: Run) -> Collected:
    return run.collected("collect_fates")


def test_each_instance_keeps_its_own_state(fates: Collected) -> None:
    assert fates.states == {
        "fate[0]": "success",
        "fate[1]": "failed",
        "fate[2]": "success",
        "fate[3]": "skipped",
        "fate[4]": "success",
    }


def test_each_value_is_under_its_own_index_though_others_have_none(fates: Collected) -> None:
    assert fates.items == [("fate[0]", "succeeds"), ("fate[2]", None), ("fate[4]", "succeeds too")]


def test_what_an_instance_pushed_before_it_failed_is_no_value(fates: Collected) -> None:
    assert fates.outcomes["fate[1]"]["value"] is None


def test_an_outcome_says_which_instance_it_is(fates: Collected) -> None:
    assert [(o["index"], o["task_id"], o["map_index"]) for o in fates.outcomes.values()] == [
        (index, "fate", index) for index in range(5)
    ]


def test_one_by_one_reading_is_explained_in_the_log(run: Run) -> None:
    log = run.log("collect_fates")
    assert "fate: 3 of 5 instances succeeded and pushed 3 values" in log


def test_one_by_one_reading_takes_one_request_for_each_success(run: Run) -> None:
    requests = run.xcom("collect_fates", "requests")
    # And one asks whether the success that has left no value runs again.
    assert sum(requests.values()) <= 4 + 3 + 1


def test_a_task_that_is_not_mapped_has_its_plain_name(run: Run) -> None:
    assert run.collected("collect_plain").items == [("mixed", "plain")]


def test_a_task_expanded_once_is_a_mapping_of_one(run: Run) -> None:
    assert run.xcom("collect_once") == {"once[0]": 42}


def test_few_instances_have_the_right_values(run: Run) -> None:
    assert run.xcom("collect_few") == {"few[0]": 0, "few[1]": 2, "few[2]": 4}


def test_300_instances_have_the_right_values_in_order(run: Run) -> None:
    expected = [(f"many[{index}]", 2 * index) for index in range(300)]
    assert list(run.xcom("collect_many").items()) == expected


def test_300_instances_cost_as_many_requests_as_three(run: Run) -> None:
    assert run.xcom("collect_many", "requests") == run.xcom("collect_few", "requests")


def test_the_log_tells_the_number_of_requests(run: Run) -> None:
    requests = run.xcom("collect_many", "requests")
    assert f"300 branches: 300 succeeded ({sum(requests.values())} requests)" in run.log("collect_many")


@pytest.mark.parametrize("fan_in", ["collect_none", "collect_literally_none"])
def test_zero_items_succeed_with_nothing_by_default(run: Run, fan_in: str) -> None:
    assert run.xcom(fan_in) == {}


def test_zero_items_fail_by_default_under_a_tolerance(run: Run) -> None:
    assert run.instance("collect_none_tolerantly").state == "failed"
    assert "Nothing to fan in" in run.log("collect_none_tolerantly")


def test_a_failed_items_task_is_never_taken_for_zero_items(run: Run) -> None:
    assert run.instance("collect_unlisted").state == "failed"
    log = run.log("collect_unlisted")
    assert "'unlisted'" in log
    assert "because 'list_unlisted' failed" in log


def test_a_skipped_items_task_skips_the_fan_in(run: Run) -> None:
    assert run.instance("collect_unasked").state == "skipped"
    assert "'unasked'" in run.log("collect_unasked")
