"""A run's task instances, what they recorded, and the branches that they make; for CLI and UI."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import TYPE_CHECKING, overload

from airflow_fanout.reports.timing import BranchTiming, TaskTry, last_try, seconds_between
from airflow_fanout.rules.instances import InstanceState
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.outcomes import WAITING, believed
from airflow_fanout.rules.records import BatchRecord, BranchRecord, LostRecord, Record, read_record
from airflow_fanout.rules.run_lengths import spans

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from datetime import datetime

    from airflow_fanout.rules.outcomes import Ruling, ValueState
    from airflow_fanout.rules.records import Bounds, ReuseRecord, Step, StoredResults
    from airflow_fanout.serialization.declaration import DeclaredGroup
    from airflow_fanout.serialization.outline import DagOutline, FanInOutline


PROBLEMS = frozenset({"failed", "upstream_failed", "missing"})
"""States of branches that left no value, though they should have."""


@dataclass(frozen=True, kw_only=True)
class TaskRun:
    """
    One task instance of a run; its times are those of its last try.

    :param earlier: The tries before the last, in order, as far as Airflow keeps them.
    :param record: What it pushed under the key of records, read or not; None if it pushed nothing.
    :param values: Whether the values that it pushed can be read, by their keys.
    """

    task_id: str
    map_index: int = -1
    state: str | None = None
    queued: datetime | None = None
    started: datetime | None = None
    ended: datetime | None = None
    tries: int = 0
    earlier: tuple[TaskTry, ...] = ()
    hostname: str = ""
    record: object = None
    values: Mapping[str, ValueState] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, int]:
        """Task id and map index."""
        return self.task_id, self.map_index

    @property
    def name(self) -> str:
        """How Airflow calls it."""
        return instance_name(self.task_id, self.map_index)

    @cached_property
    def told(self) -> Record | None:
        """Its record, if it is of the try that its state tells of."""
        return believed(self.state, self.any_record)

    @cached_property
    def any_record(self) -> Record | None:
        """Its record, whatever try it is of."""
        return self.record if isinstance(self.record, Record) else read_record(self.record)

    @property
    def batch_record(self) -> BatchRecord | None:
        """What it told of its items; None if it told nothing of them."""
        return self.told if isinstance(self.told, BatchRecord) else None

    @property
    def cores(self) -> int | None:
        """Cores that it could run on; None if it recorded none."""
        return None if self.told is None or isinstance(self.told, LostRecord) else self.told.cores

    @property
    def steps(self) -> tuple[Step, ...]:
        """The functions that it called, if it was a list of them."""
        return (self.told.steps or ()) if isinstance(self.told, BranchRecord) else ()

    @cached_property
    def timing(self) -> BranchTiming:
        """Its times, with the seconds inside its code: those of its items together, if it ran a batch."""
        number, state = self.tries, self.state
        times = {"queued": self.queued, "started": self.started, "ended": self.ended}
        last = last_try(TaskTry(number=number, state=state, **times))
        tries = tuple(each for each in (*self.earlier, last) if each.has_run)
        timing = BranchTiming(name=self.name, state=state or WAITING, tries=number, tasks=(tries,))
        if last.has_run:
            timing = replace(timing, queued=last.queued, started=last.started, ended=last.ended)
        match self.told:
            case BranchRecord() as record:
                seconds, cpu_seconds = record.seconds, record.cpu_seconds
            case BatchRecord() as record:
                seconds, cpu_seconds = record.work_seconds, record.task_cpu_seconds
            case _:
                return timing
        return replace(
            timing,
            work_seconds=seconds,
            cpu_seconds=cpu_seconds,
            peak_memory_bytes=record.peak_memory_bytes,
            read_bytes=record.read_bytes,
            written_bytes=record.written_bytes,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class BranchRun(BranchTiming):
    """
    What became of one branch, one item or one batch; of an item the seconds in its code are its only times.

    :param state: As a fan-in would say, ``success``, ``failed``, ``upstream_failed``, ``skipped``,
        ``missing`` or ``removed``; before it has ended in Airflow's words, or ``waiting``.
    :param error: ``"ValueError: message"``, or why there is no value; None if there is no more to say.
    :param is_stopped: Whether ``stop_after_failures`` kept it from starting.
    :param task_runs: Its task instances, in the order in which its tasks run; an item's is that of its batch.
    :param item_tries: How often an item was called, over all tries of its batch; None if that is not known.
    :param would_run: Task instances that would run it now, where these are others: the Dag, or its items,
        changed after it had run, or was to run.
    """

    error: str | None = None
    is_stopped: bool = False
    task_runs: tuple[TaskRun, ...] = ()
    item_tries: int | None = None
    would_run: tuple[TaskRun, ...] | None = None

    @property
    def is_unsuccessful(self) -> bool:
        """Whether it left no value, though it should have, or was stopped."""
        return self.state in PROBLEMS or self.is_stopped


@dataclass(frozen=True, kw_only=True)
class BatchItems:
    """
    Items of one batch, a column for each thing that is known of them.

    :param seconds: Seconds in the code of each; empty if the batch recorded none.
    """

    task_run: TaskRun
    names: Sequence[str]
    rulings: Sequence[Ruling]
    seconds: Sequence[float | None] = ()
    cpu_seconds: Sequence[float | None] = ()

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[BranchRun]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int) -> BranchRun:
        ruling, record = self.rulings[index], self.task_run.batch_record
        return BranchRun(
            name=self.names[index],
            state=ruling.state,
            work_seconds=self.seconds[index] if self.seconds else None,
            cpu_seconds=self.cpu_seconds[index] if self.cpu_seconds else None,
            tries=self.task_run.tries,
            error=ruling.error,
            is_stopped=ruling.is_stopped,
            task_runs=(self.task_run,),
            item_tries=None if record is None else record.tries_of(index),
        )

    @cached_property
    def states(self) -> Counter[str]:
        """How many items there are by state."""
        states = Counter[str]()
        for start, stop, ruling in spans(self.rulings):
            states[ruling.state] += stop - start
        return states

    @cached_property
    def stopped(self) -> int:
        """How many ``stop_after_failures`` kept from starting."""
        return sum(stop - start for start, stop, ruling in spans(self.rulings) if ruling.is_stopped)

    @property
    def stored(self) -> StoredResults | None:
        """Where its values are in files, what it recorded of that; then there are no columns of seconds."""
        record = self.task_run.batch_record
        return None if record is None else record.results


class ItemRuns(Sequence[BranchRun]):
    """
    Items of a batched group where these are what is declared now; each is made when it is asked for.

    The report of a hundred thousand items takes a fifth of the time so.

    :param batches: The items of each batch, in order.
    """

    def __init__(self, batches: Sequence[BatchItems]) -> None:
        self.batches = batches
        self._stops = list(accumulate(map(len, batches)))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    @overload
    def __getitem__(self, place: int) -> BranchRun: ...

    @overload
    def __getitem__(self, place: slice) -> list[BranchRun]: ...

    def __getitem__(self, place: int | slice) -> BranchRun | list[BranchRun]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        index = range(len(self))[place]
        number = bisect_right(self._stops, index)
        return self.batches[number][index - self._stops[number] + len(self.batches[number])]

    def __iter__(self) -> Iterator[BranchRun]:
        return chain.from_iterable(self.batches)


@dataclass(frozen=True, kw_only=True)
class GroupRun:
    """
    What became of one group.

    :param title: The group's id, with the index of the mapped task group that it stands in, if any; of
        branches that only a prefix brings together, their fan-in's id.
    :param group: The group; None if only a prefix brings the branches together.
    :param branches: Its branches; the items, of a batched group.
    :param batches: The tasks of a batched group, as one branch each; None of any other.
    :param unexpanded: The mapped task, while it is not expanded, or for good.
    :param reused: Number of items of a batched group that are in no batch, because an earlier run's values
        hold; they are not among the branches.
    """

    title: str
    group: DeclaredGroup | None
    map_index: int = -1
    fan_in_ids: tuple[str, ...] = ()
    branches: Sequence[BranchRun] = ()
    batches: tuple[BranchRun, ...] | None = None
    unexpanded: TaskRun | None = None
    reused: int = 0

    @cached_property
    def states(self) -> Counter[str]:
        """How many branches there are by state, with those reused among the successes."""
        reused = Counter({"success": self.reused} if self.reused else {})
        if isinstance(self.branches, ItemRuns):
            return sum((batch.states for batch in self.branches.batches), reused)
        return reused + Counter(branch.state for branch in self.branches)

    @cached_property
    def stopped(self) -> int:
        """How many branches ``stop_after_failures`` kept from starting."""
        if isinstance(self.branches, ItemRuns):
            return sum(batch.stopped for batch in self.branches.batches)
        return sum(branch.is_stopped for branch in self.branches)

    @property
    def is_incomplete(self) -> bool:
        """Whether a branch left no value, though it should have, or was stopped."""
        return self.stopped > 0 or not PROBLEMS.isdisjoint(self.states)

    @property
    def relocated(self) -> Sequence[BranchRun]:
        """Branches that others than their task instances would run now."""
        if isinstance(self.branches, ItemRuns):
            return ()
        return [branch for branch in self.branches if branch.would_run is not None]

    @property
    def ran(self) -> Sequence[BranchRun]:
        """What Airflow ran at the same time: the branches, or the batches."""
        return self.branches if self.batches is None else self.batches


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """
    All that is known of one run.

    :param prefixes: Prefixes as rendered, by fan-in, of those that have a template.
    :param bounds: Those of each batch, by the task that cut them.
    :param batch_names: Names of the items of batches that left no record of them, by that task and number.
    :param yielded: Names, or number, of the mapped branches that the items' task has yielded last, by group;
        of a batched group the items, if that is one of ``cut_before``.
    :param cut_before: Groups whose items' task has run again since ``split`` has run.
    :param reuse: What is reused, by the task that cut the items that are not.
    :param skips: What branching tasks say of what they skipped, by their ids.
    :param earlier_walls: Seconds from the first queued to the last end of each group in the last runs before
        this one, the newest first, while it has not ended.
    """

    dag_id: str
    run_id: str
    state: str
    outline: DagOutline
    task_runs: tuple[TaskRun, ...]
    prefixes: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, Sequence[Bounds]] = field(default_factory=dict)
    batch_names: Mapping[tuple[str, int], Sequence[str]] = field(default_factory=dict)
    yielded: Mapping[str, Sequence[str] | int] = field(default_factory=dict)
    reuse: Mapping[str, ReuseRecord] = field(default_factory=dict)
    cut_before: Collection[str] = frozenset()
    skips: Mapping[str, object] = field(default_factory=dict)
    earlier_walls: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @cached_property
    def by_task(self) -> Mapping[str, Mapping[int, TaskRun]]:
        """Task instances by task id and map index, in order."""
        runs_by_task: dict[str, dict[int, TaskRun]] = {}
        for task_run in sorted(self.task_runs, key=lambda task_run: task_run.map_index):
            runs_by_task.setdefault(task_run.task_id, {})[task_run.map_index] = task_run
        return runs_by_task

    @cached_property
    def undeclared(self) -> list[str]:
        """Ids of tasks that have instances in the run, and are no longer in its Dag."""
        return [task_id for task_id in self.by_task if task_id not in self.outline.tasks]

    def find(self, task_ids: Iterable[str], map_index: int) -> list[TaskRun]:
        """Instances of some tasks with an index, as far as there are any."""
        task_runs = (self.by_task.get(task_id, {}).get(map_index) for task_id in task_ids)
        return [task_run for task_run in task_runs if task_run is not None]

    def instances(self, task_id: str, map_index: int) -> Mapping[int, InstanceState]:
        """Instances of a branch's task by map index: one, or, if it is mapped within the branch, all."""
        task_runs: Iterable[TaskRun] = self.find([task_id], map_index)
        if not task_runs and map_index < 0:
            task_runs = self.by_task.get(task_id, {}).values()
        task = self.outline.tasks.get(task_id)
        operator = None if task is None else task.operator
        return {
            run.map_index: InstanceState(
                state=run.state, duration=seconds_between(run.started, run.ended), operator=operator
            )
            for run in task_runs
        }

    def record(self, task_id: str, map_index: int) -> Record | None:
        """Record that an instance left."""
        task_run = self.by_task.get(task_id, {}).get(map_index)
        return None if task_run is None else task_run.any_record

    def value_state(self, task_id: str, map_index: int, key: str) -> ValueState:
        """Whether the value that an instance pushed under a key can be read."""
        task_run = self.by_task.get(task_id, {}).get(map_index)
        return "absent" if task_run is None else task_run.values.get(key, "absent")

    def prefix_of(self, fan_in: FanInOutline) -> str | None:
        """Return a fan-in's prefix as rendered; None if it has none, or has not been rendered yet."""
        return self.prefixes.get(fan_in.task_id) if fan_in.is_templated else fan_in.task_id_prefix
