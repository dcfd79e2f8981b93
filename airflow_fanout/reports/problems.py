"""Which branches, or items, of a group left no value, though they should have; and why, by kind of error."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from airflow_fanout.reports.group_report import ErrorCount, Outcomes, Problem
from airflow_fanout.reports.runs import PROBLEMS, ItemRuns
from airflow_fanout.rules.error_kinds import NAMED, Failure, kind_key, kinds_of
from airflow_fanout.rules.run_lengths import spans
from airflow_fanout.rules.wording import shown_error, shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airflow_fanout.reports.runs import BranchRun, GroupRun
    from airflow_fanout.reports.timing import GroupSummary
    from airflow_fanout.rules.error_kinds import ErrorKind


PROBLEM_ITEMS = 20  # items without a value that are named; the rest are counted
ERROR_KINDS = 100  # that are told apart


def outcomes(run: GroupRun, summary: GroupSummary) -> Outcomes:
    """Add to the figures of branches, or of items, which of them failed, and why."""
    # First what may have kept others from starting.
    failed = sorted(_failed(run), key=lambda each: (each.items == 1, each.error is None))
    kinds = kinds_of(
        (
            Failure(state=f.state, error=f.error, number=f.items, problem=partial(int, i))
            for i, f in enumerate(failed)
        ),
        named=PROBLEM_ITEMS,
    )[:ERROR_KINDS]
    numbers = {kind.key: number for number, kind in enumerate(kinds)}

    @cache
    def problem(index: int) -> Problem:
        kind = numbers.get(kind_key(failed[index].state, failed[index].error))
        return _problem(run, failed[index], kind)

    shown: Iterable[int] = range(len(failed))
    if run.batches is not None:
        some_of_each = sorted((rank, index) for kind in kinds for rank, index in enumerate(kind.problems))
        shown = sorted(index for _, index in some_of_each[:PROBLEM_ITEMS])
    slowest = tuple(replace(slow, name=shown_name(slow.name)) for slow in summary.slowest)
    return Outcomes(
        **{**vars(summary), "slowest": slowest},
        stopped=run.stopped,
        reused=run.reused,
        problems=tuple(map(problem, shown)),
        problem_count=sum(each.items for each in failed),
        errors=tuple(
            _error_count(kind, [problem(index) for index in kind.problems[:NAMED]]) for kind in kinds
        ),
    )


def _error_count(kind: ErrorKind[int], problems: Sequence[Problem]) -> ErrorCount:
    return ErrorCount(
        state=kind.state,
        error=shown_error(kind.error),
        number=kind.number,
        names=tuple(problem.name for problem in problems),
        unnamed=kind.number - sum(problem.items for problem in problems),
    )


class _Failed(NamedTuple):
    """
    A branch without a value, though it should have one.

    :param items: How many items it stands for: all of a batch that left no record.
    :param branch: Makes the branch.
    """

    state: str
    error: str | None
    items: int
    branch: Callable[[], BranchRun]


def _failed(run: GroupRun) -> Iterator[_Failed]:
    if isinstance(run.branches, ItemRuns):
        for batch in run.branches.batches:
            if PROBLEMS.isdisjoint(batch.states):
                continue
            if batch.task_run.batch_record is None:
                first = batch.rulings[0]
                yield _Failed(first.state, first.error, len(batch), partial(batch.__getitem__, 0))
                continue
            for start, stop, ruling in spans(batch.rulings):
                for index in range(start, stop) if ruling.state in PROBLEMS else ():
                    yield _Failed(ruling.state, ruling.error, 1, partial(batch.__getitem__, index))
        return
    silent_batches = {
        task_run.map_index
        for batch in run.batches or ()
        for task_run in batch.task_runs
        if task_run.batch_record is None
    }
    failed = [branch for branch in run.branches if branch.state in PROBLEMS]
    silent = Counter(index for item in failed if (index := batch_of(item)) in silent_batches)
    told = set[int]()
    for branch in failed:
        index = batch_of(branch)
        if index not in told:
            yield _Failed(branch.state, branch.error, silent[index] or 1, partial(replace, branch))
        if silent[index]:
            told.add(index)


def _problem(run: GroupRun, failed: _Failed, kind: int | None) -> Problem:
    branch = failed.branch()
    step = failed_step(branch)
    task_id, map_index = task_to_look_at(branch)
    name = branch.name if step is None else f"{branch.name} ({step})"
    if failed.items > 1:
        name = next(batch.name for batch in run.batches or () if batch.task_runs[:1] == branch.task_runs[:1])
    return Problem(
        name=shown_name(name),
        items=failed.items,
        state=branch.state,
        error=shown_error(branch.error),
        task_id=task_id,
        map_index=map_index,
        tries=branch.tries,
        item_tries=branch.item_tries if failed.items == 1 else None,
        kind=kind,
    )


def task_to_look_at(branch: BranchRun) -> tuple[str | None, int]:
    """Id and map index of the task instance whose log tells why a branch is in its state."""
    for state in (branch.state, "failed", "running"):
        for task_run in branch.task_runs:
            if task_run.state == state != "success":
                return task_run.key
    return branch.task_runs[-1].key if branch.task_runs else (None, -1)


def failed_step(branch: BranchRun) -> str | None:
    """Name the task that failed a branch of several tasks."""
    task_id, _ = task_to_look_at(branch)
    has_steps = branch.state == "failed" and len({run.task_id for run in branch.task_runs}) > 1
    return task_id.rpartition(".")[2] if has_steps and task_id is not None else None


def batch_of(item: BranchRun) -> int:
    """Number of an item's batch; -1 if it has none."""
    return item.task_runs[0].map_index if item.task_runs else -1
