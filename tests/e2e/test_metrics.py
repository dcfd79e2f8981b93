"""Metrics of fan-ins, as a StatsD server hears them from the tasks' processes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Run
    from tests.support.statsd import StatsDServer

pytest.importorskip("statsd", reason="the client that Airflow's StatsD takes is not installed")

DAG_ID = "policy"

COUNTS = {"success": 3, "failed": 1, "skipped": 1}


@pytest.mark.parametrize("fan_in", ["mixed_3", "mixed_all"])
def test_branches_are_counted_by_state_once_whatever_the_verdict(
    run: Run, statsd: StatsDServer, fan_in: str
) -> None:
    tags = {"dag_id": DAG_ID, "task_id": fan_in, "group_id": "mixed"}
    told = [metric for metric in statsd.metrics(**tags) if metric.name == "airflow.fan_out.branches"]
    wanted = [({**tags, "state": state}, number, "c") for state, number in COUNTS.items()]
    assert run.instance(fan_in).try_number == 1
    assert sorted(((m.tags, m.value, m.kind) for m in told), key=str) == sorted(wanted, key=str)


def test_only_a_degraded_success_is_told_as_one(run: Run, statsd: StatsDServer) -> None:
    told = [m.tags["task_id"] for m in statsd.metrics(dag_id=DAG_ID) if m.name.endswith(".degraded")]
    assert {"mixed_3"} <= set(told) <= {task_id for task_id, _ in run.instances}
    assert all(run.report(fan_in)["degraded"] for fan_in in told)
    assert "mixed_all" not in told


def test_work_and_wall_are_those_of_the_branches_and_of_the_run(run: Run, statsd: StatsDServer) -> None:
    seconds = {m.name.rpartition(".")[2]: m.value for m in statsd.metrics(task_id="mixed_3") if m.kind == "g"}
    durations = [branch.duration for branch in run.group("mixed") if branch.duration is not None]
    started = datetime.fromisoformat(run.airflow.run(DAG_ID, run.run_id)["start_date"])
    assert seconds["work_seconds"] == pytest.approx(sum(durations), rel=0.1)
    wall = (run.instance("mixed_3").start - started).total_seconds()
    assert seconds["wall_seconds"] == pytest.approx(wall, rel=0.1)
