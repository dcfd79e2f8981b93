"""The last runs of a Dag, group by group: whether they got slower, and which branches fail how often."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING
from zlib import crc32

from airflow_fanout.reports.branches import UnknownGroupError, group_runs
from airflow_fanout.reports.figures import PLURALS, number_of, time_left
from airflow_fanout.reports.group_report import Figure
from airflow_fanout.reports.run_report import expected_left, group_report
from airflow_fanout.reports.runs import ItemRuns
from airflow_fanout.rules.names import natural_key
from airflow_fanout.rules.wording import (
    format_ratio,
    format_seconds,
    listing,
    shown_error,
    shown_name,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from datetime import datetime

    from airflow_fanout.reports.group_report import GroupReport
    from airflow_fanout.reports.runs import GroupRun, RunFacts

OWN_FAILURES = frozenset({"failed", "missing"})
"""States of branches that failed by themselves: what others kept from starting is no sign of their own."""

MOST_FAILED = 10_000  # branches that are remembered of one run
MOST_NAMED = 100  # branches that failed which a history names; the rest are counted


@dataclass(frozen=True, kw_only=True)
class GroupOfRun:
    """
    A group in one run; numbers are of branches, or of the items of a batched group.

    ``queued`` is when its first branch was queued. ``failed`` are those that left no value, though they
    should have. ``mean_work_seconds`` is work divided by the branches (items) that recorded theirs: what one
    costs.
    """

    run_id: str
    state: str
    is_finished: bool
    queued: datetime | None
    total: int
    succeeded: int
    failed: int
    skipped: int
    degraded: bool
    wall_seconds: float | None
    work_seconds: float | None
    speed_up: float | None
    mean_work_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class FailedBranch:
    """
    A branch, or an item, that failed in ``failed`` of the ``runs`` in which it was and its group has ended.

    ``run_ids`` are the runs in which it failed, ``error`` is the last of its errors.
    """

    name: str
    failed: int
    runs: int
    error: str | None
    run_ids: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class GroupHistory:
    """
    A group over the last runs, the latest first; medians are of those in which it has ended.

    ``headline`` and ``figures`` are texts ready to show. ``failures`` are the branches that failed, those
    that did so most often first, at most a hundred of the ``failure_count``; what others kept from starting
    is not among them. ``expected_left_seconds`` is how much longer the latest run is expected to take, while
    it hasn't ended: the median wall of the others less what has passed, 0 if that is over.
    """

    title: str
    mode: str
    headline: str
    figures: tuple[Figure, ...]
    runs: tuple[GroupOfRun, ...]
    ended: int
    median_wall_seconds: float | None
    median_work_seconds: float | None
    median_speed_up: float | None
    median_mean_work_seconds: float | None
    expected_left_seconds: float | None
    failures: tuple[FailedBranch, ...]
    failure_count: int

    @property
    def noun(self) -> str:
        """What one of its outcomes is called."""
        return "item" if self.mode == "batched" else "branch"


@dataclass(frozen=True, kw_only=True)
class DagHistory:
    """
    The last runs of a Dag, as they were at ``read_at``.

    ``runs`` is how many there are, ``unread`` how many of them left nothing to read: their version of the Dag
    is gone.
    """

    dag_id: str
    read_at: datetime
    runs: int
    unread: int
    groups: tuple[GroupHistory, ...]


@dataclass(frozen=True, kw_only=True)
class GroupTrace:
    """
    What one run leaves of a group for its history; small, whatever the run was.

    :param ids: Those by which the group can be asked for.
    :param names: Of all its branches or items, as sorted checksums: in each process they are the same.
    :param failures: Errors of those that failed by themselves, by name.
    """

    title: str
    ids: frozenset[str]
    mode: str
    figures: GroupOfRun
    names: array[int]
    failures: dict[str, str | None]

    def __contains__(self, name: str) -> bool:
        """Whether it had a branch, or an item, of a name."""
        own = _checksum(name)
        place = bisect_left(self.names, own)
        return place < len(self.names) and self.names[place] == own


def group_traces(facts: RunFacts, *, now: datetime) -> list[GroupTrace]:
    """Take from a run what its Dag's history needs."""
    return [
        GroupTrace(
            title=run.title,
            ids=frozenset({run.title, run.fan_in_ids[0] if run.group is None else run.group.group_id}),
            mode="prefix" if run.group is None else run.group.mode,
            figures=_group_of_run(facts, group_report(facts, run, now=now, capacity_of=lambda *_: None)),
            names=array("L", sorted(map(_checksum, _names(run)))),
            failures=dict(islice(_failures(run), MOST_FAILED)),
        )
        for run in group_runs(facts)
    ]


def _group_of_run(facts: RunFacts, group: GroupReport) -> GroupOfRun:
    outcomes = group.outcomes
    mean = outcomes.work_seconds / outcomes.recorded if outcomes.work_seconds and outcomes.recorded else None
    return GroupOfRun(
        run_id=facts.run_id,
        state=facts.state,
        is_finished=group.is_finished,
        queued=group.segments[0][0] if group.segments else None,
        total=outcomes.total,
        succeeded=outcomes.states.get("success", 0),
        failed=outcomes.problem_count,
        skipped=outcomes.states.get("skipped", 0),
        degraded=group.degraded,
        wall_seconds=group.wall_seconds,
        work_seconds=outcomes.work_seconds,
        speed_up=group.speed_up,
        mean_work_seconds=mean,
    )


def _checksum(name: str) -> int:
    return crc32(name.encode(errors="surrogatepass"))


