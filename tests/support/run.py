"""A run on the tests' Airflow, as tests ask about it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from tests.support.airflow import RestCalls

__all__ = ["NEVER", "Collected", "Instance", "Run", "RunStarter", "ran_side_by_side"]

NEVER = datetime.max.replace(tzinfo=UTC)
"""When a task started that hasn't."""


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A task instance of a finished run, as its last try left it; on Celery its host name is its worker."""

    state: str
    try_number: int
    queued: datetime
    start: datetime
    end: datetime
    duration: float | None
    hostname: str | None


@dataclass(frozen=True, kw_only=True)
class Collected:
    """The results that a fan-in's function was given, as :func:`tests.e2e.dump.dump` pushed them."""

    items: list[tuple[str, Any]]
    outcomes: Mapping[str, Mapping[str, Any]]
    failed: list[str]
    skipped: list[str]
    missing: list[str]

    @property
    def states(self) -> dict[str, str]:
        """State of every branch, in order."""
        return {name: outcome["state"] for name, outcome in self.outcomes.items()}


class Run:
    """One run of a Dag; what it says is of the time when it was last waited for."""

    def __init__(self, airflow: RestCalls, dag_id: str, run_id: str) -> None:
        self.airflow, self.dag_id, self.run_id = airflow, dag_id, run_id

    @classmethod
    def start(cls, airflow: RestCalls, dag_id: str, **conf: Any) -> Self:
        """Start a run of a Dag, as soon as there is one."""
        airflow.wait_for_dag(dag_id, timeout=180)
        return cls(airflow, dag_id, airflow.trigger(dag_id, conf=conf))

    def wait(self) -> None:
        """Wait until the run has ended."""
        self.airflow.wait_for_run(self.dag_id, self.run_id, timeout=600)
        self.look_again()

    def look_again(self) -> None:
        """Forget what its instances were."""
        self.__dict__.pop("instances", None)

    def clear(self, *task_ids: str) -> None:
        """Clear tasks and all that is downstream of them, and wait until the run has ended again."""
        self.airflow.clear(self.dag_id, self.run_id, task_ids, include_downstream=True)
        self.wait()

    def mark_success(self, task_id: str) -> None:
        """Mark a task as success, as a person does in the UI."""
        self.airflow.set_state(self.dag_id, self.run_id, task_id, "success")

    @cached_property
    def instances(self) -> dict[tuple[str, int], Instance]:
        """Every task instance by ``(task_id, map_index)``."""
        return {
            (instance["task_id"], instance["map_index"]): Instance(
                state=instance["state"],
                try_number=instance["try_number"],
                queued=_timestamp(instance["queued_when"]),
                start=_timestamp(instance["start_date"]),
                end=_timestamp(instance["end_date"]),
                duration=instance["duration"],
                hostname=instance["hostname"],
            )
            for instance in self.airflow.task_instances(self.dag_id, self.run_id)
        }

    def instance(self, task_id: str, map_index: int = -1) -> Instance:
        """Return one task instance."""
        return self.instances[task_id, map_index]

    def group(self, group_id: str) -> list[Instance]:
        """Return the instances of a task group's tasks, without those of ``split``."""
        return [
            instance
            for (task_id, _), instance in self.instances.items()
            if task_id.startswith(f"{group_id}.") and not task_id.endswith(".split")
        ]

    def wall_seconds(self, group_id: str) -> float:
        """Return the seconds from the first start to the last end of a group's tasks."""
        tasks = self.group(group_id)
        return (max(task.end for task in tasks) - min(task.start for task in tasks)).total_seconds()

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return what a task pushed."""
        return self.airflow.xcom(self.dag_id, self.run_id, task_id, key=key, map_index=map_index)

    def find_xcom(self, task_id: str, key: str = "return_value") -> Any:
        """Return what a task pushed; None if it pushed nothing."""
        try:
            return self.xcom(task_id, key)
        except KeyError:
            return None

    def collected(self, task_id: str, key: str = "return_value") -> Collected:
        """Return what a fan-in's function was given, as :func:`tests.e2e.dump.dump` put it under a key."""
        dumped = self.xcom(task_id, key)
        return Collected(
            items=[(name, value) for name, value in dumped["items"]],
            outcomes={outcome["name"]: outcome for outcome in dumped["outcomes"]},
            **{part: dumped[part] for part in ("failed", "skipped", "missing")},
        )

    def requests(self, task_id: str) -> int:
        """Return how many requests a ``CountingFanIn`` sent."""
        return sum(self.xcom(task_id, "requests").values())

    def report(self, task_id: str) -> dict[str, Any]:
        """Return a fan-in's report."""
        report: dict[str, Any] = self.xcom(task_id, "fan_out_report")
        return report

    def log(self, task_id: str, map_index: int = -1) -> str:
        """Return the log of a task's last try."""
        number = self.instance(task_id, map_index).try_number
        return self.airflow.log(self.dag_id, self.run_id, task_id, try_number=number, map_index=map_index)


def ran_side_by_side(instances: list[Instance]) -> bool:
    """Whether two of them ran at the same time on different hosts."""
    return any(
        one.hostname != other.hostname and max(one.start, other.start) < min(one.end, other.end)
        for one, other in combinations(instances, 2)
    )


class RunStarter:
    """Starts one run of each Dag that is asked for; one that can't be started fails whoever asks for it."""

    def __init__(self, airflow: RestCalls) -> None:
        self._airflow = airflow
        self._runs: dict[str, Run | Exception] = {}

    def start(self, *dag_ids: str) -> None:
        """Start runs, without waiting for them."""
        for dag_id in dag_ids:
            try:
                self._runs[dag_id] = Run.start(self._airflow, dag_id)
            except Exception as error:
                self._runs[dag_id] = error

    def __call__(self, dag_id: str) -> Run:
        """Wait for the run of a Dag."""
        if dag_id not in self._runs:
            self.start(dag_id)
        run = self._runs[dag_id]
        if isinstance(run, Exception):
            message = f"the run of {dag_id!r} could not be started"
            raise RuntimeError(message) from run
        run.wait()
        return run


def _timestamp(text: str | None) -> datetime:
    return NEVER if text is None else datetime.fromisoformat(text)
