"""What has to be cleared in a run for all of its branches to succeed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.branches import chosen_group_runs
from airflow_fanout.reports.figures import shortened
from airflow_fanout.reports.group_report import Cause
from airflow_fanout.reports.runs import ItemRuns, TaskRun
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.names import SPLIT
from airflow_fanout.rules.outcomes import WAITING
from airflow_fanout.rules.wording import listing, shown_error, shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from airflow_fanout.reports.runs import BranchRun, GroupRun, RunFacts
    from airflow_fanout.serialization.declaration import DeclaredGroup


FAILED = frozenset({"failed", "upstream_failed"})

UNSUCCESSFUL = FAILED | {"skipped"}
CLEARABLE = FINISHED - {"removed"}
"""States that clearing changes; a task instance in another one has not ended, or is no longer declared."""

Key = tuple[str, int]  # task id and map index of a task instance


@dataclass(frozen=True, kw_only=True)
class BranchRerun:
    """
    A branch, or batch with ``items`` that are no success, that runs again; and what to clear of it.

    Nothing is, if Airflow makes its task instance when others of its group run again.
    """

    branch: BranchRun
    task_runs: tuple[TaskRun, ...]
    items: int | None = None


@dataclass(frozen=True, kw_only=True)
class GroupRerun:
    """
    What runs again of one group.

    :param unexpanded: Mapped tasks to clear that never were expanded, or what cuts the items of batches, if
        these are no longer as many as were cut, or are others.
    :param is_anew: Whether all of it runs again, because there are other items now.
    """

    run: GroupRun
    branches: tuple[BranchRerun, ...] = ()
    unexpanded: tuple[TaskRun, ...] = ()
    fan_ins: tuple[TaskRun, ...] = ()
    is_anew: bool = False

    @property
    def task_runs(self) -> tuple[TaskRun, ...]:
        """All its task instances to clear."""
        of_branches = (task_run for branch in self.branches for task_run in branch.task_runs)
        return (*of_branches, *self.unexpanded, *self.fan_ins)


@dataclass(frozen=True, kw_only=True)
class RerunPlan:
    """
    What has to be cleared in one run.

    :param causes: Failed tasks upstream of the branches, without which these would only fail again.
    :param between: What did not succeed between the causes and the branches.
    :param notes: What is not cleared, and what else there is to know; a sentence each.
    :param no_reuse: Groups that are to run all of their items, whatever is stored of earlier runs.
    """

    dag_id: str
    run_id: str
    run_state: str
    groups: tuple[GroupRerun, ...] = ()
    downstream: tuple[TaskRun, ...] = ()
    setups_and_teardowns: tuple[TaskRun, ...] = ()
    causes: tuple[TaskRun, ...] = ()
    between: tuple[TaskRun, ...] = ()
    notes: tuple[str, ...] = ()
    no_reuse: tuple[str, ...] = ()

    @property
    def task_runs(self) -> tuple[TaskRun, ...]:
        """All task instances to clear, once each, without the causes."""
        of_groups = (task_run for group in self.groups for task_run in group.task_runs)
        return tuple(_by_key((*of_groups, *self.downstream, *self.setups_and_teardowns)).values())

    @property
    def with_causes(self) -> tuple[TaskRun, ...]:
        """All task instances to clear, once each, the causes first."""
        return (*self.causes, *self.between, *self.task_runs)


@dataclass(frozen=True, kw_only=True)
class Clearing:
    """What was cleared, what was not because its state had changed since, and whether the Dag is paused."""

    cleared: tuple[TaskRun, ...]
    changed: tuple[TaskRun, ...]
    is_paused: bool


def plan_rerun(
    facts: RunFacts,
    *,
    group_ids: Collection[str] | None = None,
    downstream: bool = True,
    whole_branches: bool = False,
    no_reuse: bool = False,
    setups_and_teardowns: Callable[[str], Collection[str]],
) -> RerunPlan:
    """
    Find out what has to be cleared.

    Of each branch that isn't a success: every task instance that isn't. Of a branch that succeeded without a
    value: its last task. Of a batch: its one task, which does what it had not done. Then the fan-ins,
    everything downstream of them, and the setups and teardowns of all these. A fan-in that failed by itself
    runs again too. What has not ended, or is no longer declared, is not cleared.

    :param group_ids: Groups to look at, by their ids or titles; None for all.
    :param whole_branches: Whether to clear the tasks of these branches that succeeded, too: a later task may
        have failed over what an earlier one fetched.
    :param no_reuse: Whether groups with ``reuse`` run all again: what cuts their items, and all batches.
    :param setups_and_teardowns: Ids of those that Airflow clears with a task, by its id.
    """
    groups = [
        _group_anew(facts, run)
        if no_reuse and run.group is not None and run.group.reuses
        else _group(facts, run, whole_branches)
        for run in chosen_group_runs(facts, group_ids)
    ]
    anew = [group.run.title for group in groups if no_reuse and group.run.group and group.run.group.reuses]
    of_groups = _by_key(task_run for group in groups for task_run in group.task_runs)
    cleared = [group.run for group in groups if group.task_runs and downstream]
    started = [fan_in for run in cleared for fan_in in facts.find(run.fan_in_ids, run.map_index)]
    after = _by_key(_related_instances(facts, started, facts.outline.downstream_of))
    blocked = [
        *(task_run for task_run in of_groups.values() if task_run.state == "upstream_failed"),
        *(task for group in groups for task in (*group.unexpanded, *group.fan_ins) if task.state == "failed"),
    ]
    taken = of_groups | after
    causes, between = _causes(facts, blocked, taken)
    taken |= _by_key((*causes, *between))
    related: dict[Key, TaskRun] = {}
    if any(task.is_setup for task in facts.outline.tasks.values()):  # Airflow looks through the Dag for each
        related = _by_key(_related_instances(facts, taken.values(), setups_and_teardowns))
    return RerunPlan(
        dag_id=facts.dag_id,
        run_id=facts.run_id,
        run_state=facts.state,
        groups=tuple(group for group in groups if group.task_runs),
        # A group may come after another one's fan-in.
        downstream=tuple(task_run for key, task_run in after.items() if key not in of_groups),
        setups_and_teardowns=tuple(task_run for key, task_run in related.items() if key not in taken),
        causes=causes,
        between=between,
        notes=(*_notes(facts, groups), *_notes_on_reuse(no_reuse, anew)),
        no_reuse=tuple(anew),
    )


def causes_before(facts: RunFacts, run: GroupRun) -> tuple[Cause, ...]:
    """Find the failed tasks upstream of a group's branches that kept some of them from starting."""
    declared = (branch for branch in run.ran if branch.state != "removed")
    task_runs = [task_run for branch in declared for task_run in branch.task_runs]
    if run.unexpanded is not None:
        task_runs.append(run.unexpanded)
    blocked = [task_run for task_run in task_runs if task_run.state == "upstream_failed"]
    causes, _ = _causes(facts, blocked, _by_key(task_runs))
    return tuple(Cause(task_id=task.task_id, map_index=task.map_index, state=task.state) for task in causes)


