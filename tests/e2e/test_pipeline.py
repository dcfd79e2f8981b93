from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.run import Run

if TYPE_CHECKING:
    from tests.support.airflow import ControlledAirflow

DAG_ID = "fan_out_fan_in_pipeline"


@pytest.fixture(scope="module")
def run(airflow: ControlledAirflow) -> Run:
    airflow.wait_for_dag(DAG_ID)
    run = Run(airflow, DAG_ID, airflow.trigger(DAG_ID))
    run.wait()
    return run


@pytest.mark.e2e
@pytest.mark.compat
def test_the_pipeline_combines_process_0_to_process_7_in_order(run: Run) -> None:
    parts = [f"process_{index}: Hello from Airflow! (part {index})" for index in range(8)]
    assert run.xcom("combine") == ", ".join(parts)
