"""Tasks that come one after another though no data flows between them, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from airflow_fanout.rules.names import natural_key
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.data_flow import READS_ANY

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence, Set

    from airflow_fanout.serialization.data_flow import Step

SIDE_EFFECTS = (
    "What the Dag doesn't show: a later task may need what an earlier one does elsewhere (a file, a table, "
    "another system). Look at both before you take the arrow between them away"
)


class Pair(NamedTuple):
    """Two tasks of which one comes directly after the other."""

    before: str
    after: str


class Path(NamedTuple):
    """The tasks that a run has to wait for one after another, and their seconds."""

    tasks: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Chain:
    """
    Tasks that come one after another, or are connected by such, without data between these.

    :param saved_seconds: What running them at once would have saved; None if no run says how long they take.
    """

    tasks: tuple[str, ...]
    pairs: tuple[Pair, ...]
    saved_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """
    What could run at once in a Dag that doesn't.

    :param source: ``file`` or ``database``: where the Dag was taken from.
    :param runs: Number of runs that the durations are of.
    :param seconds: Median duration of each task; None if it hasn't succeeded in these.
    :param chains: Those that save most first.
    :param critical_path: As the Dag is; None if no run says how long its tasks take.
    :param parallel_path: With all chains at once.
    :param unknown: What can't be known from the Dag and its runs.
    """

    dag_id: str
    source: str
    runs: int
    seconds: Mapping[str, float | None]
    chains: tuple[Chain, ...]
    critical_path: Path | None
    parallel_path: Path | None
    unknown: tuple[str, ...]

    @property
    def saved_seconds(self) -> float | None:
        """What all chains at once would have saved."""
        if self.critical_path is None or self.parallel_path is None:
            return None
        return self.critical_path.seconds - self.parallel_path.seconds


def suggest(
    dag_id: str,
    steps: Mapping[str, Step],
    durations: Mapping[str, Sequence[float]],
    *,
    runs: int = 0,
    source: str = "file",
) -> Suggestion:
    """
    Find the tasks that needn't come one after another.

    :param durations: Seconds that each task took, by its id, once for each of some runs.
    :param runs: Number of these runs.
    """
    graph = _Graph(steps)
    seconds = {task_id: median(durations[task_id]) if durations.get(task_id) else None for task_id in steps}
    known = {task_id: value or 0.0 for task_id, value in seconds.items()}
    is_timed = any(value is not None for value in seconds.values())
    before = graph.longest(known, free=())
    groups = _connected(graph.free)
    chains = [
        Chain(
            tasks=tuple(graph.in_order({*chain.from_iterable(pairs)})),
            pairs=tuple(pairs),
            saved_seconds=before.seconds - graph.longest(known, free=pairs).seconds if is_timed else None,
        )
        for pairs in groups
    ]
    return Suggestion(
        dag_id=dag_id,
        source=source,
        runs=runs,
        seconds=seconds,
        chains=tuple(sorted(chains, key=lambda found: -(found.saved_seconds or 0))),
        critical_path=before if is_timed else None,
        parallel_path=graph.longest(known, free=graph.free) if is_timed else None,
        unknown=tuple(_unknown(steps, seconds, runs, source, has_chains=bool(chains))),
    )


def _unknown(
    steps: Mapping[str, Step],
    seconds: Mapping[str, float | None],
    runs: int,
    source: str,
    *,
    has_chains: bool,
) -> Iterable[str]:
    if has_chains:
        yield SIDE_EFFECTS
    if source == "database":
        yield "What its functions pull by xcom_pull: no file has this Dag, and the database has no functions"
    if pulling := [task_id for task_id, step in steps.items() if step.waits == READS_ANY]:
        yield f"Of whom they take XComs, so that they stay where they are: {listing(pulling)}"
    untimed = [i for i, value in seconds.items() if value is None and not steps[i].is_junction]
    if not runs:
        yield "How long the tasks take: the Dag has no run that has ended"
    elif untimed:
        yield f"How long these take, which succeeded in none of the runs (0 s here): {listing(untimed)}"
    if runs:
        yield "Whether there are slots for more at once (airflow fanout check), and how much that slows each"


class _Graph:
    """The tasks without those that only put others in order, in the order in which they may run."""

    def __init__(self, steps: Mapping[str, Step]) -> None:
        self._steps = steps
        order = TopologicalSorter({i: sorted(step.upstream) for i, step in steps.items()}).static_order()
        self._upstream: dict[str, list[str]] = {}
        before: dict[str, set[str]] = {}  # of junctions too
        self._ancestors: dict[str, set[str]] = {}
        for task_id in order:
            direct: set[str] = set()
            for other in steps[task_id].upstream:
                direct |= before[other] if steps[other].is_junction else {other}
            before[task_id] = direct
            if steps[task_id].is_junction:
                continue
            self._upstream[task_id] = sorted(direct, key=natural_key)
            self._ancestors[task_id] = direct.union(*(self._ancestors[other] for other in direct))
        self._rank = {i: rank for rank, i in enumerate(sorted(self._upstream, key=natural_key))}  # of equals
        # Pairs without data between them, nor another reason for their order.
        self.free = [
            Pair(other, task_id)
            for task_id, direct_ids in self._upstream.items()
            for other in direct_ids
            if not (steps[task_id].waits or steps[other].holds or other in steps[task_id].reads)
        ]

    def in_order(self, task_ids: Collection[str]) -> list[str]:
        """Put tasks into the order in which they run."""
        return [task_id for task_id in self._upstream if task_id in task_ids]

    def longest(self, seconds: Mapping[str, float], *, free: Collection[Pair]) -> Path:
        """
        Find the critical path if some pairs were at once.

        What a task takes data of it still waits for, and for all that was before that; so does what comes
        after it for another reason.
        """
        freed = {*free}
        waits: dict[str, Set[str]] = {}
        ends: dict[str, float] = {}
        last: dict[str, str | None] = {}
        for task_id, upstream in self._upstream.items():
            ancestors = self._ancestors[task_id]
            waits[task_id] = ancestors
            if any((other, task_id) in freed for other in upstream):
                needed = {other for other in upstream if (other, task_id) not in freed}
                needed |= self._steps[task_id].reads & ancestors
                inherited = (waits[other] for other in upstream if (other, task_id) in freed)
                waits[task_id] = needed.union(*(self._ancestors[other] for other in needed), *inherited)
            last[task_id] = max(waits[task_id], key=lambda i: (ends[i], self._rank[i]), default=None)
            ends[task_id] = seconds[task_id] + (0.0 if last[task_id] is None else ends[str(last[task_id])])
        end = max(self._upstream, key=ends.__getitem__, default=None)
        path: list[str] = []
        task: str | None = end
        while task is not None:
            path.insert(0, task)
            task = last[task]
        return Path(tuple(path), 0.0 if end is None else ends[end])


def _connected(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Put pairs together that have tasks in common."""
    leaders: dict[str, str] = {}

    def leader(task_id: str) -> str:
        while (other := leaders.setdefault(task_id, task_id)) != task_id:
            leaders[task_id] = leaders[other]
            task_id = other
        return task_id

    for pair in pairs:
        leaders[leader(pair.after)] = leader(pair.before)
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(leader(pair.before), []).append(pair)
    return list(groups.values())