def _by_key(task_runs: Iterable[TaskRun]) -> dict[Key, TaskRun]:
    return {task_run.key: task_run for task_run in task_runs}


def _group(facts: RunFacts, run: GroupRun, whole_branches: bool) -> GroupRerun:
    if run.group is not None and (anew := _all_anew(facts, run, run.group)) is not None:
        return anew
    moved = _moved(run)
    branches = tuple(_branches(run, moved, whole_branches) if run.batches is None else _batches(run, moved))
    unexpanded: tuple[TaskRun, ...] = ()
    is_missing = run.states["missing"] > 0
    if (
        run.group is not None
        and run.unexpanded is not None
        and (run.unexpanded.state in FAILED or is_missing)
    ):
        unexpanded = tuple(task for task in facts.find(run.group.each, -1) if task.state in UNSUCCESSFUL)
    if run.group is not None and branches and _is_cut_otherwise(facts, run.group):
        unexpanded = tuple(facts.find([run.group.prefix + SPLIT], -1))
    states = CLEARABLE if branches or unexpanded else FAILED
    fan_ins = tuple(task for task in facts.find(run.fan_in_ids, run.map_index) if task.state in states)
    return GroupRerun(run=run, branches=branches, unexpanded=unexpanded, fan_ins=fan_ins)


