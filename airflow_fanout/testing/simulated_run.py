"""A run as an author tells it: what a fan-in finds in one, without scheduler or database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, NoReturn, cast

from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.combination import entries_of
from airflow_fanout.execution_time.recording import redacted_error, skip_reason
from airflow_fanout.execution_time.results import FanInResults, Page
from airflow_fanout.execution_time.stopping import failed_names, item_stop_reason, stop_reason
from airflow_fanout.execution_time.wiring import (
    combinations_of,
    fan_out_tasks,
    other_upstreams,
    tasks_before_expansion,
    upstream_failure,
)
from airflow_fanout.operators.fan_in_checks import check_known_number
from airflow_fanout.rules.instances import InstanceState
from airflow_fanout.rules.names import indexed_names, instance_name
from airflow_fanout.rules.outcomes import NO_EXCEPTION_RECORDED, BranchOutcome, missing_reason
from airflow_fanout.rules.policy import AT_RUN_TIME, FAILED_STATES, STATES
from airflow_fanout.rules.wording import listing, typed
from airflow_fanout.serialization.tasks import nearest_mapped_group
from airflow_fanout.testing.branch_counts import BranchCounts, Counts, Names

if TYPE_CHECKING:
    from airflow_fanout.execution_time.combination import Combination, Entry
    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.operators.fan_in import FanInOperator
    from airflow_fanout.rules.instances import States
    from airflow_fanout.rules.policy import State
    from airflow_fanout.serialization.declaration import DeclaredGroup

Outcome = str | Exception
"""What became of a branch or task: a state, or the exception that it raised."""

TASK_STATES = ("success", "failed", "upstream_failed", "skipped")
BRANCH_STATES = (*STATES, "stopped")


@dataclass(frozen=True, kw_only=True)
class _Branch:
    """A branch of the run, and the instance that its value comes from."""

    name: str
    source: Source
    group: DeclaredGroup | None
    map_index: int
    outcome: Outcome

    @property
    def instance(self) -> tuple[str, int]:
        return self.source.task_id, self.map_index

    @property
    def is_item(self) -> bool:
        """Whether it shares its task with other items."""
        return self.source.group is not None and self.source.group.mode == "batched"

    @property
    def state(self) -> State:
        """State of its outcome."""
        return cast("State", "skipped" if self.outcome == "stopped" else _state(self.outcome))


def _state(outcome: Outcome) -> str:
    if isinstance(outcome, Exception):
        return "skipped" if isinstance(outcome, AirflowSkipException) else "failed"
    return outcome


class SimulatedSettings:
    """Numbers that only a run knows, as its author tells them, by name; all groups have the same."""

    def __init__(self, fan_in: FanInOperator, settings: Mapping[str, Any]) -> None:
        self._owner, self._settings = f"simulate({fan_in.task_id!r})", settings
        tolerance = {name: getattr(fan_in.policy, name) for name in ("min_success", "min_success_ratio")}
        self.names_of_fan_in = [name for name, value in tolerance.items() if value == AT_RUN_TIME]

    def value(self, name: str) -> Any:
        """What was told of a setting."""
        if name not in self._settings:
            problem = f"only a run has {name}; give settings={{{name!r}: …}}"
            raise DeclarationValueError(self._owner, "settings", problem)
        return self._settings[name]

    def of_group(self, group: DeclaredGroup, name: str) -> int | None:
        """A setting of a group, as declared or as told."""
        number = getattr(group, name)
        if number == AT_RUN_TIME:
            number = self.value(name)
            check_known_number(f"FanOutGroup {group.group_id!r}", name, number)
        return cast("int | None", number)

    def check(self, groups: Iterable[DeclaredGroup]) -> None:
        """Refuse what is no setting that only a run knows."""
        known = {name for group in groups for name, value in group._asdict().items() if value == AT_RUN_TIME}
        known.update(self.names_of_fan_in)
        if unknown := self._settings.keys() - known:
            problem = f"a run is not asked for {listing(unknown)}; it is for {listing(known) or 'nothing'}"
            raise DeclarationValueError(self._owner, "settings", problem)


class SimulatedRun:
    """A run as its author tells it: outcomes of branches by name and of other tasks by id, values by name."""

    def __init__(
        self,
        fan_in: FanInOperator,
        sources: Sequence[Source],
        map_index: int,
        outcomes: Mapping[str, Outcome],
        values: Mapping[str, Any],
        *,
        settings: SimulatedSettings,
    ) -> None:
        self._owner = f"simulate({fan_in.task_id!r})"
        for argument, given in (("outcomes", outcomes), ("values", values)):
            if not isinstance(given, Mapping):
                problem = f"expected a dict by the names of branches, found {typed(given)}"
                raise DeclarationTypeError(self._owner, argument, problem)
        self._fan_in, self._map_index = fan_in, map_index
        self._sources = sources
        self._outcomes, self._values, self._settings = outcomes, values, settings
        self._helpers, self._declared = fan_out_tasks(fan_in)
        settings.check(filter(None, map(self._group_of, sources)))
        self._before = {s.task_id: self._tasks_before(s) for s in sources if s.is_mapped}

    def find(self, count: Counts | None, names: Names | None) -> tuple[FanInResults, Exception | None]:
        """Say what the fan-in finds; raises a ``DeclarationError`` if there can be no such run."""
        for task_id, outcome in self._task_outcomes.items():
            self._check_outcome(task_id, outcome, TASK_STATES)
        branches = self._branches(self._known_names(count, names))
        self._check_branches(branches)
        entries = self._combine(branches)
        states = self._states(list(branches.values()))
        self._refuse_what_ends_the_run(states)
        outcomes = [
            BranchOutcome(
                name=branch.name,
                index=index,
                state=branch.state,
                value=self._values.get(branch.name),
                error=self._error(branch, branches, states),
                task_id=branch.source.task_id,
                map_index=branch.map_index,
                is_stopped=branch.outcome == "stopped",
            )
            for index, branch in enumerate(branches.values())
        ]
        failure = upstream_failure(self._fan_in, states, self._sources, self._map_index)
        combinations = combinations_of(self._fan_in, self._fan_in.declared, self._sources)
        return FanInResults(self._pages(branches, outcomes, entries), combinations), failure

    def _combine(self, branches: dict[str, _Branch]) -> list[Entry]:
        """Fold the values of each batch, as it does; items whose values are lost by that have failed."""
        batches: dict[tuple[str, int], list[_Branch]] = {}
        for branch in branches.values():
            if branch.source.combination is not None and branch.state == "success":
                batches.setdefault(branch.instance, []).append(branch)
        entries: list[Entry] = []
        for items in batches.values():
            combination = cast("Combination", items[0].source.combination)
            names = [item.name for item in items]
            values = {index: self._values.get(name) for index, name in enumerate(names)}
            folded, errors = combination.fold_batch(names, values)
            for index, error in errors.items():
                branches[names[index]] = replace(items[index], outcome=error)
            entries += entries_of(folded, names[0], names[-1])
        return entries

    @staticmethod
    def _pages(
        branches: Mapping[str, _Branch], outcomes: Sequence[BranchOutcome], entries: Sequence[Entry]
    ) -> list[Page]:
        """Put branches whose values are combined into other pages than those whose values are kept."""
        pages: list[Page] = []
        start = 0
        pairs = zip(branches.values(), outcomes, strict=True)
        for combination, alike in groupby(pairs, key=lambda pair: pair[0].source.combination):
            page = [outcome for _, outcome in alike]
            pages.append(Page.of(page, start, None if combination is None else lambda: entries))
            start += len(page)
        return pages

    def _tasks_before(self, source: Source) -> set[str]:
        """Ids of the tasks that keep a mapped one from being expanded if they fail."""
        task: Any = self._fan_in.dag.get_task(source.task_id)
        mapped_group = next(task.task_group.iter_mapped_task_groups(), None) if task.task_group else None
        if not any(True for _ in (mapped_group or task).iter_mapped_dependencies()):
            return set()  # over a literal, Airflow has expanded it before the run begins
        return {
            upstream.task_id
            for expanded, upstream in tasks_before_expansion(self._fan_in, source.task_id)
            if expanded.trigger_rule == "all_success"
        }

    @cached_property
    def _tasks(self) -> set[str]:
        """Ids of the tasks with outcomes: those that are no branch, and those before an expansion."""
        before = set().union(*self._before.values())
        for task_id in before & self._helpers.keys():
            before |= self._fan_in.dag.get_task(task_id).upstream_task_ids
        return before | {task.task_id for task in other_upstreams(self._fan_in, self._sources)}

    @cached_property
    def _task_outcomes(self) -> Mapping[str, Outcome]:
        return {key: outcome for key, outcome in self._outcomes.items() if key in self._tasks}

    def _state_of(self, task_id: str) -> str:
        """State of a task that is no branch, in Airflow's words."""
        if task_id in self._task_outcomes:
            return _state(self._task_outcomes[task_id])
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

    def _known_names(self, count: Counts | None, names: Names | None) -> Mapping[str, Sequence[str]]:
        """Names of the branches of mapped tasks, by the task's id; of a foreign one they only count."""
        mapped = [source for source in self._sources if source.is_mapped]
        # Airflow does not tell how many instances a foreign mapped task has, even over a literal.
        unknown = {
            source.task_id if source.group is None else source.group.group_id: source
            for source in mapped
            if source.group is None or source.group.count is None
        }
        unexpanded = {key for key, source in unknown.items() if self._expansion(source) != "success"}
        counts = BranchCounts(owner=self._owner, unknown=unknown, unexpanded=unexpanded)
        known = {source.task_id: source.group.known_names for source in mapped if source.group is not None}
        for key, told in counts.read(count, names).items():
            source = unknown[key]
            label = "" if source.group is None else source.group.label
            known[source.task_id] = indexed_names(label, told) if isinstance(told, int) else told
        return known

    def _group_of(self, source: Source) -> DeclaredGroup | None:
        group = source.group or self._fan_in.declared.group
        return group or self._declared.get(source.task_id, (None,))[0]

    def _branches(self, known_names: Mapping[str, Sequence[str]]) -> dict[str, _Branch]:
        """Every branch by name, in order."""
        branches = {}
        for source in self._sources:
            group = self._group_of(source)
            for name, map_index in self._names(source, known_names.get(source.task_id, ())):
                outcome = self._outcomes.get(name, "success")
                branches[name] = _Branch(
                    name=name, source=source, group=group, map_index=map_index, outcome=outcome
                )
        return branches

    def _names(self, source: Source, names: Sequence[str]) -> Iterator[tuple[str, int]]:
        """Name and map index of each branch of a source."""
        group = source.group
        if not source.is_mapped:
            yield source.name, source.map_index
        elif self._expansion(source) != "success":
            return
        elif group is None or (source.by_prefix and group.mode == "mapped"):
            yield from ((instance_name(source.name, index), index) for index in range(len(names)))
        else:
            prefix = group.prefix if source.by_prefix else ""
            size = self._settings.of_group(group, "items_per_task") or 1
            yield from ((f"{prefix}{name}", index // size) for index, name in enumerate(names))

    def _check_branches(self, branches: Mapping[str, _Branch]) -> None:
        """Refuse names that no branch has, and outcomes or values that a branch can't have."""
        if both := branches.keys() & self._task_outcomes.keys():
            problem = f"{listing(both)} is the name of a branch and the id of another task; rename one"
            self._refuse("outcomes", problem)
        if unknown := self._outcomes.keys() - self._task_outcomes.keys() - branches.keys():
            tasks = self._tasks - self._helpers.keys()
            also = f"; other tasks: {listing(tasks)}" if tasks else ""
            problem = f"no branch is named {listing(unknown)}; branches: {listing(branches)}{also}"
            if indirect := unknown & self._fan_in.get_flat_relative_ids(upstream=True):
                problem += (
                    f"; to say that {listing(indirect)} fails, which comes before the branches, give those "
                    "after it 'upstream_failed'"
                )
            self._refuse("outcomes", problem)
        if unknown := self._values.keys() - branches.keys():
            problem = f"no branch is named {listing(unknown)}; branches: {listing(branches)}"
            self._refuse("values", problem)
        for branch in branches.values():
            self._check_outcome(branch.name, branch.outcome, BRANCH_STATES)
            if branch.outcome != "success" and branch.name in self._values:
                outcome = branch.outcome
                shown = repr(outcome) if isinstance(outcome, str) else type(outcome).__name__
                self._refuse("values", f"{branch.name!r} has no value, because its outcome is {shown}")

    def _check_outcome(self, name: str, outcome: object, states: Sequence[str]) -> None:
        if isinstance(outcome, Exception):
            return
        expected = f"expected {', '.join(map(repr, states))} or an exception"
        if not isinstance(outcome, str):
            hint = "; make one: ValueError()" if isinstance(outcome, type) else ""
            problem = f"{name!r}: {expected}, found {typed(outcome)}{hint}"
            raise DeclarationTypeError(self._owner, "outcomes", problem)
        if outcome not in states:
            self._refuse("outcomes", f"{name!r}: {expected}, found {outcome!r}")

    def _states(self, branches: Sequence[_Branch]) -> States:
        """States of all task instances."""
        states: dict[tuple[str, int], str] = {}
        for task_id in self._tasks:
            is_inside = nearest_mapped_group(self._fan_in.dag.get_task(task_id).task_group) is not None
            states[task_id, self._map_index if is_inside else -1] = self._state_of(task_id)
        for source in self._sources:
            if source.is_mapped and not any(branch.source is source for branch in branches):
                state = self._expansion(source)
                # Over nothing, Airflow skips it.
                states[source.task_id, -1] = "skipped" if state == "success" else state
        batches: dict[tuple[str, int], list[_Branch]] = {}
        for branch in branches:
            if branch.is_item:
                batches.setdefault(branch.instance, []).append(branch)
            else:
                states[branch.instance] = "success" if branch.state == "missing" else branch.state
        states |= {instance: self._batch_state(items) for instance, items in batches.items()}
        return {instance: InstanceState(state=state) for instance, state in states.items()}

    def _batch_state(self, items: Sequence[_Branch]) -> str:
        """State of the task that items share; refuses items that can't share one."""
        for state in ("upstream_failed", "removed"):
            others = [item.name for item in items if item.state != state]
            if not others:
                return state
            if len(others) < len(items):
                problem = (
                    f"{listing(others)} can't be anything but {state!r}: the items of a batch, here "
                    f"{listing(item.name for item in items)}, share one task"
                )
                self._refuse("outcomes", problem)
        if not any(item.state == "failed" for item in items):
            return "success"
        if missing := [item.name for item in items if item.state == "missing"]:
            problem = (
                f"{listing(missing)} can't be missing beside failed items of its batch: they share one value"
            )
            self._refuse("outcomes", problem)
        return "failed"

    def _refuse_what_ends_the_run(self, states: States) -> None:
        """Refuse what keeps a fan-in from running in a Dag that fails fast."""
        if self._fan_in.trigger_rule != "all_success":
            return
        for (task_id, _), instance in states.items():
            if instance.state in {*FAILED_STATES, "skipped"}:
                problem = (
                    f"{task_id!r} is {instance.state}, and in a fail_fast Dag the fan-in runs only if all "
                    "before it succeeded: Airflow fails or skips it, and nothing is decided here"
                )
                self._refuse("outcomes", problem)

    def _error(self, branch: _Branch, branches: Mapping[str, _Branch], states: States) -> str | None:
        """Why a branch has no value, as a fan-in reads it."""
        match branch.outcome:
            case "missing":
                return missing_reason(self._fan_in.declared.key)
            case "stopped":
                return self._stop_reason(branch, branches, states)
            case _ if not branch.source.tasks.is_ours:
                return None  # Airflow keeps none
            case "failed":
                return NO_EXCEPTION_RECORDED
            case Exception() as error:
                return skip_reason(error) if branch.state == "skipped" else redacted_error(error)
        return None

    def _stop_reason(self, branch: _Branch, branches: Mapping[str, _Branch], states: States) -> str:
        """Why a stopped branch was not started; refuses one that can't have been stopped."""
        group = branch.group
        limit = None if group is None else self._settings.of_group(group, "stop_after_failures")
        if group is None or limit is None:
            problem = f"{branch.name!r} can't be stopped: its group has no stop_after_failures="
            self._refuse("outcomes", problem)
        if group.mode == "batched":
            own = [other for other in branches.values() if other.group is group]
            failed = [other.name for other in own if other.state == "failed"]
            reason = item_stop_reason(group.group_id, limit)
        else:
            failed = failed_names(states, group, self._map_index)
            reason = stop_reason(group._replace(stop_after_failures=limit), failed)
        if len(failed) < limit:
            problem = (
                f"{branch.name!r} can't have been stopped after {len(failed)} failures: group "
                f"{group.group_id!r} has stop_after_failures={limit}"
            )
            self._refuse("outcomes", problem)
        return reason

    def _refuse(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationValueError(self._owner, argument, problem)
