"""Shapes of the report: what CLI and UI show of a run, and what ``--output json`` prints."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from airflow_fanout.reports.timing import GroupSummary

if TYPE_CHECKING:
    from airflow_fanout.reports.timing import TaskTry
    from airflow_fanout.serialization.declaration import ItemExecutor


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure of a group as text: its name, its value with the unit, and what it is about."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Advice:
    """
    A piece of advice: what was seen, and what to do about it.

    ``kind`` is the rule that it comes from; ``setting`` and ``value`` are what to change, and to what, as far
    as the figures say.
    """

    kind: Literal["overhead", "straggler", "limit", "cores", "waiting", "processes"]
    text: str
    setting: str | None = None
    value: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cause:
    """A task instance before the branches that failed, and kept some of them from starting."""

    task_id: str
    map_index: int
    state: str | None


@dataclass(frozen=True, kw_only=True)
class HostLoad:
    """
    How busy one machine was with a group's branches.

    ``peak`` is how many were at work at the busiest moment, ``cores`` how many cores they could run on.
    ``busy_share`` is the CPU seconds that they used, divided by those on offer: one core for each branch at
    work, and all cores while more branches were. (CPU seconds divided by work would fall where branches wait
    for each other's cores, which is what this is to show.)
    """

    hostname: str
    cores: int
    peak: int
    busy_share: float


@dataclass(frozen=True, kw_only=True)
class Problem:
    """
    A branch or item that left no value, though it should have, and the task instance whose log tells why.

    ``name`` has the task that failed, if the branch has several. ``items`` is 1, or how many items it stands
    for: all of a batch that left no record have one reason, and the batch's name. ``tries`` are the task
    instance's, ``item_tries`` how often it called the item: None of a branch, and if that is not known.
    ``kind`` is the index of its kind among the ``errors``; None if it is of none of these.
    """

    name: str
    items: int = 1
    state: str
    error: str | None
    task_id: str | None
    map_index: int
    tries: int | None
    item_tries: int | None = None
    kind: int | None = None


@dataclass(frozen=True, kw_only=True)
class ErrorCount:
    """
    How many branches, or items, left no value for errors that differ in numbers, ids and quoted parts alone.

    ``error`` is that of the first; ``names`` are those of the first, at most five, and ``unnamed`` is how
    many more there are. A batch that left no record is one name, and all its items.
    """

    state: str
    error: str | None
    number: int
    names: tuple[str, ...]
    unnamed: int


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a function of branches that are lists of them; of a group those of ``branches`` together."""

    name: str
    seconds: float
    branches: int = 1


@dataclass(frozen=True, kw_only=True)
class BranchReport:
    """
    A branch, or a batch.

    ``task_id`` and ``map_index`` are of the task instance to look at: the one that failed, the one that runs,
    else the last; None and -1 where there is none yet. ``step`` is the last part of ``task_id``, if the
    branch failed and has several tasks. Times are those of the last try; ``elapsed_seconds`` are from its
    start to its end, or so far, without what later tasks of a branch lost by being tried again. ``tries`` are
    those of the task that was tried most often, ``earlier_tries`` are all its tasks'. ``host`` is where its
    last task ran. ``items`` is how many items a batch has by state. ``read_bytes`` and ``written_bytes`` went
    through its processes' ``read`` and ``write`` while they worked, where the kernel tells. ``steps`` are the
    functions that it called, if it is a list of them, at most fifty; the last may have raised.
    """

    name: str
    state: str
    task_id: str | None
    map_index: int
    step: str | None
    error: str | None
    is_stopped: bool
    queued: datetime | None
    started: datetime | None
    ended: datetime | None
    elapsed_seconds: float | None
    tries: int | None
    earlier_tries: tuple[TaskTry, ...]
    work_seconds: float | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    host: str | None
    items: dict[str, int] | None
    read_bytes: int | None
    written_bytes: int | None
    steps: tuple[StepTime, ...]


@dataclass(frozen=True, kw_only=True)
class Outcomes(GroupSummary):
    """
    How branches, or the items of a batched group, ended.

    ``stopped`` is how many of the skipped ``stop_after_failures`` kept from starting, ``reused`` how many of
    the successes were not run, because an earlier run's values hold. ``problem_count`` is how many left no
    value, though they should have; ``problems`` are these, or twenty of the items, some of each kind.
    ``errors`` are the kinds, up to a hundred, the most frequent first.
    """

    stopped: int = 0
    reused: int = 0
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0
    errors: tuple[ErrorCount, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GroupReport(Outcomes):
    """
    A group, with the figures of its branches; of a batched group they are those of its batches.

    ``title`` is its id, with the index of the mapped task group that it stands in; of branches that only a
    prefix brings together (``mode`` is ``prefix``) it is their fan-in's id. ``headline``, ``failures`` and
    ``figures`` are texts ready to show. While ``is_finished`` is false, figures are those up to the report's
    ``read_at``, and there is no advice. ``degraded`` is whether a fan-in succeeded in spite of failed,
    missing or stopped branches (items). ``unexpanded`` is the state of a mapped group's task that was not
    expanded; ``causes`` are what failed before the branches, and left some of them ``upstream_failed``.
    ``effective_concurrency`` and ``limit`` are as things are now.

    Of a batch that went on where an earlier try had ended, work is that of all these tries, CPU time that of
    the last one. ``items`` are its items; they have no times of their own. ``retried_items`` of them were
    called more than once, ``extra_calls`` is how often beyond the first time. ``item_concurrency`` is how
    many items of a batch could run at once; overhead of batches is beside the time in which their items ran.
    ``rate_wait_seconds`` are those in which batches could have started an item but for the rate, added up.
    ``stored_items`` is where items from storage lie, as it was declared; None of any others.
    ``results_path`` is the folder into which batches write values; of a group that keeps them in XComs None.
    ``segments`` are the times that a time line shows, from a start to an end: long idle times between them
    are left out. ``usual_wall_seconds`` is the median wall of the last ten runs before, known while the run
    is on, and ``expected_left_seconds`` what is left of it; 0 if that is over. ``steps`` are the functions of
    branches that are lists of them, those first that took longest, at most fifty.
    """

    title: str
    group_id: str | None = None
    map_index: int = -1
    mode: str
    fan_in_ids: tuple[str, ...] = ()
    headline: str = ""
    figures: tuple[Figure, ...] = ()
    failures: str | None = None
    degraded: bool = False
    is_finished: bool = True
    unexpanded: str | None = None
    causes: tuple[Cause, ...] = ()
    declared_concurrency: int = 0
    effective_concurrency: int | None = None
    limit: str | None = None
    limit_setting: str | None = None
    items_per_task: int | None = None
    item_concurrency: int | None = None
    item_executor: ItemExecutor | None = None
    retried_items: int = 0
    extra_calls: int = 0
    rate_wait_seconds: float | None = None
    usual_wall_seconds: float | None = None
    expected_left_seconds: float | None = None
    stored_items: str | None = None
    results_path: str | None = None
    steps: tuple[StepTime, ...] = ()
    hosts: tuple[HostLoad, ...] = ()
    segments: tuple[tuple[datetime, datetime], ...] = ()
    branches: tuple[BranchReport, ...] = ()
    items: Outcomes | None = None
    advice: tuple[Advice, ...] = ()

    @property
    def outcomes(self) -> Outcomes:
        """What its results are counted in: the items of a batched group, else the branches."""
        return self if self.items is None else self.items

    @property
    def nouns(self) -> tuple[str, str]:
        """What one of its tasks, and one of its outcomes, is called."""
        return ("branch", "branch") if self.items is None else ("batch", "item")


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """
    A run, as it was at ``read_at``.

    ``rerun`` is the command that runs again what failed or was stopped, if anything did.
    """

    dag_id: str
    run_id: str
    state: str
    is_finished: bool
    read_at: datetime
    groups: tuple[GroupReport, ...]
    rerun: str | None


def to_json(value: Any) -> Any:
    """Turn a shape of the report into what JSON has; for ``json.dumps(…, default=to_json)``."""
    if isinstance(value, datetime):
        return value.isoformat()
    return {field.name: getattr(value, field.name) for field in fields(value)}
