"""Task instances and what they recorded -> branches, or items, of each declared group; used by the demo."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from airflow_fanout import demo_view
from airflow_fanout.batch import FAILED, SKIPPED, STOPPED, SUCCEEDED
from airflow_fanout.declaration import read_fan_in
from airflow_fanout.names import indexed_names
from airflow_fanout.record_shapes import BATCH
from airflow_fanout.report import BranchTiming

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_fanout.declaration import DeclaredGroup

__all__ = ["FanIn", "GroupRun", "Instance", "group_runs", "items_done"]

STATES = {SUCCEEDED: "success", FAILED: "failed", SKIPPED: "skipped", STOPPED: "skipped"}


@dataclass(frozen=True, kw_only=True)
class FanIn:
    """
    A fan-in that has run.

    :param task_id: Its id.
    :param declaration: What it declares to bring together, as JSON.
    :param upstream: Ids of the tasks directly before it.
    """

    task_id: str
    declaration: str
    upstream: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Instance:
    """
    A task instance of a finished run.

    :param of: The instance as the REST API has it.
    :param record: What it pushed beside its value; None if it pushed nothing.
    """

    of: Mapping[str, Any]
    record: Mapping[str, Any] | None = None

    @property
    def timing(self) -> BranchTiming:
        """Its times, with the seconds inside its code: those of its items together, if it ran a batch."""
        measured = {name: _sum((self.record or {}).get(name)) for name in ("seconds", "cpu_seconds")}
        return replace(
            demo_view.timing_of(self.of),
            work_seconds=measured["seconds"],
            cpu_seconds=measured["cpu_seconds"],
        )


@dataclass(frozen=True, kw_only=True)
class GroupRun:
    """
    What came of one group.

    :param title: The group's id; of branches that only a prefix brings together, their fan-in's.
    :param timings: Its branches; those of a batched group are its batches.
    :param items: The items of a batched group, with the seconds that each took; else None.
    """

    title: str
    timings: tuple[BranchTiming, ...]
    items: tuple[BranchTiming, ...] | None = None


def group_runs(fan_ins: Iterable[FanIn], instances: Sequence[Instance]) -> list[GroupRun]:
    """
    Put each group's branches together; a group that has several fan-ins is there once.

    :param fan_ins: The fan-ins, in the order in which to show their groups.
    :param instances: All task instances of the run.
    """
    tasks: dict[str, list[Instance]] = {}
    for instance in instances:
        tasks.setdefault(instance.of["task_id"], []).append(instance)
    runs: dict[str, GroupRun] = {}
    for fan_in in fan_ins:
        group, *_ = read_fan_in(fan_in.declaration, task_ids=tasks, upstream_task_ids=sorted(fan_in.upstream))
        if group is not None:
            title = group.group_id or fan_in.task_id
            runs[title] = GroupRun(title=title, timings=_branches(group, tasks), items=_items(group, tasks))
    return list(runs.values())


def items_done(record: Mapping[str, Any] | None) -> str | None:
    """Say how many items of a batch that has ended are done; None if it left no record of them."""
    if record is None or record.get("state") != BATCH:
        return None
    letters: str = record["states"]
    rest = [
        f"{letters.count(letter)} {said}"
        for letter, said in ((SKIPPED, "skipped"), (FAILED, "failed"), (STOPPED, "stopped"))
        if letter in letters
    ]
    return ", ".join([f"{letters.count(SUCCEEDED)} of {len(letters)} items done", *rest])


def _sum(seconds: float | Sequence[float | None] | None) -> float | None:
    """Add up what is known of a batch's items; a task's own seconds stay as they are."""
    if not isinstance(seconds, list):
        return seconds if isinstance(seconds, int | float) else None
    known = [each for each in seconds if each is not None]
    return math.fsum(known) if known else None


def _branches(group: DeclaredGroup, tasks: Mapping[str, Sequence[Instance]]) -> tuple[BranchTiming, ...]:
    if group.mode == "static":
        found = [
            timing
            for branch in group.branches
            for timing in _static(
                branch.name, [each for task_id in branch.task_ids for each in tasks.get(task_id, ())]
            )
        ]
        return tuple(sorted(found, key=demo_view.in_order))
    its: dict[int, list[Instance]] = {}
    for task_id in group.each:
        for each in tasks.get(task_id, ()):
            its.setdefault(each.of["map_index"], []).append(each)
    return tuple(
        demo_view.together(_name(group, index, its[index]), [each.timing for each in its[index]])
        for index in sorted(its)
    )


def _static(name: str, its: Sequence[Instance]) -> list[BranchTiming]:
    """Put a branch's tasks together; somebody else's mapped task is a branch for each of its instances."""
    if len({each.of["task_id"] for each in its}) == 1 and len(its) > 1:
        return [each.timing for each in its]
    return [demo_view.together(name, [each.timing for each in its])] if its else []


def _name(group: DeclaredGroup, index: int, its: Sequence[Instance]) -> str:
    """Name a branch of a mapped group, or a batch; of several tasks the first alone may know the name."""
    if group.mode == "batched":
        return demo_view.batch_name(its[-1].of)
    if index < 0:  # it never expanded
        return group.group_id
    told = (demo_view.rendered_name(each.of) or (each.record or {}).get("name") for each in its)
    named = next((str(name) for name in told if name is not None), None)
    if named is None and group.names is not None and index < len(group.names):
        named = group.names[index]
    return named or f"{group.label}_{index}"


def _items(group: DeclaredGroup, tasks: Mapping[str, Sequence[Instance]]) -> tuple[BranchTiming, ...] | None:
    """Return the items of a batched group; those of a batch that left no record are not among them."""
    if group.mode != "batched":
        return None
    found: list[BranchTiming] = []
    batches = [each for task_id in group.each for each in tasks.get(task_id, ())]
    for batch in sorted(batches, key=lambda each: int(each.of["map_index"])):
        record = batch.record
        if record is None or record.get("state") != BATCH:
            continue
        start, letters = record["start"], record["states"]
        stop = start + len(letters)
        known = group.names[start:stop] if group.names is not None else None
        names = record["names"] or known or indexed_names(group.label, stop)[start:]
        found += (
            replace(_NEVER, name=name, state=STATES.get(letter, "failed"), work_seconds=seconds)
            for name, letter, seconds in zip(names, letters, record["seconds"], strict=True)
        )
    return tuple(found)


_NEVER = BranchTiming(name="", state="", queued=None, started=None, ended=None)
