"""Tasks that this package did not make, collected by prefix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.run import Collected, Run

DAG_ID = "native"


@pytest.fixture(scope="module")
def fates(run: Run) -> Collected:
    return run.collected("collect_fates")


def test_each_instance_has_its_own_outcome(fates: Collected) -> None:
    states = {1: "failed", 3: "skipped"}
    outcomes = fates.outcomes.values()
    assert [(o["name"], o["index"], o["task_id"], o["map_index"], o["state"]) for o in outcomes] == [
        (f"fate[{index}]", index, "fate", index, states.get(index, "success")) for index in range(5)
    ]


def test_each_value_is_under_its_own_index_though_others_have_none(fates: Collected) -> None:
    assert fates.items == [("fate[0]", "succeeds"), ("fate[2]", None), ("fate[4]", "succeeds too")]
    assert fates.outcomes["fate[1]"]["value"] is None  # it pushed one before it failed


def test_one_by_one_reading_is_explained_and_takes_one_request_for_each_success(run: Run) -> None:
    log = run.log("collect_fates")
    assert "fate: 3 of 5 instances succeeded and pushed 3 values" in log
    # And one asks whether the success that has left no value runs again.
    assert run.requests("collect_fates") <= 4 + 3 + 1


@pytest.mark.parametrize(
    ("fan_in", "values"),
    [
        pytest.param("collect_once", {"once[0]": 42}, id="expanded once"),
        pytest.param("collect_few", {f"few[{index}]": 2 * index for index in range(3)}, id="few"),
        pytest.param("collect_many", {f"many[{index}]": 2 * index for index in range(300)}, id="many"),
        pytest.param("collect_none", {}, id="zero items"),
        pytest.param("collect_literally_none", {}, id="literally zero items"),
    ],
)
def test_values_are_collected_in_order(run: Run, fan_in: str, values: dict[str, Any]) -> None:
    assert list(run.xcom(fan_in).items()) == list(values.items())


def test_a_task_that_is_not_mapped_has_its_plain_name(run: Run) -> None:
    assert run.collected("collect_plain").items == [("mixed", "plain")]


def test_300_instances_cost_as_many_requests_as_three_and_the_log_tells_how_many(run: Run) -> None:
    assert run.xcom("collect_many", "requests") == run.xcom("collect_few", "requests")
    expected = f"300 branches: 300 succeeded ({run.requests('collect_many')} requests)"
    assert expected in run.log("collect_many")


@pytest.mark.parametrize(
    ("fan_in", "state", "logged"),
    [
        pytest.param("collect_none_tolerantly", "failed", "Nothing to fan in", id="zero under a tolerance"),
        pytest.param("collect_unlisted", "failed", "because 'list_unlisted' failed", id="items that failed"),
        pytest.param("collect_unasked", "skipped", "'unasked'", id="items that were skipped"),
    ],
)
def test_items_that_never_came_decide(run: Run, fan_in: str, state: str, logged: str) -> None:
    assert run.instance(fan_in).state == state
    assert logged in run.log(fan_in)
