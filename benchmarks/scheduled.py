"""Measures runs on a real scheduler: how long they take, and what the fan-in asks of the API server."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.counting import REQUESTS_KEY
from benchmarks.database import metadata_database
from benchmarks.pairs import Comparison, Pair, Target, alternated
from benchmarks.twins import FAN_IN, FAN_OUT, MAPPED, environment
from tests.support.airflow import ControlledAirflow

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

__all__ = ["Measured", "measure_runs", "wall_seconds"]

BRANCHES = 64
NUMBERS = 300
RATIO_AT_MOST = 1.05
REQUESTS_BESIDES_VALUES = 3
MAPPED_REQUESTS_AT_MOST = 6
"""4, and 2 for each page of 500 instances, of which there is one: the same for three instances."""

RUN_TIMEOUT = 300
"""Seconds after which a run is given up."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """
    One run.

    :param seconds: From the first queued task to the last end of one.
    :param cpu_seconds: CPU seconds of all Airflow's processes, from the trigger to the end.
    :param requests: What the fan-in's ``execute`` sent.
    """

    seconds: float
    cpu_seconds: float
    requests: int


def measure_runs(runs: int, wanted: Collection[str], tell: Callable[[str], None]) -> list[Comparison]:
    """
    Run the Dags on an embedded Airflow.

    :param runs: Number of pairs for the seconds; requests don't vary, so one pair will do for them.
    :param wanted: ``"wall"``, ``"requests"`` or both.
    :param tell: Shows a line of progress.
    """
    tell("Airflow starts")
    with (
        metadata_database() as database_url,
        ControlledAirflow(
            database_url=database_url,
            dag_files=[FAN_OUT.ours, FAN_OUT.by_hand, MAPPED.ours, MAPPED.by_hand],
            env={
                **environment(branches=BRANCHES, numbers=NUMBERS),
            },
        ) as airflow,
    ):
        run = partial(_run, airflow, tell)
        timed = "wall" in wanted
        pairs = alternated(
            runs if timed else 1,
            partial(run, FAN_OUT.ours, BRANCHES),
            partial(run, FAN_OUT.by_hand, BRANCHES),
            warm_up=timed,
        )
        found = _seconds(pairs) if timed else []
        if "requests" in wanted:
            mapped = alternated(
                1, partial(run, MAPPED.ours, NUMBERS), partial(run, MAPPED.by_hand, NUMBERS), warm_up=False
            )
            at_most = BRANCHES + REQUESTS_BESIDES_VALUES
            found.append(_requests(f"requests, fan-in of {BRANCHES} branches", pairs, at_most))
            found.append(
                _requests(f"requests, fan-in of {NUMBERS} mapped tasks", mapped, MAPPED_REQUESTS_AT_MOST)
            )
    return found


def wall_seconds(instances: Collection[dict[str, Any]]) -> float:
    """Return the seconds from the first queued task to the last end of one, as the server tells."""
    began = min(
        _moment(instance["queued_when"] or instance["start_date"])
        for instance in instances
        if instance["queued_when"] or instance["start_date"]
    )
    ended = max(_moment(instance["end_date"]) for instance in instances if instance["end_date"])
    return (ended - began).total_seconds()


def _run(airflow: ControlledAirflow, tell: Callable[[str], None], file: Path, size: int) -> Measured:
    dag_id = file.stem
    airflow.wait_for_dag(dag_id)
    before = _cpu_seconds(airflow)
    run_id = airflow.trigger(dag_id)
    state = airflow.wait_for_run(dag_id, run_id, timeout=RUN_TIMEOUT)
    cpu_seconds = _cpu_seconds(airflow) - before
    value = airflow.xcom(dag_id, run_id, FAN_IN) if state == "success" else None
    expected = sum(range(size))
    if value != expected:
        message = f"{dag_id}: expected {expected} from a successful run, found {value!r} from one in {state}"
        raise RuntimeError(message)
    sent: dict[str, int] = airflow.xcom(dag_id, run_id, FAN_IN, key=REQUESTS_KEY)
    measured = Measured(
        seconds=wall_seconds(airflow.task_instances(dag_id, run_id)),
        cpu_seconds=cpu_seconds,
        requests=sum(sent.values()),
    )
    tell(f"{dag_id}: {measured.seconds:.1f} s, {cpu_seconds:.1f} s of CPU, {measured.requests} requests")
    return measured


def _cpu_seconds(airflow: ControlledAirflow) -> float:
    """CPU seconds until now: a task's process hands its own to the one that waits for it."""
    total = 0.0
    for pid in airflow.pids():
        with suppress(psutil.Error):
            times = psutil.Process(pid).cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _seconds(pairs: list[tuple[Measured, Measured]]) -> list[Comparison]:
    wall = Comparison(
        name=f"wall, run of {BRANCHES} branches",
        unit="s",
        pairs=tuple(Pair(ours=ours.seconds, by_hand=by_hand.seconds) for ours, by_hand in pairs),
        target=Target(of="ratio", at_most=RATIO_AT_MOST),
    )
    cpu = Comparison(
        name="the same run (CPU of all Airflow)",
        unit="s",
        pairs=tuple(Pair(ours=ours.cpu_seconds, by_hand=by_hand.cpu_seconds) for ours, by_hand in pairs),
    )
    return [wall, cpu] if psutil.LINUX else [wall]  # elsewhere a process is not told what its children took


def _requests(name: str, pairs: list[tuple[Measured, Measured]], at_most: int) -> Comparison:
    return Comparison(
        name=name,
        unit="requests",
        pairs=tuple(Pair(ours=ours.requests, by_hand=by_hand.requests) for ours, by_hand in pairs),
        target=Target(of="ours", at_most=at_most),
    )


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
