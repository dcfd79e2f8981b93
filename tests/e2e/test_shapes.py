"""Groups after fan-ins and in groups; fan-outs and fan-ins as decorators; and README's pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.definitions.skippers import SKIPS_IN_MAPPED_GROUPS

if TYPE_CHECKING:
    from tests.support.run import Run, RunStarter

DAG_ID = "shapes"


@pytest.mark.parametrize(
    ("fan_in", "collected"),
    [
        pytest.param("collect_again", {"counted__1_0": "again 0", "counted__1_1": "again 1"}, id="count"),
        pytest.param("collect_run_time", {"one": 2, "two": 4}, id="a mapping known at run time"),
        pytest.param(
            "collect_batched", {"one": {"said": "text 1"}, "two": {"said": "text 2"}}, id="batched, async def"
        ),
        pytest.param("collect_steps", {"steps_0": "STEP", "steps_1": "STEP"}, id="several tasks"),
        pytest.param("outer.collect", {"inner_0": 40, "inner_1": 50}, id="a group in a group"),
        pytest.param("collect_mapped_skips", {"mapped_skips_1": "6+6+6"}, id="mapped, rest skipped"),
        pytest.param("collect_static_skips", {"static_skips_1": 6}, id="static, rest skipped"),
    ],
)
def test_a_fan_in_collects(run: Run, fan_in: str, collected: dict[str, Any]) -> None:
    assert run.xcom(fan_in) == collected


def test_a_fan_in_gets_what_tasks_returned_rendered_texts_and_context_and_a_second_group_what_it_returned(
    run: Run,
) -> None:
    total = [(10 + 20 + 30) * 10, run.run_id, "total"]
    assert run.xcom("total") == total
    assert run.xcom("collect") == {f"counted_{index}": f"{total} {index}" for index in range(2)}


def test_where_airflow_runs_what_a_short_circuit_skips_it_is_refused(run: Run) -> None:
    states = [run.instance("native_skips.act", index).state for index in range(3)]

    assert states == (["skipped", "success", "skipped"] if SKIPS_IN_MAPPED_GROUPS else ["success"] * 3)


@pytest.mark.compat
def test_the_pipeline_combines_process_0_to_process_7_in_order(finished_run: RunStarter) -> None:
    parts = [f"process_{index}: Hello from Airflow! (part {index})" for index in range(8)]
    assert finished_run("fan_out_fan_in_pipeline").xcom("combine") == ", ".join(parts)
