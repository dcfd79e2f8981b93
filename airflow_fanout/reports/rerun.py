"""A run's branches -> what has to be cleared for all of them to succeed."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.branches import chosen_group_runs
from airflow_fanout.rules.instances import FINISHED
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

    from airflow_fanout.reports.runs import BranchRun, GroupRun, RunFacts, TaskRun


__all__ = [
    "BranchRerun",
    "GroupRerun",
    "RerunPlan",
    "causes_before",
    "fingerprint",
    "plan_as_json",
    "plan_rerun",
]

FAILED = frozenset({"failed", "upstream_failed"})

NO_SUCCESS = FAILED | {"skipped"}

CLEARABLE = FINISHED - {"removed"}
"""States that clearing changes; whatever is in another one is on its way, or no longer declared."""

Key = tuple[str, int]


@dataclass(frozen=True, kw_only=True)
class BranchRerun:
    """
    A branch, or batch, that runs again.

    :param branch: What became of it.
    :param task_runs: Its task instances to clear.
    :param items: Number of items of it that aren't a success; None if it is no batch.
    """

    branch: BranchRun
    task_runs: tuple[TaskRun, ...]
    items: int | None = None


@dataclass(frozen=True, kw_only=True)
class GroupRerun:
    """
    What runs again of one group.

    :param title: The group, as :class:`~airflow_fanout.reports.runs.GroupRun` has it.
    :param total: Number of its branches, or batches.
    :param is_batched: Whether these are batches.
    :param branches: Those that run again.
    :param unexpanded: Its mapped tasks to clear, if it never was expanded.
    :param fan_ins: Its fan-ins to clear.
    """

    title: str
    total: int
    is_batched: bool = False
    branches: tuple[BranchRerun, ...] = ()
    unexpanded: tuple[TaskRun, ...] = ()
    fan_ins: tuple[TaskRun, ...] = ()

    @property
    def task_runs(self) -> tuple[TaskRun, ...]:
        """All its instances to clear."""
        its = (each for branch in self.branches for each in branch.task_runs)
        return (*its, *self.unexpanded, *self.fan_ins)


@dataclass(frozen=True, kw_only=True)
class RerunPlan:
    """
    What has to be cleared in one run.

    :param dag_id: Id of the Dag.
    :param run_id: Id of the run.
    :param run_state: State of the run.
    :param groups: The groups of which something runs again.
    :param downstream: What comes after the fan-ins.
    :param scaffolding: The setups and teardowns of all these, and of the causes.
    :param causes: Failed tasks before the branches, without which these could only fail again.
    :param between: What did not succeed between the causes and the branches.
    :param notes: What is left alone, and what else there is to know; a sentence each.
    """

    dag_id: str
    run_id: str
    run_state: str
    groups: tuple[GroupRerun, ...] = ()
    downstream: tuple[TaskRun, ...] = ()
    scaffolding: tuple[TaskRun, ...] = ()
    causes: tuple[TaskRun, ...] = ()
    between: tuple[TaskRun, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def task_runs(self) -> tuple[TaskRun, ...]:
        """All instances to clear, once each, causes aside."""
        of_groups = (each for group in self.groups for each in group.task_runs)
        return tuple(_by_key([*of_groups, *self.downstream, *self.scaffolding]).values())

    @property
    def with_causes(self) -> tuple[TaskRun, ...]:
        """All instances to clear, once each, causes first."""
        return (*self.causes, *self.between, *self.task_runs)


def plan_rerun(
    facts: RunFacts,
    *,
    group_ids: Collection[str] | None = None,
    downstream: bool = True,
    whole_branches: bool = False,
) -> RerunPlan:
    """
    Find out what has to be cleared.

    That is, of each branch that isn't a success, every task instance that isn't: failed, upstream_failed,
    skipped or stopped. Of a branch that succeeded and has no value it is the last task. A batch runs again as
    one task, which does what it had not done. Then the fan-ins, everything downstream of them, the setups and
    teardowns of all these, as when Airflow clears. A fan-in that failed by itself runs again too. Instances
    that are on their way are left alone, and so is what is no longer declared.

    :param facts: The run.
    :param group_ids: Groups to look at, by their ids or titles; None for all.
    :param downstream: Whether to clear what comes after the fan-ins, too.
    :param whole_branches: Whether to clear all tasks of these branches, those that succeeded, too: what a
        first task has fetched may be what a later one failed over.
    :raises UnknownGroupError: If the run has no such group.
    """
    runs = chosen_group_runs(facts, group_ids)
    fan_ins = [_fan_ins(facts, run) for run in runs]
    groups = [_group(facts, run, its, whole_branches) for run, its in zip(runs, fan_ins, strict=True)]
    of_groups = _by_key(each for group in groups for each in group.task_runs)
    after: dict[Key, TaskRun] = {}
    if downstream:
        started = [
            each for group, its in zip(groups, fan_ins, strict=True) if group.task_runs for each in its
        ]
        after = _by_key(_after(facts, started))
    blocked = [
        *(each for each in of_groups.values() if each.state == "upstream_failed"),
        *(each for group in groups for each in (*group.unexpanded, *group.fan_ins) if each.state in FAILED),
    ]
    taken = of_groups | after
    causes, between = _before(facts, blocked, taken)
    return RerunPlan(
        dag_id=facts.dag_id,
        run_id=facts.run_id,
        run_state=facts.state,
        groups=tuple(group for group in groups if group.task_runs),
        # A group may come after another one's fan-in.
        downstream=tuple(each for key, each in after.items() if key not in of_groups),
        scaffolding=tuple(_scaffolding(facts, taken | _by_key([*causes, *between]))),
        causes=causes,
        between=between,
        notes=tuple(_notes(facts, runs, groups, fan_ins)),
    )


def causes_before(facts: RunFacts, run: GroupRun) -> tuple[TaskRun, ...]:
    """
    Find the failed tasks before a group's branches that kept some of them from starting.

    :param facts: The run.
    :param run: The group.
    """
    its = [each for branch in run.ran for each in branch.task_runs]
    if run.unexpanded is not None:
        its.append(run.unexpanded)
    blocked = [each for each in its if each.state == "upstream_failed"]
    causes, _ = _before(facts, blocked, {_key(each) for each in its})
    return causes


def _key(each: TaskRun) -> Key:
    return each.task_id, each.map_index


def _by_key(task_runs: Iterable[TaskRun]) -> dict[Key, TaskRun]:
    return {_key(each): each for each in task_runs}


def _fan_ins(facts: RunFacts, run: GroupRun) -> list[TaskRun]:
    """Fan-ins of a group; inside a mapped task group those of its own index."""
    found = (facts.by_task.get(task_id, {}).get(run.map_index) for task_id in run.fan_in_ids)
    return [each for each in found if each is not None]


def _group(facts: RunFacts, run: GroupRun, fan_ins: Iterable[TaskRun], whole: bool) -> GroupRerun:
    branches = tuple(_batches(run) if run.batches is not None else _branches(run, whole))
    unexpanded: tuple[TaskRun, ...] = ()
    if run.group is not None and run.unexpanded is not None and run.unexpanded.state in FAILED:
        tasks = (facts.by_task.get(task_id, {}).get(-1) for task_id in run.group.each)
        unexpanded = tuple(each for each in tasks if each is not None and each.state in NO_SUCCESS)
    again = CLEARABLE if branches or unexpanded else FAILED
    return GroupRerun(
        title=run.title,
        total=len(run.ran),
        is_batched=run.batches is not None,
        branches=branches,
        unexpanded=unexpanded,
        fan_ins=tuple(each for each in fan_ins if each.state in again),
    )


def _branches(run: GroupRun, whole: bool) -> Iterator[BranchRerun]:
    for branch in run.branches:
        if branch.state == "success":
            continue
        # One that succeeded and has no value can get it from its last task alone.
        last = branch.task_runs[-1:] if branch.state == "missing" else ()
        states = CLEARABLE if whole else NO_SUCCESS
        its = [each for each in branch.task_runs if each.state in states or each in last]
        if its:
            yield BranchRerun(branch=branch, task_runs=tuple(its))


def _batches(run: GroupRun) -> Iterator[BranchRerun]:
    # A batch succeeds as well if all its items were stopped, and if somebody says so.
    unfinished: Counter[Key] = Counter()
    open_: set[Key] = set()
    for item in run.branches:
        key = _key(item.task_runs[0])
        unfinished[key] += item.state != "success"
        if item.is_stopped or item.state == "missing":
            open_.add(key)
    for batch in run.batches or ():
        (each,) = batch.task_runs
        if each.state in NO_SUCCESS or (each.state == "success" and _key(each) in open_):
            yield BranchRerun(branch=batch, task_runs=(each,), items=unfinished[_key(each)])


def _beside(facts: RunFacts, task_id: str, each: TaskRun) -> Iterator[TaskRun]:
    """Instances of a task that belong to one of another: in the same mapped task group that of its index."""
    tasks = facts.outline.tasks
    within = tasks[each.task_id].mapped_group
    together = within is not None and each.map_index >= 0 and tasks[task_id].mapped_group == within
    for at, found in facts.by_task.get(task_id, {}).items():
        if not together or at == each.map_index:
            yield found


def _after(facts: RunFacts, fan_ins: Iterable[TaskRun]) -> Iterator[TaskRun]:
    """Everything downstream of fan-ins, at any distance."""
    later: dict[str, set[str]] = {}
    for fan_in in fan_ins:
        if fan_in.task_id not in later:
            later[fan_in.task_id] = facts.outline.downstream_of(fan_in.task_id)
        for task_id in sorted(later[fan_in.task_id]):
            yield from (each for each in _beside(facts, task_id, fan_in) if each.state in CLEARABLE)


def _before(
    facts: RunFacts, blocked: Iterable[TaskRun], taken: Collection[Key]
) -> tuple[tuple[TaskRun, ...], tuple[TaskRun, ...]]:
    """
    Find what keeps task instances from running: the causes, and what stands between.

    The way up leads over what did not succeed. A task that was skipped stands between only if it comes after
    something that failed: there are trigger rules that skip then.

    :param facts: The run.
    :param blocked: The task instances.
    :param taken: What is cleared anyway.
    """
    found: dict[Key, TaskRun] = {}
    next_after: dict[Key, set[Key]] = {}
    to_do = list(blocked)
    while to_do:
        each = to_do.pop()
        for task_id in facts.outline.tasks[each.task_id].upstream:
            for before in _beside(facts, task_id, each):
                key = _key(before)
                if key in taken or before.state not in NO_SUCCESS:
                    continue
                if key not in found:
                    found[key] = before
                    to_do.append(before)
                next_after.setdefault(key, set()).add(_key(each))
    kept = {key for key, each in found.items() if each.state in FAILED}
    following: set[Key] = set()
    spreading = list(kept)
    while spreading:
        later = next_after[spreading.pop()] & found.keys()
        spreading += later - kept
        following |= later
        kept |= later
    return (
        tuple(each for key, each in sorted(found.items()) if key in kept - following),
        tuple(each for key, each in sorted(found.items()) if key in following),
    )


def _scaffolding(facts: RunFacts, taken: Mapping[Key, TaskRun]) -> Iterator[TaskRun]:
    """
    Find the setups and teardowns that cleared tasks need, as Airflow's own clear does.

    A setup belongs to a task if one of its teardowns comes after that, or if it has none; its teardowns come
    with it.
    """
    outline = facts.outline
    if not any(task.is_setup for task in outline.tasks.values()):
        return
    of_task: dict[str, set[str]] = {}
    done = set(taken)
    for each in taken.values():
        task = outline.tasks[each.task_id]
        if task.is_setup or task.is_teardown:
            continue
        if each.task_id not in of_task:
            of_task[each.task_id] = _scaffold_ids(facts, each.task_id)
        for task_id in sorted(of_task[each.task_id]):
            for found in _beside(facts, task_id, each):
                if _key(found) not in done and found.state in CLEARABLE:
                    done.add(_key(found))
                    yield found


def _scaffold_ids(facts: RunFacts, task_id: str) -> set[str]:
    outline = facts.outline
    later = outline.downstream_of(task_id)
    found: set[str] = set()
    for setup in outline.upstream_of(task_id):
        if outline.tasks[setup].is_setup:
            teardowns = {
                after for after in outline.tasks[setup].downstream if outline.tasks[after].is_teardown
            }
            if not teardowns or teardowns & later:
                found |= {setup, *teardowns}
    return found


def _notes(
    facts: RunFacts,
    runs: Iterable[GroupRun],
    groups: Iterable[GroupRerun],
    fan_ins: Iterable[Iterable[TaskRun]],
) -> Iterator[str]:
    if not facts.outline.groups and not facts.outline.fan_ins:
        yield f"Dag {facts.dag_id!r} has no fan-out and no fan-in"
    for run, group, its in zip(runs, groups, fan_ins, strict=True):
        again = {each.branch.name for each in group.branches}
        underway = {
            branch.name: branch.state
            for branch in run.ran
            if branch.state not in (*FINISHED, "missing") and branch.name not in again
        }
        if underway:
            yield f"{run.title}: on their way, left alone: {_with_states(underway)}"
        late = {each.name: each.state or "waiting" for each in its if each.state not in FINISHED}
        if late and group.task_runs:
            yield (
                f"{run.title}: on their way, left alone: {_with_states(late)}; what had started may not see "
                "the branches that run again"
            )
        without = [each.branch.name for each in group.branches if each.branch.state == "missing"]
        if without:
            yield f"{run.title}: succeeded but have no value, their last task runs again: {listing(without)}"
        whole = [each.branch.name for each in group.branches if each.branch.state == "success"]
        if whole:
            yield (
                f"{run.title}: succeeded, but have items that were stopped or have no value, and may run all "
                f"of their items again: {listing(whole)}"
            )
    for fan_in in facts.outline.fan_ins:
        if fan_in.group_id is None and facts.prefix_of(fan_in) is None:
            yield (
                f"{fan_in.task_id}: its branches are not known, because its prefix "
                f"{fan_in.task_id_prefix!r} was not rendered in this run, or that is no longer stored"
            )


def _with_states(states: Mapping[str, str], limit: int = 10) -> str:
    said = [f"{name!r} ({state})" for name, state in states.items()]
    more = f" and {len(said) - limit} more" if len(said) > limit else ""
    return ", ".join(said[:limit]) + more


def fingerprint(plan: RerunPlan) -> str:
    """
    Tell plans apart: the same for two that clear the same task instances in the same states.

    :param plan: The plan.
    """
    cleared = sorted((each.task_id, each.map_index, each.state or "") for each in plan.with_causes)
    return hashlib.sha256(json.dumps(cleared).encode()).hexdigest()


def plan_as_json(
    plan: RerunPlan, *, cleared: Sequence[TaskRun] = (), changed: Sequence[TaskRun] = ()
) -> dict[str, Any]:
    """
    Say what a plan clears, for programs.

    :param plan: The plan.
    :param cleared: The task instances that were cleared.
    :param changed: Those whose state was another one by then, and that were left alone.
    """
    return {
        "dag_id": plan.dag_id,
        "run_id": plan.run_id,
        "run_state": plan.run_state,
        "groups": [
            {
                "group": group.title,
                "branches": [
                    {
                        "name": again.branch.name,
                        "state": again.branch.state,
                        "stopped": again.branch.is_stopped,
                        "error": again.branch.error,
                        "task_instances": _instances(again.task_runs),
                    }
                    for again in group.branches
                ],
                "unexpanded": _instances(group.unexpanded),
                "fan_ins": _instances(group.fan_ins),
            }
            for group in plan.groups
        ],
        "downstream": _instances(plan.downstream),
        "setups_and_teardowns": _instances(plan.scaffolding),
        "causes": _instances(plan.causes),
        "between": _instances(plan.between),
        "notes": list(plan.notes),
        "cleared": _instances(cleared),
        "changed_meanwhile": _instances(changed),
    }


def _instances(task_runs: Sequence[TaskRun]) -> list[dict[str, Any]]:
    return [{"task_id": each.task_id, "map_index": each.map_index, "state": each.state} for each in task_runs]
