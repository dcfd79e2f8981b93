from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Run

DAG_ID = "fan_out_fan_in_pipeline"


@pytest.mark.compat
def test_the_pipeline_combines_process_0_to_process_7_in_order(run: Run) -> None:
    parts = [f"process_{index}: Hello from Airflow! (part {index})" for index in range(8)]
    assert run.xcom("combine") == ", ".join(parts)