def _group_anew(facts: RunFacts, run: GroupRun) -> GroupRerun:
    """Run a group again with all that cuts and runs its items, as if nothing were stored of earlier runs."""
    group: Any = run.group
    again = [
        BranchRerun(branch=batch, task_runs=batch.task_runs, items=None)
        for batch in run.batches or ()
        if batch.state in CLEARABLE
    ]
    before = (*facts.find([group.prefix + SPLIT], -1), *facts.find(group.each, -1))
    fan_ins = facts.find(run.fan_in_ids, run.map_index)
    return GroupRerun(
        run=run,
        branches=tuple(again),
        unexpanded=tuple(task for task in before if task.state in CLEARABLE),
        fan_ins=tuple(task for task in fan_ins if task.state in CLEARABLE),
    )


def _notes_on_reuse(no_reuse: bool, group_ids: Collection[str]) -> Iterator[str]:
    if group_ids:
        yield f"all items of {listing(group_ids)} run again, whatever is stored; the run's conf will say so"
    elif no_reuse:
        yield "--no-reuse changes nothing: there is no group with reuse among these"


def _all_anew(facts: RunFacts, run: GroupRun, group: DeclaredGroup) -> GroupRerun | None:
    """
    Let all of a group run again whose items' task has yielded others since; None if there is no need to.

    Only the task ``split`` can make batches, or instances, of these. Where nobody but a fan-in can tell which
    there are now, there is need if that has failed.
    """
    if group.group_id not in facts.cut_before:
        return None
    split_id = group.prefix + SPLIT
    fan_ins = tuple(task for task in facts.find(run.fan_in_ids, run.map_index) if task.state in CLEARABLE)
    is_needed = any(branch.state not in {"success", "removed"} for branch in run.relocated)
    if group.items_from == split_id or group.group_id not in facts.yielded:
        is_needed = any(fan_in.state in FAILED for fan_in in fan_ins)
    if not is_needed:
        return None
    branches = [(b, tuple(task for task in b.task_runs if task.state in CLEARABLE)) for b in run.ran]
    return GroupRerun(
        run=run,
        branches=tuple(BranchRerun(branch=b, task_runs=task_runs) for b, task_runs in branches if task_runs),
        unexpanded=(*facts.find([split_id], -1), *facts.find(group.each, -1)),
        fan_ins=fan_ins,
        is_anew=True,
    )


def _is_cut_otherwise(facts: RunFacts, group: DeclaredGroup) -> bool:
    """Whether the declared items of batches are no longer as many as were cut."""
    bounds = facts.bounds.get(group.prefix + SPLIT)
    if (reuse := facts.reuse.get(group.prefix + SPLIT)) is not None:
        return group.count not in {None, reuse.total}
    return bounds is not None and group.count not in {None, bounds[-1][1] if bounds else 0}


def _moved(run: GroupRun) -> Collection[str]:
    """
    Names of the branches that have to run in the place of others.

    What runs there now takes the place, and the value, of what had run there, which then runs in its own.
    """
    others = {branch.name: branch for branch in run.relocated if branch.state != "removed"}
    names = {name for name, branch in others.items() if branch.state != "success"}
    while True:
        taken = {task_run.key for name in names for task_run in others[name].would_run or ()}
        displaced = {name for name, b in others.items() if any(each.key in taken for each in b.task_runs)}
        if displaced <= names:
            return names
        names |= displaced


def _branches(run: GroupRun, moved: Collection[str], whole_branches: bool) -> Iterator[BranchRerun]:
    reruns = [
        BranchRerun(branch=branch, task_runs=_task_runs(branch, moved, whole_branches))
        for branch in run.branches
    ]
    # Airflow makes the instances that a mapped task lacks when one that it has runs again.
    is_expanded_again = any(again.task_runs for again in reruns)
    for again in reruns:
        if again.task_runs or (is_expanded_again and again.branch.would_run == ()):
            yield again