def _names(run: GroupRun) -> Iterator[str]:
    if isinstance(run.branches, ItemRuns):
        for batch in run.branches.batches:
            yield from batch.names
        return
    yield from (branch.name for branch in run.branches if branch.state != "removed")


def _failures(run: GroupRun) -> Iterator[tuple[str, str | None]]:
    if isinstance(run.branches, ItemRuns):
        for batch in run.branches.batches:
            if not OWN_FAILURES.isdisjoint(batch.states):
                for name, ruling in zip(batch.names, batch.rulings, strict=True):
                    if ruling.state in OWN_FAILURES:
                        yield name, ruling.error
        return
    yield from ((branch.name, branch.error) for branch in run.branches if branch.state in OWN_FAILURES)


def dag_history(
    dag_id: str,
    runs: Iterable[Sequence[GroupTrace]],
    *,
    number: int,
    now: datetime,
    group_id: str | None = None,
) -> DagHistory:
    """
    Put the history of a Dag together.

    :param runs: What each run left, the latest first; those that left nothing to read are not among them.
    :param number: How many runs there are.
    :param group_id: Id or title of the only group that is wanted; of branches that only a prefix brings
        together, their fan-in's.
    :raises UnknownGroupError: If no run has such a group.
    """
    traces: dict[str, list[GroupTrace]] = defaultdict(list)
    known = set[str]()
    read = 0
    for groups in runs:
        read += 1
        for trace in groups:
            known |= trace.ids
            if group_id is None or group_id in trace.ids:
                traces[trace.title].append(trace)
    if group_id is not None and not traces:
        text = f"Dag {dag_id!r} has no fan-out group {group_id!r} in {last_runs(number, 'its')}"
        message = f"{text}; there are {listing(known)}"
        raise UnknownGroupError(message)
    histories = tuple(_group_history(title, found) for title, found in traces.items())
    return DagHistory(dag_id=dag_id, read_at=now, runs=number, unread=number - read, groups=histories)


def last_runs(number: int, whose: str = "the") -> str:
    """Count runs: ``the last 30 runs``."""
    return f"{whose} last run" if number == 1 else f"{whose} last {number:,} runs"


def _group_history(title: str, traces: Sequence[GroupTrace]) -> GroupHistory:
    runs = tuple(trace.figures for trace in traces)
    ended = [trace for trace in traces if trace.figures.is_finished]
    failures = sorted(_failed_branches(ended), key=lambda each: (-each.failed, natural_key(each.name)))
    walls = _known(ended, lambda run: run.wall_seconds)
    history = GroupHistory(
        title=title,
        mode=traces[0].mode,
        headline="",
        figures=(),
        runs=runs,
        ended=len(ended),
        median_wall_seconds=_median(walls),
        median_work_seconds=_median(_known(ended, lambda run: run.work_seconds)),
        median_speed_up=_median(_known(ended, lambda run: run.speed_up)),
        median_mean_work_seconds=_median(_known(ended, lambda run: run.mean_work_seconds)),
        expected_left_seconds=None if runs[0].is_finished else expected_left(walls, runs[0].wall_seconds),
        failures=tuple(failures[:MOST_NAMED]),
        failure_count=len(failures),
    )
    return replace(history, headline=_headline(history), figures=tuple(_figures(history, walls)))


def _failed_branches(traces: Sequence[GroupTrace]) -> Iterator[FailedBranch]:
    failed: dict[str, list[GroupTrace]] = defaultdict(list)
    for trace in traces:
        for name in trace.failures:
            failed[name].append(trace)
    for name, those in failed.items():
        yield FailedBranch(
            name=shown_name(name),
            failed=len(those),
            runs=sum(name in trace for trace in traces),
            error=shown_error(those[0].failures[name]),
            run_ids=tuple(trace.figures.run_id for trace in those),
        )


def _known(traces: Iterable[GroupTrace], figure: Callable[[GroupOfRun], float | None]) -> list[float]:
    values = (figure(trace.figures) for trace in traces)
    return [value for value in values if value is not None]


def _median(values: Collection[float]) -> float | None:
    return median(values) if values else None


def _headline(history: GroupHistory) -> str:
    runs = number_of(len(history.runs), "run")
    parts = [runs if history.ended == len(history.runs) else f"{runs}, {history.ended:,} of them ended"]
    if failed := sum(run.failed > 0 for run in history.runs):
        parts.append(f"{failed:,} with failed {PLURALS[history.noun]}")
    if degraded := sum(run.degraded for run in history.runs):
        parts.append(f"{degraded:,} degraded")
    return " · ".join(parts)


def _figures(history: GroupHistory, walls: Sequence[float]) -> Iterator[Figure]:
    if not history.ended:
        return
    of = f"the median of {number_of(history.ended, 'run')}"
    extent = f", from {format_seconds(min(walls))} to {format_seconds(max(walls))}" if walls else ""
    each = f"{of}: work divided by the {PLURALS[history.noun]} that recorded theirs"
    yield Figure(name="Wall", value=format_seconds(history.median_wall_seconds), note=of + extent)
    yield Figure(name="Work", value=format_seconds(history.median_work_seconds), note=of)
    yield Figure(name="Speed-up", value=format_ratio(history.median_speed_up), note=of)
    name = f"Per {history.noun}"
    yield Figure(name=name, value=format_seconds(history.median_mean_work_seconds), note=each)
    if history.expected_left_seconds is not None:
        value, note = time_left(history.expected_left_seconds, history.median_wall_seconds)
        yield Figure(name="Left", value=value, note=f"of the latest run: {note}")
