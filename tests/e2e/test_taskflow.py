"""Fan-outs and fan-ins as decorators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.run import Run

DAG_ID = "taskflow"


@pytest.mark.parametrize(
    ("fan_in", "collected"),
    [
        pytest.param("collect", {"counted_0": "text 0", "counted_1": "text 1"}, id="count"),
        pytest.param(
            "collect_again", {"counted__1_0": "again 0", "counted__1_1": "again 1"}, id="called twice"
        ),
        pytest.param("collect_defaults", {"defaults_0": 7}, id="an item for the second parameter"),
        pytest.param(
            "collect_run_time_list",
            {"run_time_list_0": 1, "run_time_list_1": 2, "run_time_list_2": 3},
            id="a list known at run time",
        ),
        pytest.param("collect_run_time_mapping", {"one": 2, "two": 4}, id="a mapping known at run time"),
        pytest.param(
            "collect_batched",
            {f"batched_{place}": {"said": f"text {place + 1}"} for place in range(3)},
            id="batched",
        ),
        pytest.param(
            "collect_product",
            {"1-5": 5, "1-10": 10, "2-5": 10, "2-10": 20, "3-5": 15, "3-10": 30},
            id="a product of a list known at run time",
        ),
        pytest.param(
            "collect_batched_product",
            {f"taskflow-{number}": {"said": f"taskflow {number}"} for number in (1, 2, 3)},
            id="a batched product, with a template",
        ),
        pytest.param("collect_kwargs", {"kwargs_0": 1, "kwargs_1": 6}, id="dicts known at run time"),
        pytest.param("collect_no_product", {}, id="a product of nothing"),
        pytest.param(
            "collect_chained",
            {f"{text}-{number}": f"{text}{number}" for text in "ab" for number in (1, 2, 3)},
            id="several tasks for each of a product",
        ),
        pytest.param("collect_literal_chained", {"literal_chained_0": "a7"}, id="several tasks, a default"),
        pytest.param("collect_awaited", {"awaited_0": -1, "awaited_1": -2}, id="async def"),
        pytest.param("collect_steps", {"steps_0": "TEXT!", "steps_1": "TEXT!"}, id="several tasks"),
    ],
)
def test_a_fan_in_collects(run: Run, fan_in: str, collected: dict[str, Any]) -> None:
    assert run.xcom(fan_in) == collected


def test_a_fan_ins_function_gets_what_other_tasks_returned_and_the_context_values_that_it_names(
    run: Run,
) -> None:
    assert run.xcom("total") == {"total": (10 + 20 + 30) * 10 + 1, "task": "total"}


def test_a_tolerated_failure_is_told(run: Run) -> None:
    assert run.xcom("enough") == {
        "values": {"fragile_0": 1, "fragile_2": 3},
        "failed": {"fragile_1": "ValueError: two is one too many"},
    }
