"""A run as an author tells it: what a fan-in reads of one, without scheduler or database."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.recording import redacted_error, skip_reason
from airflow_fanout.execution_time.stopping import failed_names, item_stop_reason, stop_reason
from airflow_fanout.execution_time.wiring import fan_out_tasks, other_upstreams, tasks_before_expansion
from airflow_fanout.execution_time.xcom import NOTHING
from airflow_fanout.rules.instances import InstanceState
from airflow_fanout.rules.names import SPLIT, indexed_names, instance_name
from airflow_fanout.rules.outcomes import NO_EXCEPTION_RECORDED
from airflow_fanout.rules.policy import FAILED_STATES, STATES
from airflow_fanout.rules.records import (
    ITEM_FAILED,
    ITEM_SKIPPED,
    ITEM_STOPPED,
    ITEM_SUCCEEDED,
    RECORD_KEY,
    RETURN_VALUE,
    BatchRecord,
    BranchRecord,
    Record,
    batch_key,
)
from airflow_fanout.rules.wording import listing, typed
from airflow_fanout.serialization.tasks import nearest_mapped_group
from airflow_fanout.testing.branch_counts import BranchCounts, Counts, Names

if TYPE_CHECKING:
    from airflow_fanout.execution_time.wiring import Source
    from airflow_fanout.operators.fan_in import FanInOperator
    from airflow_fanout.serialization.declaration import DeclaredGroup

Outcome = str | Exception
"""What became of a branch or task: a state, or the exception that it raised."""

TASK_STATES = ("success", "failed", "upstream_failed", "skipped")
BRANCH_STATES = (*STATES, "stopped")


@dataclass(frozen=True, kw_only=True)
class _Instance(InstanceState):
    """A task instance without times."""

    ran: bool = True

    @property
    def has_run(self) -> bool:
        return self.ran


@dataclass
class SimulatedReader:
    """Answers as the API server would, from values at hand: with the methods of ``RunReader``."""

    instances: dict[tuple[str, int], InstanceState] = field(default_factory=dict)
    xcoms: dict[tuple[str, int, str], Any] = field(default_factory=dict)
    requests: int = 0
    found_nothing: bool = False

    def states(self) -> dict[tuple[str, int], InstanceState]:
        """State of every instance."""
        return dict(self.instances)

    def instance_count(self, task_ids: Sequence[str]) -> int:
        """Count the instances of some tasks."""
        return sum(task_id in task_ids for task_id, _ in self.instances)

    def value(self, task_id: str, map_index: int, key: str) -> Any:
        """Value that one instance pushed; NOTHING if there is none, or a None."""
        value = self.xcoms.get((task_id, map_index, key))
        return NOTHING if value is None else value

    def record(self, task_id: str, map_index: int) -> Record | None:
        """Record that an instance left."""
        return self.xcoms.get((task_id, map_index, RECORD_KEY))

    def record_page(self, task_id: str, start: int, stop: int) -> list[Record | None]:
        """Records of a mapped task by map index."""
        return self.page(task_id, RECORD_KEY, start, stop)

    def pushed_none(self, task_id: str, key: str) -> bool:
        """Whether a task that is not mapped has pushed None."""
        return self.xcoms.get((task_id, -1, key), NOTHING) is None

    def value_count(self, task_id: str, key: str) -> int:
        """Count the instances of a mapped task that have pushed a value."""
        return len(self.page(task_id, key, 0, len(self.xcoms)))

    def page(self, task_id: str, key: str, start: int, stop: int) -> list[Any]:
        """Values of a mapped task, by map index, of those instances that pushed one."""
        pushed = sorted(index for i, index, k in self.xcoms if (i, k) == (task_id, key))
        return [self.xcoms[task_id, index, key] for index in pushed][start:stop]


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


class SimulatedRun:
    """A run as its author tells it: outcomes of branches by name and of other tasks by id, values by name."""

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
        self._fan_in, self._map_index = fan_in, map_index
        self.sources = list(sources)
        self._outcomes, self._values = outcomes, values
        self._helpers, self._declared = fan_out_tasks(fan_in)
        self._before = {s.task_id: self._tasks_before(s) for s in sources if s.is_mapped}
        self._reader = SimulatedReader()

    def reader(self, count: Counts | None, names: Names | None) -> SimulatedReader:
        """Make what the fan-in reads; raises a ``DeclarationError`` if there can be no such run."""
        for task_id, outcome in self._task_outcomes.items():
            self._check_outcome(task_id, outcome, TASK_STATES)
        numbers = self._numbers(count, names)
        branches = self._branches(numbers)
        self._check_branches(branches)
        self._write_tasks(branches)
        for source in self.sources:
            own = [branch for branch in branches.values() if branch.source is source]
            if own and self._is_batched(source):
                self._write_batches(source, own)
            else:
                for branch in own:
                    self._write_branch(branch)
        self._refuse_what_ends_the_run()
        self._write_stops(list(branches.values()))
        self.sources = [self._answering(source, numbers) for source in self.sources]
        return self._reader

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
        return before | {task.task_id for task in other_upstreams(self._fan_in, self.sources)}

    @cached_property
    def _task_outcomes(self) -> Mapping[str, Outcome]:
        return {key: outcome for key, outcome in self._outcomes.items() if key in self._tasks}

    def _state_of(self, task_id: str) -> str:
        """State of a task that is no branch, in Airflow's words."""
        if task_id in self._task_outcomes:
            return _airflow_state(self._task_outcomes[task_id])
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
        return source.group or self._fan_in.declared.group or self._declared.get(source.task_id, (None,))[0]

    @staticmethod
    def _is_batched(source: Source) -> bool:
        return source.group is not None and source.group.mode == "batched"

    def _numbers(
        self, count: Counts | None, names: Names | None
    ) -> Mapping[str, tuple[int, Sequence[str] | None]]:
        """Number and names of the branches of mapped tasks, by the task's id."""
        unknown: dict[str, Source] = {}
        for source in self.sources:
            # Airflow does not tell how many instances a foreign mapped task has, even over a literal.
            if source.is_mapped and source.group is None:
                unknown[source.task_id] = source
            elif source.group is not None and source.group.count is None:
                unknown[source.group.group_id] = source
        unexpanded = {key for key, source in unknown.items() if self._expansion(source) != "success"}
        counts = BranchCounts(owner=self._owner, unknown=unknown, unexpanded=unexpanded)
        numbers = {unknown[key].task_id: told for key, told in counts.read(count, names).items()}
        for source in self.sources:
            if source.group is not None and source.group.count is not None:
                numbers[source.task_id] = (source.group.count, source.group.names)
        return numbers

    def _branches(self, numbers: Mapping[str, tuple[int, Sequence[str] | None]]) -> dict[str, _Branch]:
        """Every branch by name, in order."""
        return {
            name: _Branch(
                name=name,
                source=source,
                group=self._group_of(source),
                map_index=map_index,
                outcome=self._outcomes.get(name, "success"),
            )
            for source in self.sources
            for name, map_index in self._names(source, *numbers.get(source.task_id, (0, None)))
        }

    def _names(self, source: Source, number: int, names: Sequence[str] | None) -> Iterator[tuple[str, int]]:
        """Name and map index of each branch of a source."""
        group = source.group
        if not source.is_mapped:
            yield source.name, source.map_index
        elif self._expansion(source) != "success":
            return
        elif group is not None and group.mode == "batched":
            prefix = group.prefix if source.by_prefix else ""
            for index, name in enumerate(names or indexed_names(group.label, number)):
                yield prefix + name, index // (group.items_per_task or 1)
        elif group is None or source.by_prefix:
            yield from ((instance_name(source.name, index), index) for index in range(number))
        else:
            yield from ((n, index) for index, n in enumerate(names or indexed_names(group.label, number)))

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
            stops = branch.group is not None and branch.group.stop_after_failures is not None
            if branch.outcome == "stopped" and not stops:
                problem = f"{branch.name!r} can't be stopped: its group has no stop_after_failures="
                self._refuse("outcomes", problem)
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

    def _write_tasks(self, branches: Mapping[str, _Branch]) -> None:
        """Write the tasks that are no branches, and the mapped ones without an instance."""
        for task_id in self._tasks:
            is_inside = nearest_mapped_group(self._fan_in.dag.get_task(task_id).task_group) is not None
            instance = (task_id, self._map_index if is_inside else -1)
            self._reader.instances[instance] = _Instance(state=self._state_of(task_id))
        expanded = {branch.source.task_id for branch in branches.values()}
        for source in self.sources:
            if source.is_mapped and source.task_id not in expanded:
                state = self._expansion(source)
                # Over nothing, Airflow skips it.
                state = "skipped" if state == "success" else state
                self._reader.instances[source.task_id, -1] = _Instance(state=state)

    def _write_branch(self, branch: _Branch) -> None:
        """Write one instance: its state, its value and its record."""
        outcome, key = branch.outcome, self._fan_in.declared.key
        state = _airflow_state(outcome)
        self._reader.instances[branch.instance] = _Instance(state=state, ran=outcome != "missing")
        if outcome == "success":
            value = self._values.get(branch.name)
            if value is not None or key != RETURN_VALUE:
                self._reader.xcoms[*branch.instance, key] = value
            record = BranchRecord(state="success", has_value=value is not None and key == RETURN_VALUE)
        elif isinstance(outcome, AirflowSkipException):
            record = BranchRecord(state="skipped", error=skip_reason(outcome))
        elif isinstance(outcome, Exception):
            record = BranchRecord(state="failed", error=redacted_error(outcome))
        else:
            return
        if branch.map_index >= 0:
            record = replace(record, map_index=branch.map_index, name=branch.name)
        self._reader.xcoms[*branch.instance, RECORD_KEY] = record

    def _write_batches(self, source: Source, items: Sequence[_Branch]) -> None:
        """Write the batches of a group, and what cut them."""
        group = source.group
        if group is None:
            return
        prefix_length = len(group.prefix) if source.by_prefix else 0
        named = {item.name: item.name[prefix_length:] for item in items}
        is_numbered = list(named.values()) == list(indexed_names(group.label, len(items)))
        size = group.items_per_task or 1
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        for number, batch in enumerate(batches):
            names = None if is_numbered else [named[item.name] for item in batch]
            self._write_batch(batch, names, number * size)
            payload = {"names": names, "items": []}
            self._reader.xcoms[group.prefix + SPLIT, -1, batch_key(number)] = payload
        self._reader.xcoms[group.prefix + SPLIT, -1, RETURN_VALUE] = [
            [number * size, number * size + len(batch), 1] for number, batch in enumerate(batches)
        ]

    def _write_batch(self, items: Sequence[_Branch], names: list[str] | None, start: int) -> None:
        instance = items[0].instance
        for state in ("upstream_failed", "removed"):
            if any(item.outcome == state for item in items):
                if others := [item.name for item in items if item.outcome != state]:
                    problem = (
                        f"{listing(others)} can't be anything but {state!r}: the items of a batch, here "
                        f"{listing(item.name for item in items)}, share one task"
                    )
                    self._refuse("outcomes", problem)
                self._reader.instances[instance] = _Instance(state=state)
                return
        has_failed = any(_airflow_state(item.outcome) == "failed" for item in items)
        if has_failed and (missing := [item.name for item in items if item.outcome == "missing"]):
            problem = (
                f"{listing(missing)} can't be missing beside failed items of its batch: they share one value"
            )
            self._refuse("outcomes", problem)
        self._reader.instances[instance] = _Instance(state="failed" if has_failed else "success")
        own_names = names or [f"{items[0].source.group.label}_{start + i}" for i in range(len(items))]  # type: ignore[union-attr]
        self._reader.xcoms[*instance, RETURN_VALUE] = {
            own_names[index]: self._values.get(item.name)
            for index, item in enumerate(items)
            if item.outcome == "success"
        }
        self._reader.xcoms[*instance, RECORD_KEY] = BatchRecord(
            map_index=instance[1],
            start=start,
            split=1,
            names=names,
            # An item that is missing succeeded, and has no value; in a batch that somebody marked it failed.
            statuses="".join(_status(item.outcome, is_marked=not has_failed) for item in items),
            errors=dict(_errors(items)),
            seconds=[None] * len(items),
            cpu_seconds=[None] * len(items),
        )

    def _refuse_what_ends_the_run(self) -> None:
        """Refuse what keeps a fan-in from running in a Dag that fails fast."""
        if self._fan_in.trigger_rule != "all_success":
            return
        for (task_id, _), instance in self._reader.instances.items():
            if instance.state in {*FAILED_STATES, "skipped"}:
                problem = (
                    f"{task_id!r} is {instance.state}, and in a fail_fast Dag the fan-in runs only if all "
                    "before it succeeded: Airflow fails or skips it, and nothing is decided here"
                )
                self._refuse("outcomes", problem)

    def _write_stops(self, branches: Sequence[_Branch]) -> None:
        """Write why the stopped branches were not started."""
        for branch in branches:
            group = branch.group
            if branch.outcome != "stopped" or group is None:
                continue
            if group.mode == "batched":
                own = [each for each in branches if each.group is group]
                failure_count = sum(_airflow_state(each.outcome) == "failed" for each in own)
                record: Any = self._reader.xcoms[*branch.instance, RECORD_KEY]
                self._reader.xcoms[*branch.instance, RECORD_KEY] = replace(
                    record, stopped=item_stop_reason(group)
                )
            else:
                failed = failed_names(self._reader.instances, group, self._map_index)
                failure_count = len(failed)
                index = branch.map_index if branch.map_index >= 0 else None
                self._reader.xcoms[*branch.instance, RECORD_KEY] = BranchRecord(
                    state="stopped", error=stop_reason(group, failed), map_index=index, name=branch.name
                )
            if failure_count < (group.stop_after_failures or 0):
                problem = (
                    f"{branch.name!r} can't have been stopped after {failure_count} failures: group "
                    f"{group.group_id!r} has stop_after_failures={group.stop_after_failures}"
                )
                self._refuse("outcomes", problem)

    def _answering(self, source: Source, numbers: Mapping[str, tuple[int, Sequence[str] | None]]) -> Source:
        """Have a mapped group told its names by the author, and not by a task."""
        if source.ask_items is None:
            return source
        number, names = numbers.get(source.task_id, (0, None))
        return replace(source, ask_items=lambda: (names, number))

    def _refuse(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationValueError(self._owner, argument, problem)


def _airflow_state(outcome: Outcome) -> str:
    """What Airflow's own state of a task would be."""
    if isinstance(outcome, Exception):
        return "skipped" if isinstance(outcome, AirflowSkipException) else "failed"
    return {"missing": "success", "stopped": "skipped"}.get(outcome, outcome)


def _status(outcome: Outcome, *, is_marked: bool) -> str:
    if outcome == "missing":
        return ITEM_FAILED if is_marked else ITEM_SUCCEEDED
    if outcome == "stopped":
        return ITEM_STOPPED
    return {"success": ITEM_SUCCEEDED, "skipped": ITEM_SKIPPED}.get(_airflow_state(outcome), ITEM_FAILED)


def _errors(items: Iterable[_Branch]) -> Iterator[tuple[str, str]]:
    for index, item in enumerate(items):
        match item.outcome:
            case AirflowSkipException() as skip:
                if reason := skip_reason(skip):
                    yield str(index), reason
            case Exception() as error:
                yield str(index), redacted_error(error)
            case "failed":
                yield str(index), NO_EXCEPTION_RECORDED
