"""Task instances -> how busy they kept the cores of each machine that they ran on; for CLI and UI."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from airflow_fanout.run_facts import TaskRun

__all__ = ["HostLoad", "host_loads"]


@dataclass(frozen=True, kw_only=True)
class HostLoad:
    """
    What a group's branches asked of one machine.

    :param hostname: The machine.
    :param cores: Cores that they could run on.
    :param peak: Greatest number of them that were at work at one moment.
    :param busy_share: CPU seconds that they used, of those that they could have used while they were at
        work: one core for each, and all cores where there were more of them. (CPU seconds divided by
        work would fall where they wait for each other's cores, which is what this is to show.)
    """

    hostname: str
    cores: int
    peak: int
    busy_share: float


def host_loads(task_runs: Iterable[TaskRun]) -> tuple[HostLoad, ...]:
    """
    Work out the load of each machine, in the order of their names.

    Only instances that have recorded all of it are looked at; a machine without one is not there.

    :param task_runs: The task instances of a group's branches.
    """
    by_host: dict[str, list[TaskRun]] = {}
    for each in task_runs:
        if each.hostname and each.cores is not None and _at_work(each) is not None:
            by_host.setdefault(each.hostname, []).append(each)
    loads = (_load(hostname, its) for hostname, its in sorted(by_host.items()))
    return tuple(load for load in loads if load is not None)


def _load(hostname: str, its: Sequence[TaskRun]) -> HostLoad | None:
    cores = min(each.cores for each in its if each.cores is not None)
    changes: list[tuple[datetime, int]] = []
    for each in its:
        began, ended = _at_work(each) or (None, None)
        if began is not None and ended is not None:
            changes += [(began, 1), (ended, -1)]
    running = peak = 0
    could_use = 0.0
    before: datetime | None = None
    for moment, change in sorted(changes):
        if before is not None:
            could_use += min(running, cores) * (moment - before).total_seconds()
        running += change
        peak, before = max(peak, running), moment
    used = math.fsum(each.timing.cpu_seconds or 0.0 for each in its)
    if could_use <= 0:
        return None
    return HostLoad(hostname=hostname, cores=cores, peak=peak, busy_share=used / could_use)


def _at_work(each: TaskRun) -> tuple[datetime, datetime] | None:
    """Begin and end of its work, which comes last in a task's process; None if that isn't known."""
    timing = each.timing
    if timing.started is None or timing.ended is None or timing.ended <= timing.started:
        return None
    if timing.work_seconds is None or timing.cpu_seconds is None:
        return None
    # Items of one batch that ran at the same time have more work in sum than their task was there.
    elapsed = (timing.ended - timing.started).total_seconds()
    return timing.ended - timedelta(seconds=min(timing.work_seconds, elapsed)), timing.ended
