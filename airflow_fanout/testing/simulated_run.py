"""What an author tells of a run -> what a fan-in would find of it; runs in the author's tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.accounting import Found
from airflow_fanout.execution_time.batched import BatchNaming
from airflow_fanout.execution_time.mapped import InstanceNaming
from airflow_fanout.execution_time.recording import redacted_error
from airflow_fanout.execution_time.results import FanInResults, ReadyPage
from airflow_fanout.execution_time.stopping import failed_names, why_item_stopped, why_stopped
from airflow_fanout.execution_time.wiring import before_expansion, no_branches, of_this_package
from airflow_fanout.rules.instances import InstanceState
from airflow_fanout.rules.names import indexed_names, instance_name
from airflow_fanout.rules.outcomes import BranchOutcome, why_missing
from airflow_fanout.rules.policy import FAILED_STATES, STATES
from airflow_fanout.rules.records import NO_EXCEPTION_RECORDED, STOPPED
from airflow_fanout.rules.wording import listing, typed
from airflow_fanout.serialization.tasks import nearest_mapped_group
from airflow_fanout.testing.branch_counts import Numbers, ToldCount, ToldNames

if TYPE_CHECKING:
    from airflow_fanout.execution_time.sources import Source
    from airflow_fanout.operators.fan_in import FanInOperator
    from airflow_fanout.rules.policy import State
    from airflow_fanout.serialization.declaration import DeclaredGroup


__all__ = ["Outcome", "ToldRun"]

Outcome = str | Exception
"""What became of a branch or task: a state, or the exception that it raised."""

TASK_STATES = ("success", "failed", "upstream_failed", "skipped")

BRANCH_STATES = (*STATES, STOPPED)


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """A branch of the run, with the instance that its value would come from."""

    name: str
    source: Source
    group: DeclaredGroup | None
    map_index: int
    told: Outcome


class ToldRun:
    """
    A run as its author tells it.

    :param fan_in: The fan-in.
    :param sources: What it collects, in order.
    :param map_index: Its own index in a mapped task group; -1 outside of one.
    :param outcomes: What became of branches by name, and of other tasks by id.
    :param values: What branches returned, by name.
    :raises DeclarationTypeError: If one of these is no mapping.
    """

    def __init__(
        self,
        fan_in: FanInOperator,
        sources: Sequence[Source],
        map_index: int,
        outcomes: Mapping[str, Outcome],
        values: Mapping[str, Any],
    ) -> None:
        self._owner = f"simulate({fan_in.task_id!r})"
        for argument, given in (("outcomes", outcomes), ("values", values)):
            if not isinstance(given, Mapping):
                problem = f"expected a dict by the names of branches, found {typed(given)}"
                raise DeclarationTypeError(self._owner, argument, problem)
        self._fan_in, self._sources, self._map_index = fan_in, sources, map_index
        self._outcomes, self._values = outcomes, values
        self._helpers, self._declared = of_this_package(fan_in)
        self._before = {source.task_id: self._expanded_after(source) for source in sources if source.mapped}

    def found(self, count: ToldCount | None, names: ToldNames | None) -> Found:
        """
        Make what the fan-in would find.

        :param count: How many branches there are, where only a run knows.
        :param names: Or their names.
        :raises DeclarationValueError: If there can be no such run.
        :raises DeclarationTypeError: If an outcome, a count or a name is of the wrong type.
        """
        for task_id, outcome in self._told_tasks.items():
            self._check_outcome(task_id, outcome, TASK_STATES)
        branches = self._branches(count, names)
        self._check_branches(branches)
        states = self._states(branches)
        self._refuse_what_ends_the_run(states)
        reasons = self._reasons(branches, states)
        page = ReadyPage(
            [self._outcome_of(branch, index, reasons) for index, branch in enumerate(branches.values())],
            stopped=sum(branch.told == STOPPED for branch in branches.values()),
        )
        return Found(
            sources=self._sources,
            map_index=self._map_index,
            states=states,
            results=FanInResults([page] if branches else []),
        )

    def _expanded_after(self, source: Source) -> set[str]:
        """Ids of the tasks that keep a mapped one from being expanded if they fail."""
        task: Any = self._fan_in.dag.get_task(source.task_id)
        around = next(task.task_group.iter_mapped_task_groups(), None) if task.task_group else None
        if not any(True for _ in (around or task).iter_mapped_dependencies()):
            return set()  # over a literal, Airflow has expanded it before the run begins
        return {
            upstream.task_id
            for each, upstream in before_expansion(self._fan_in, source.task_id)
            if each.trigger_rule == "all_success"
        }

    @cached_property
    def _tasks(self) -> set[str]:
        """Ids of the tasks that may be told of: what is no branch, and what comes before an expansion."""
        before = {task_id for its in self._before.values() for task_id in its}
        for task_id in before & self._helpers.keys():
            before |= self._fan_in.dag.get_task(task_id).upstream_task_ids
        return before | {task.task_id for task in no_branches(self._fan_in, self._sources)}

    @cached_property
    def _told_tasks(self) -> Mapping[str, Outcome]:
        """What is told of tasks that are no branches."""
        return {key: outcome for key, outcome in self._outcomes.items() if key in self._tasks}

    def _state_of(self, task_id: str) -> str:
        """State of a task that is no branch, in Airflow's words."""
        if task_id in self._told_tasks:
            return _airflow_state(self._told_tasks[task_id])
        if task_id in self._helpers:
            return self._state_after(self._fan_in.dag.get_task(task_id).upstream_task_ids)
        return "success"

    def _state_after(self, task_ids: set[str]) -> str:
        """State of a task that runs if all of these succeeded, and succeeds then."""
        states = {self._state_of(task_id) for task_id in task_ids}
        if states & FAILED_STATES:
            return "upstream_failed"
        return "skipped" if "skipped" in states else "success"

    def _expansion(self, source: Source) -> str:
        """``success`` if a mapped task is expanded, or else its state."""
        return self._state_after(self._before[source.task_id])

    def _group_of(self, source: Source) -> DeclaredGroup | None:
        group = self._fan_in.group
        return group if group is not None else self._declared.get(source.task_id, (None,))[0]

    def _branches(self, count: ToldCount | None, names: ToldNames | None) -> dict[str, _Branch]:
        """Every branch by name, in order."""
        # Of a foreign mapped task, Airflow keeps to itself how many instances it has, even over a literal.
        unknown: dict[str, Source] = {}
        for source in self._sources:
            group = self._group_of(source)
            if source.mapped and (source.naming is None or group is None):
                unknown[source.task_id] = source
            elif source.mapped and group is not None and group.count is None:
                unknown[group.group_id] = source
        unexpanded = {key for key, source in unknown.items() if self._expansion(source) != "success"}
        told = Numbers(owner=self._owner, unknown=unknown, unexpanded=unexpanded).told(count, names)
        numbers = {unknown[key].task_id: number for key, number in told.items()}
        return {
            name: _Branch(
                name=name,
                source=source,
                group=self._group_of(source),
                map_index=map_index,
                told=self._outcomes.get(name, "success"),
            )
            for source in self._sources
            for name, map_index in self._names(source, numbers.get(source.task_id))
        }

    def _names(
        self, source: Source, told: tuple[int, Sequence[str] | None] | None
    ) -> Iterator[tuple[str, int]]:
        """Name and map index of each branch of a source; what is told is how many, and maybe the names."""
        if not source.mapped:
            yield source.name, source.map_index
            return
        if self._expansion(source) != "success":
            return
        group, naming = self._group_of(source), source.naming
        number, names = told or (0, None)
        if told is None and group is not None:
            number, names = group.count or 0, group.names
        if isinstance(naming, BatchNaming) and group is not None:
            for place, name in enumerate(names or indexed_names(naming.label, number)):
                yield naming.prefix + name, place // (group.items_per_task or 1)
        elif isinstance(naming, InstanceNaming) and naming.label is not None:
            yield from ((name, at) for at, name in enumerate(names or indexed_names(naming.label, number)))
        else:
            yield from ((instance_name(source.name, at), at) for at in range(number))

    def _check_branches(self, branches: Mapping[str, _Branch]) -> None:
        if both := branches.keys() & self._told_tasks.keys():
            problem = f"{listing(both)} is the name of a branch and the id of a task that is none; rename one"
            self._refuse("outcomes", problem)
        if unknown := self._outcomes.keys() - self._told_tasks.keys() - branches.keys():
            tasks = self._tasks - self._helpers.keys()
            also = f"; other tasks: {listing(tasks)}" if tasks else ""
            problem = f"no branch is named {listing(unknown)}; branches: {listing(branches)}{also}"
            if earlier := unknown & self._fan_in.get_flat_relative_ids(upstream=True):
                problem += (
                    f"; to say that {listing(earlier)} fails, which comes before the branches, give those "
                    "after it 'upstream_failed'"
                )
            self._refuse("outcomes", problem)
        if unknown := self._values.keys() - branches.keys():
            problem = f"no branch is named {listing(unknown)}; branches: {listing(branches)}"
            self._refuse("values", problem)
        for branch in branches.values():
            self._check_outcome(branch.name, branch.told, BRANCH_STATES)
            if branch.told == STOPPED and not branch.source.stoppable:
                problem = f"{branch.name!r} can't be stopped: its group has no stop_after_failures="
                self._refuse("outcomes", problem)
            if branch.told != "success" and branch.name in self._values:
                said = repr(branch.told) if isinstance(branch.told, str) else type(branch.told).__name__
                self._refuse("values", f"{branch.name!r} has no value, for its outcome is {said}")

    def _check_outcome(self, name: str, told: object, states: Sequence[str]) -> None:
        if isinstance(told, Exception):
            return
        expected = f"expected {', '.join(map(repr, states))} or an exception"
        if not isinstance(told, str):
            hint = "; make one: ValueError()" if isinstance(told, type) else ""
            problem = f"{name!r}: {expected}, found {typed(told)}{hint}"
            raise DeclarationTypeError(self._owner, "outcomes", problem)
        if told not in states:
            self._refuse("outcomes", f"{name!r}: {expected}, found {told!r}")

    def _states(self, branches: Mapping[str, _Branch]) -> dict[tuple[str, int], InstanceState]:
        """State of every task instance that the fan-in could ask of."""
        states: dict[tuple[str, int], str] = {}
        for task_id in self._tasks:
            inside = nearest_mapped_group(self._fan_in.dag.get_task(task_id).task_group) is not None
            states[task_id, self._map_index if inside else -1] = self._state_of(task_id)
        expanded = {branch.source.task_id for branch in branches.values()}
        for source in self._sources:
            if source.mapped and source.task_id not in expanded:
                state = self._expansion(source)
                # Over nothing, Airflow skips it.
                states[source.task_id, -1] = "skipped" if state == "success" else state
        for branch in branches.values():
            place = (branch.source.task_id, branch.map_index)
            state = _airflow_state(branch.told)
            if isinstance(branch.source.naming, BatchNaming):  # a batch fails with one of its items
                state = state if state in FAILED_STATES else states.get(place, "success")
            states[place] = state
        return {at: InstanceState(state=state, duration=None, operator=None) for at, state in states.items()}

    def _refuse_what_ends_the_run(self, states: Mapping[tuple[str, int], InstanceState]) -> None:
        """Refuse what keeps a fan-in from running in a Dag that fails fast."""
        if self._fan_in.trigger_rule != "all_success":
            return
        for (task_id, _), found in states.items():
            if found.state in {*FAILED_STATES, "skipped"}:
                problem = (
                    f"{task_id!r} is {found.state}, and in a fail_fast Dag the fan-in runs only if all "
                    "before it succeeded: Airflow fails or skips it, and nothing is decided here"
                )
                self._refuse("outcomes", problem)

    def _reasons(
        self, branches: Mapping[str, _Branch], states: Mapping[tuple[str, int], InstanceState]
    ) -> dict[str, str]:
        """Why the stopped branches of a group were not let start, by the group's id."""
        reasons: dict[str, str] = {}
        for branch in branches.values():
            group = branch.group
            if branch.told != STOPPED or group is None or group.group_id in reasons:
                continue
            if group.mode == "batched":
                fates = [_airflow_state(each.told) for each in branches.values() if each.group is group]
                failures, reasons[group.group_id] = fates.count("failed"), why_item_stopped(group)
            else:
                failed = failed_names(states, group, self._map_index)
                failures, reasons[group.group_id] = len(failed), why_stopped(group, failed)
            if failures < (group.stop_after_failures or 0):
                problem = (
                    f"{branch.name!r} can't have been stopped after {failures} failures: group "
                    f"{group.group_id!r} has stop_after_failures={group.stop_after_failures}"
                )
                self._refuse("outcomes", problem)
        return reasons

    def _outcome_of(self, branch: _Branch, index: int, reasons: Mapping[str, str]) -> BranchOutcome:
        state: State
        error: str | None = None
        match branch.told:
            case AirflowSkipException():
                state = "skipped"
            case Exception():
                state, error = "failed", redacted_error(branch.told)
            case "failed":
                state, error = "failed", NO_EXCEPTION_RECORDED
            case "stopped":
                state, error = "skipped", reasons[branch.group.group_id] if branch.group else None
            case "missing":
                state, error = "missing", why_missing(self._fan_in.key)
            case other:
                state = other  # type: ignore[assignment]  # it has been checked
        if state == "failed" and not branch.source.recorded:
            error = None  # of a task that is not of this package, Airflow tells no error
        return BranchOutcome(
            name=branch.name,
            index=index,
            state=state,
            value=self._values.get(branch.name),
            error=error,
            task_id=branch.source.task_id,
            map_index=branch.map_index,
        )

    def _refuse(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationValueError(self._owner, argument, problem)


def _airflow_state(told: Outcome) -> str:
    """What Airflow's own state of a task would be."""
    if isinstance(told, Exception):
        return "skipped" if isinstance(told, AirflowSkipException) else "failed"
    return {"missing": "success", STOPPED: "skipped"}.get(told, told)
