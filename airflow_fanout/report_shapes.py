"""What a run's report is made of: plain values that JSON can hold, for CLI and UI."""

from __future__ import annotations

from typing import TypedDict

__all__ = [
    "AdviceReport",
    "BranchReport",
    "Cause",
    "GroupReport",
    "ItemsReport",
    "Problem",
    "RunReport",
    "Slow",
    "TryReport",
]


class Slow(TypedDict):
    """A slow branch or item; ``measure`` is ``work`` or, where that isn't known, ``elapsed``."""

    name: str
    seconds: float
    measure: str


class Problem(TypedDict):
    """
    An item that left no value, though it should have, and its batch's task instance.

    ``items`` is 1, or how many items it stands for: all of a batch that left no record have one reason, and
    the batch's name.
    """

    name: str
    items: int
    state: str
    error: str | None
    task_id: str
    map_index: int


class Cause(TypedDict):
    """A task instance before the branches that failed, and kept some of them from starting."""

    task_id: str
    map_index: int
    state: str | None


class AdviceReport(TypedDict):
    """A piece of advice, as :class:`~airflow_fanout.advice.Advice` explains it."""

    kind: str
    text: str
    setting: str | None
    value: int | None


class TryReport(TypedDict):
    """A try that another one has followed; moments are ISO 8601."""

    number: int
    state: str | None
    queued: str | None
    started: str | None
    ended: str | None


class BranchReport(TypedDict):
    """
    A branch, or a batch; moments are ISO 8601, of the last try.

    ``task_id`` and ``map_index`` are of the task instance to look at: the one that failed, the one that runs,
    else the last; None and -1 where there is none yet. One that never started has no moments. ``tries`` are
    those of the task that was tried most often, ``earlier_tries`` are all its tasks'. ``items`` is the number
    of a batch's items by state, None of a branch; ``host`` is where its last task ran. ``step`` is the last
    part of ``task_id``, if the branch failed and has several tasks.
    """

    name: str
    state: str
    task_id: str | None
    map_index: int
    step: str | None
    error: str | None
    is_stopped: bool
    queued: str | None
    started: str | None
    ended: str | None
    tries: int | None
    earlier_tries: list[TryReport]
    work_seconds: float | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    host: str | None
    items: dict[str, int] | None


class ItemsReport(TypedDict):
    """
    The items of a batched group: how many by state, how many recorded their work, and a few by name.

    ``problems`` are the first that left no value, ``problem_count`` is how many did.
    """

    states: dict[str, int]
    total: int
    recorded: int
    median_work_seconds: float | None
    slowest: list[Slow]
    problems: list[Problem]
    problem_count: int


class GroupReport(TypedDict):
    """
    A group; what its figures mean is in :class:`~airflow_fanout.report.GroupSummary`.

    ``mode`` is ``static``, ``mapped``, ``batched`` or, of branches that only a prefix brings together,
    ``prefix``. ``states``, ``total``, ``recorded`` and all that runs at once are about the branches, or the
    batches of a batched group. While ``is_finished`` is false, figures are those up to the report's
    ``read_at``, and there is no advice. ``effective_concurrency`` and ``limit`` are as things are now.
    ``unexpanded`` is the state of a mapped group's task that was not expanded; ``causes`` are what failed
    before the branches, and left some of them ``upstream_failed``. ``degraded`` is whether a fan-in succeeded
    in spite of failed, missing or stopped branches (items). Of a batch that went on where an earlier try had
    ended, the work is that of all these tries, and so is the time. ``item_concurrency`` is how many items of
    a batch could run at once, None of branches; where that is more than one, the overhead is that of the last
    tries, beside the time in which items ran.
    """

    title: str
    group_id: str | None
    map_index: int
    mode: str
    fan_in_ids: list[str]
    degraded: bool
    is_finished: bool
    unexpanded: str | None
    causes: list[Cause]
    states: dict[str, int]
    total: int
    recorded: int
    work_seconds: float | None
    wall_seconds: float | None
    speed_up: float | None
    overhead_share: float | None
    elapsed_sum_seconds: float | None
    cpu_seconds: float | None
    peak_memory_bytes: int | None
    declared_concurrency: int
    effective_concurrency: int | None
    limit: str | None
    peak_concurrency: int
    item_concurrency: int | None
    slowest: list[Slow]
    wall_without_slowest_seconds: float | None
    saved_without_slowest_seconds: float | None
    branches: list[BranchReport]
    items: ItemsReport | None
    advice: list[AdviceReport]


class RunReport(TypedDict):
    """
    A run.

    ``read_at`` is when it was read; ``rerun`` is the command that runs again what failed, if anything did.
    """

    dag_id: str
    run_id: str
    state: str
    is_finished: bool
    read_at: str
    groups: list[GroupReport]
    rerun: str | None