def _task_runs(branch: BranchRun, moved: Collection[str], whole_branches: bool) -> tuple[TaskRun, ...]:
    """Task instances of a branch to clear."""
    if branch.name in moved:
        # Airflow does not run again by itself what it removed when there were fewer items.
        return tuple(task for task in branch.would_run or () if task.state in FINISHED)
    if branch.state in {"success", "removed"}:
        return ()
    states = CLEARABLE if whole_branches else UNSUCCESSFUL
    # Of a branch that succeeded without a value the last task alone can make one.
    last = branch.task_runs[-1:] if branch.state == "missing" else ()
    return tuple(task for task in branch.task_runs if task.state in states or task in last)


def _batches(run: GroupRun, moved: Collection[str]) -> Iterator[BranchRerun]:
    without_success, unfinished = Counter[Key](), set[Key]()
    if isinstance(run.branches, ItemRuns):
        for column in run.branches.batches:
            without_success[column.task_run.key] = len(column) - column.states["success"]
            if column.stopped or column.states["missing"]:
                unfinished.add(column.task_run.key)
    else:
        for item in run.branches:
            places = item.task_runs if item.would_run is None else item.would_run
            for place in places[:1] if item.state != "removed" else ():
                without_success[place.key] += item.state != "success"
                if item.is_stopped or item.state == "missing" or item.name in moved:
                    unfinished.add(place.key)
    for batch in run.batches or ():
        (task_run,) = batch.task_runs
        # A batch succeeds even if all its items were stopped, and if somebody marks it so.
        is_unfinished = task_run.state in {"success", "removed"} and task_run.key in unfinished
        if task_run.state in UNSUCCESSFUL or is_unfinished:
            items = without_success[task_run.key]
            yield BranchRerun(branch=batch, task_runs=(task_run,), items=items)


def _beside(facts: RunFacts, task_id: str, other: TaskRun) -> Iterator[TaskRun]:
    """Instances of a task that belong to one of another: in the same mapped task group that of its index."""
    tasks = facts.outline.tasks
    around = tasks[other.task_id].mapped_group
    is_together = around is not None and other.map_index >= 0 and tasks[task_id].mapped_group == around
    for index, task_run in facts.by_task.get(task_id, {}).items():
        if not is_together or index == other.map_index:
            yield task_run


def _related_instances(
    facts: RunFacts, task_runs: Iterable[TaskRun], related: Callable[[str], Collection[str]]
) -> Iterator[TaskRun]:
    """Instances of the tasks related to those of others, as far as they can be cleared."""
    related_ids = cache(related)
    for task_run in task_runs:
        for task_id in sorted(related_ids(task_run.task_id)):
            beside = _beside(facts, task_id, task_run)
            yield from (instance for instance in beside if instance.state in CLEARABLE)


def _causes(
    facts: RunFacts, blocked: Iterable[TaskRun], taken: Collection[Key]
) -> tuple[tuple[TaskRun, ...], tuple[TaskRun, ...]]:
    """
    Find what keeps task instances from running, beside what is taken: the causes, and what stands between.

    The way up leads over what did not succeed. A task that was skipped stands between only if it comes after
    something that failed: there are trigger rules that skip then.
    """
    unsuccessful: dict[Key, TaskRun] = {}
    followers: dict[Key, set[Key]] = {}
    to_do = list(blocked)
    while to_do:
        task_run = to_do.pop()
        for task_id in facts.outline.tasks[task_run.task_id].upstream:
            for before in _beside(facts, task_id, task_run):
                if before.key in taken or before.state not in UNSUCCESSFUL:
                    continue
                if before.key not in unsuccessful:
                    unsuccessful[before.key] = before
                    to_do.append(before)
                followers.setdefault(before.key, set()).add(task_run.key)
    failed = {key for key, task_run in unsuccessful.items() if task_run.state in FAILED}
    following: set[Key] = set()
    spreading = list(failed)
    while spreading:
        later = (followers[spreading.pop()] & unsuccessful.keys()) - following
        following |= later
        spreading += later
    causes, between = sorted(failed - following), sorted(following)
    return tuple(unsuccessful[key] for key in causes), tuple(unsuccessful[key] for key in between)


