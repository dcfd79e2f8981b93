from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.reports.run_report import host_loads
from tests.unit.run_facts import NOON
from tests.unit.run_facts import ran as task_run

if TYPE_CHECKING:
    from airflow_fanout.reports.runs import TaskRun

pytestmark = pytest.mark.unit


def ran(started: float, ended: float, **settings: Any) -> TaskRun:
    """A task that worked from start to end on a host of two cores, and computed for a second; unless told."""
    times: dict[str, Any] = {
        "started": NOON + timedelta(seconds=started),
        "ended": NOON + timedelta(seconds=ended),
    }
    record = {"seconds": float(ended - started), "cpu_seconds": 1.0, "cores": 2, "hostname": "a"}
    return task_run("work", **times, **{**record, **settings})


@pytest.mark.parametrize(
    ("task_runs", "peak", "busy_share"),
    [
        # Four that want a core each get half of one, so that CPU seconds are half of the work.
        pytest.param([ran(0, 10, cpu_seconds=5.0)] * 4, 4, 1.0, id="more-that-compute-than-cores"),
        pytest.param([ran(0, 10, cpu_seconds=8.0)], 1, 0.8, id="one-could-use-one-core"),
        pytest.param([ran(0, 10, cpu_seconds=0.1)] * 4, 4, 0.02, id="those-that-wait-leave-cores-idle"),
        pytest.param([ran(0, 10, cpu_seconds=10.0), ran(10, 20, cpu_seconds=10.0)], 1, 1.0, id="one-by-one"),
        # A task's process starts, and imports, before ``execute`` is called.
        pytest.param(
            [ran(0, 10, seconds=4.0, cpu_seconds=4.0), ran(0, 5, seconds=5.0, cpu_seconds=5.0)],
            1,
            1.0,
            id="what-comes-before-the-work-is-none",
        ),
        pytest.param(
            [ran(0, 10, seconds=80.0, cpu_seconds=5.0)], 1, 0.5, id="items-at-once-in-their-tasks-time"
        ),
    ],
)
def test_a_machine_is_as_busy_as_branches_compute_on_it(
    task_runs: list[TaskRun], peak: int, busy_share: float
) -> None:
    (load,) = host_loads(task_runs)

    assert (load.hostname, load.cores, load.peak) == ("a", 2, peak)
    assert load.busy_share == pytest.approx(busy_share)


def test_each_machine_is_by_itself() -> None:
    loads = host_loads([ran(0, 1, hostname="b"), ran(0, 1), ran(0, 1, cores=1)])

    assert [(load.hostname, load.peak, load.cores) for load in loads] == [("a", 2, 1), ("b", 1, 2)]


@pytest.mark.parametrize(
    "unknown",
    [
        pytest.param(ran(0, 1, hostname=""), id="host"),
        pytest.param(ran(0, 1, cores=None), id="cores"),
        pytest.param(ran(0, 1, cpu_seconds=None), id="cpu"),
        pytest.param(ran(0, 1, seconds=None), id="work"),
        pytest.param(ran(1, 0, seconds=1.0), id="end-before-start"),
        pytest.param(ran(0, 1, seconds=0.0, cpu_seconds=0.0), id="no-work-at-all"),
    ],
)
def test_what_is_not_known_is_not_guessed(unknown: TaskRun) -> None:
    assert host_loads([unknown]) == ()
