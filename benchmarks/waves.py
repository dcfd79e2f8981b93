"""Measures what a run of three waves of tasks waits for the scheduler, and what waiting less costs it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from benchmarks.database import metadata_database
from benchmarks.pairs import Comparison, Pair
from benchmarks.scheduled import wall_seconds
from benchmarks.sizes import SIZES, ItemSize, as_text, expected_sum, items_dag_id
from benchmarks.twins import DAGS, FAN_IN
from tests.support.airflow import ControlledAirflow

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["measure_waves"]

AIRFLOWS_OWN = 1.0
"""Default of ``[scheduler] scheduler_idle_sleep_time``, in seconds."""

SLEEPS = (0.5, 0.25, 0.1)
SIZE = ItemSize(count=300, items_per_task=150)
IDLE_SECONDS = 15
RUN_TIMEOUT = 120


@dataclass(frozen=True, kw_only=True)
class _Waves:
    """
    Runs with one setting.

    :param walls: Seconds of each run, from the first queued task to the last end of one.
    :param idle_share: CPU seconds of the scheduler in a second in which there is nothing to do.
    """

    walls: list[float]
    idle_share: float


def measure_waves(runs: int, tell: Callable[[str], None]) -> list[Comparison]:
    """
    Run the same Dag with each setting, on an Airflow of its own.

    :param runs: Number of runs with each.
    :param tell: Shows a line of progress.
    """
    usual = _measure(AIRFLOWS_OWN, runs, tell)
    found = []
    for sleep in SLEEPS:
        waves = _measure(sleep, runs, tell)
        pairs = tuple(
            Pair(ours=ours, by_hand=theirs) for ours, theirs in zip(waves.walls, usual.walls, strict=True)
        )
        found += [
            Comparison(
                name=f"wall, 3 waves, idle sleep {sleep} s (by hand: {AIRFLOWS_OWN} s)", unit="s", pairs=pairs
            ),
            Comparison(
                name="the scheduler's CPU in an idle second",
                unit="s",
                pairs=(Pair(ours=waves.idle_share, by_hand=usual.idle_share),),
            ),
        ]
    return found


def _measure(sleep: float, runs: int, tell: Callable[[str], None]) -> _Waves:
    dag_id = items_dag_id(SIZE.count, "ours")
    env = {
        SIZES: as_text([SIZE]),
        "PYTHONDONTWRITEBYTECODE": "",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": str(sleep),
    }
    walls = []
    with (
        metadata_database() as database_url,
        ControlledAirflow(database_url=database_url, dag_files=[DAGS / "items_ours.py"], env=env) as airflow,
    ):
        airflow.wait_for_dag(dag_id)
        for number in range(-1, runs):  # the first is a warm-up
            run_id = airflow.trigger(dag_id)
            state = airflow.wait_for_run(dag_id, run_id, timeout=RUN_TIMEOUT)
            value = airflow.xcom(dag_id, run_id, FAN_IN) if state == "success" else None
            if value != expected_sum(SIZE.count):
                message = (
                    f"{dag_id}: expected {expected_sum(SIZE.count)}, found {value!r} from one in {state}"
                )
                raise RuntimeError(message)
            if number >= 0:
                walls.append(wall_seconds(airflow.task_instances(dag_id, run_id)))
        scheduler = psutil.Process(airflow.processes["scheduler"].pid)
        before = sum(scheduler.cpu_times()[:2])
        time.sleep(IDLE_SECONDS)
        idle_share = (sum(scheduler.cpu_times()[:2]) - before) / IDLE_SECONDS
    tell(f"idle sleep {sleep} s: {', '.join(f'{wall:.1f} s' for wall in walls)}; idle {idle_share:.3f}")
    return _Waves(walls=walls, idle_share=idle_share)
