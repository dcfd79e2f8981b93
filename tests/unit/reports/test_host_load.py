from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_fanout.reports.advice import HostLoad, host_loads
from airflow_fanout.reports.runs import TaskRun

pytestmark = pytest.mark.unit

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def ran(
    started: float, ended: float, *, cpu: object = 1.0, seconds: object = None, host: str = "a", **record: Any
) -> TaskRun:
    return TaskRun(
        task_id="work",
        state="success",
        queued=NOON,
        started=NOON + timedelta(seconds=started),
        ended=NOON + timedelta(seconds=ended),
        hostname=host,
        record={
            "state": "success",
            "seconds": ended - started if seconds is None else seconds,
            "cpu_seconds": cpu,
            "cores": 2,
            **record,
        },
    )


def only(*task_runs: TaskRun) -> HostLoad:
    (load,) = host_loads(task_runs)
    return load


def test_more_that_compute_than_there_are_cores_keep_these_busy() -> None:
    """Four that want a core each get half of one, so that CPU seconds are half of the work."""
    load = only(*(ran(0, 10, cpu=5.0) for _ in range(4)))

    assert (load.cores, load.peak, load.busy_share) == (2, 4, 1.0)


def test_those_that_have_a_core_each_could_use_only_that() -> None:
    load = only(ran(0, 10, cpu=8.0))

    assert (load.peak, load.busy_share) == (1, 0.8)


def test_those_that_wait_leave_the_cores_idle() -> None:
    assert only(*(ran(0, 10, cpu=0.1) for _ in range(4))).busy_share == pytest.approx(0.02)


def test_one_after_another_is_one_at_a_time() -> None:
    assert only(ran(0, 10, cpu=10.0), ran(10, 20, cpu=10.0)).peak == 1


def test_what_comes_before_the_work_is_none() -> None:
    """A task's process starts, and imports, before ``execute`` is called."""
    load = only(ran(0, 10, seconds=4.0, cpu=4.0), ran(0, 5, seconds=5.0, cpu=5.0))

    assert (load.peak, load.busy_share) == (1, 1.0)


def test_items_that_ran_at_once_are_no_longer_than_their_task() -> None:
    assert only(ran(0, 10, seconds=80.0, cpu=5.0)).busy_share == 0.5


def test_each_machine_is_by_itself() -> None:
    loads = host_loads([ran(0, 1, host="b"), ran(0, 1, host="a"), ran(0, 1, host="a", cores=1)])

    assert [(load.hostname, load.peak, load.cores) for load in loads] == [("a", 2, 1), ("b", 1, 2)]


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(ran(0, 1, host=""), id="host"),
        pytest.param(ran(0, 1, cores=None), id="cores"),
        pytest.param(ran(0, 1, cpu=None), id="cpu"),
        pytest.param(ran(0, 1, seconds="?"), id="work"),
        pytest.param(ran(1, 0, seconds=1.0), id="end-before-start"),
    ],
)
def test_what_is_not_known_is_not_guessed(unknown: TaskRun) -> None:
    assert host_loads([unknown]) == ()


def test_work_of_no_time_keeps_nothing_busy() -> None:
    assert host_loads([ran(0, 1, seconds=0.0, cpu=0.0)]) == ()