def _notes(facts: RunFacts, groups: Iterable[GroupRerun]) -> Iterator[str]:
    if not facts.outline.groups and not facts.outline.fan_ins:
        yield f"Dag {facts.dag_id!r} has no fan-out and no fan-in"
    for group in groups:
        yield from (f"{group.run.title}: {note}" for note in _group_notes(facts, group))
    for fan_in in facts.outline.fan_ins:
        if fan_in.group_id is None and facts.prefix_of(fan_in) is None:
            cause = "was not rendered in this run, or is no longer stored as rendered"
            prefix = f"its prefix {fan_in.task_id_prefix!r} {cause}"
            yield f"{fan_in.task_id}: its branches are not known, because {prefix}"


def _group_notes(facts: RunFacts, group: GroupRerun) -> Iterator[str]:
    again = {branch.branch.name: branch.branch.state for branch in group.branches}
    ended = {*FINISHED, "missing"}
    others = (branch for branch in group.run.ran if branch.name not in again and branch.state not in ended)
    if unended := [f"{shortened(branch.name)} ({branch.state})" for branch in others]:
        yield f"not cleared, because they have not ended: {listing(unended, limit=10)}"
    fan_ins = facts.find(group.run.fan_in_ids, group.run.map_index)
    late = [
        f"{fan_in.name} ({fan_in.state or WAITING})" for fan_in in fan_ins if fan_in.state not in FINISHED
    ]
    if late and group.task_runs:
        warning = "if they have started, they may not see the branches that run again"
        yield f"not cleared, because they have not ended: {listing(late)}; {warning}"
    if group.is_anew:
        yield "its items' task has run again by itself, so all of it runs again, with what cuts the items"
        return
    moved = _moved(group.run)
    if without := [
        shortened(name) for name, state in again.items() if state == "missing" and name not in moved
    ]:
        yield f"succeeded without a value, so their last task runs again: {listing(without)}"
    by_name = {branch.name: branch for branch in group.run.relocated}
    if displaced := [
        shortened(name) for name in by_name if name in moved and by_name[name].state == "success"
    ]:
        text = "succeeded, and run again, because the Dag, or its items, changed"
        yield f"{text}, and others run in their place: {listing(displaced)}"
    unmade = [name for name, b in by_name.items() if b.would_run == () and name not in again]
    if lacking := list(map(shortened, unmade)):
        text = "have no task instance: Airflow makes it when one of the others runs again"
        yield f"{text}: {listing(lacking)}"
    if batches := [
        shortened(name) for name, state in again.items() if state == "success" and name not in moved
    ]:
        text = "succeeded, but with items that were stopped or have no value"
        yield f"{text}, and may run all of their items again: {listing(batches)}"


def fingerprint(plan: RerunPlan) -> str:
    """
    Tell plans apart: the same for two that clear the same tries of the same task instances of a run.

    What was ``upstream_failed`` twice has the same try; the moment at which it ended tells these apart.
    """
    cleared = sorted(
        (*run.key, run.state or "", run.tries, "" if run.ended is None else run.ended.isoformat())
        for run in plan.with_causes
    )
    return hashlib.sha256(json.dumps([plan.dag_id, plan.run_id, cleared]).encode()).hexdigest()


def plan_as_json(plan: RerunPlan, done: Clearing | None = None) -> dict[str, Any]:
    """Say for programs what a plan clears, and what came of it if it was carried out."""
    cleared, changed = ((), ()) if done is None else (done.cleared, done.changed)
    parts = {**vars(plan), "cleared": cleared, "changed_meanwhile": changed}
    return {name: _as_json(part) for name, part in parts.items()}


def _as_json(part: Any) -> Any:
    match part:
        case tuple():
            return [_as_json(each) for each in part]
        case TaskRun():
            return {"task_id": part.task_id, "map_index": part.map_index, "state": part.state}
        case GroupRerun():
            names = ("branches", "unexpanded", "fan_ins")
            return {"group": part.run.title, **{name: _as_json(getattr(part, name)) for name in names}}
        case BranchRerun(branch=branch, task_runs=task_runs):
            error = shown_error(branch.error)
            found = {"name": shown_name(branch.name), "state": branch.state, "error": error}
            return {**found, "stopped": branch.is_stopped, "task_instances": _as_json(task_runs)}
    return part
