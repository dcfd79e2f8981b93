"""Prefixes: what they take, what they leave out, and what they refuse."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator
from tests.e2e.counting import CountingFanIn


@task
def echo(text: str) -> str:
    return text


retries = {"retries": 2, "retry_delay": timedelta(milliseconds=100)}

with DAG("prefix", schedule=None, params={"prefix": "part_1"}):
    combine = FanInOperator(task_id="process_combine", task_id_prefix="process_")
    [echo.override(task_id=f"process_{name}")(name) for name in "ba"] >> combine
    combine >> echo.override(task_id="process_report")("report")

    stray = [echo.override(task_id=f"stray_{name}")(name) for name in "ab"]
    echo.override(task_id="stray_other")("not wired")
    stray >> CountingFanIn(task_id="collect_stray", task_id_prefix="stray_", default_args=retries)
    stray >> CountingFanIn(task_id="collect_nothing", task_id_prefix="nothing_", default_args=retries)

    parts = [echo.override(task_id=f"part_{number}")(str(number)) for number in (10, 2, 1)]
    parts[0] >> FanInOperator(task_id="collect_parts", task_id_prefix="{{ params.prefix }}") << parts[2]
    parts >> FanInOperator(task_id="collect_all_parts", task_id_prefix="part_")
