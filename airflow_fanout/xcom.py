"""The one place that asks the API server for states and XComs of a run; runs on the worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_fanout.hooks import RECORD_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

__all__ = ["NOTHING", "PAGE_SIZE", "InstanceState", "RunReader", "resumes", "values_lie_elsewhere", "whole"]

PAGE_SIZE = 500
"""Mapped instances whose values are read in one request."""

BODIES_AT_ONCE = 16
"""Bodies of object-storage XComs that are read at the same time."""

NOTHING: Any = object()
"""Stands where nothing was pushed; None is a value."""


@dataclass(frozen=True, kw_only=True)
class InstanceState:
    """
    What the server knows of one finished task instance.

    :param state: Its state, in Airflow's words.
    :param duration: Seconds from start to end of its last try; None if it never started.
    :param operator: Class name of its operator.
    """

    state: str
    duration: float | None
    operator: str | None


class RunReader:
    """
    Reads one run. Each call is one request to the API server, about 10 ms, one at a time.

    :param ti: The task instance that reads.
    """

    def __init__(self, ti: RuntimeTaskInstance) -> None:
        self._ti = ti
        self.requests = 0
        self.found_nothing = False
        """Whether somebody had pushed nothing where a value was looked for."""

    def states(self) -> dict[tuple[str, int], InstanceState]:
        """
        State of every finished instance of the run, by ``(task_id, map_index)``.

        ``get_task_breadcrumbs`` (Airflow 3.2) answers in one request; ``get_task_states`` takes the ids in
        its URL and can't tell ``work[1]`` from a task ``work_1``.
        """
        self.requests += 1
        return {
            (row["task_id"], row["map_index"]): InstanceState(
                state=str(row["state"]), duration=row["duration"], operator=row["operator"]
            )
            for row in self._ti.get_task_breadcrumbs(dag_id=self._ti.dag_id, run_id=self._ti.run_id)
        }

    def instance_count(self, task_ids: Sequence[str]) -> int:
        """Count the instances of some tasks, finished or not."""
        self.requests += 1
        return self._ti.get_ti_count(
            dag_id=self._ti.dag_id, task_ids=list(task_ids), run_ids=[self._ti.run_id]
        )

    def value(self, task_id: str, map_index: int, key: str) -> Any:
        """
        Value that one instance pushed; NOTHING if there is none.

        A None that was pushed by hand reads as NOTHING here; :meth:`pushed_none` tells.
        """
        self.requests += 1
        found = self._ti.xcom_pull(task_ids=task_id, map_indexes=map_index, key=key, default=NOTHING)
        self.found_nothing |= found is NOTHING
        return found

    def record(self, task_id: str, map_index: int) -> dict[str, Any] | None:
        """Record that a branch of this package pushed beside its value; None if there is none."""
        found = self.value(task_id, map_index, RECORD_KEY)
        return found if isinstance(found, dict) else None

    def pushed_none(self, task_id: str, key: str) -> bool:
        """Whether a task that is not mapped has pushed None under a key, which is not the same as nothing."""
        return list(self.page(task_id, key, 0, 1)) == [None]

    def value_count(self, task_id: str, key: str) -> int:
        """Count the instances of a mapped task that have pushed a value."""
        from airflow.sdk.execution_time.comms import GetXComCount, XComCountResponse

        answer = self._ask(
            GetXComCount(key=key, dag_id=self._ti.dag_id, run_id=self._ti.run_id, task_id=task_id)
        )
        if not isinstance(answer, XComCountResponse):
            raise TypeError(_unexpected("XComCountResponse", answer))
        return answer.len

    def page(self, task_id: str, key: str, start: int, stop: int) -> Iterator[Any]:
        """
        Values of a mapped task, by map_index, of those instances that pushed one.

        A position in this list is no identity: an instance without a value leaves no gap.

        :param start: First position.
        :param stop: Position after the last.
        """
        from airflow.sdk.execution_time.comms import GetXComSequenceSlice, XComSequenceSliceResult
        from airflow.sdk.execution_time.lazy_sequence import _XComWrapper
        from airflow.sdk.execution_time.xcom import XCom

        answer = self._ask(
            GetXComSequenceSlice(
                key=key,
                dag_id=self._ti.dag_id,
                task_id=task_id,
                run_id=self._ti.run_id,
                start=start,
                stop=stop,
                step=None,
            )
        )
        if not isinstance(answer, XComSequenceSliceResult):
            raise TypeError(_unexpected("XComSequenceSliceResult", answer))
        wrapped = map(_XComWrapper, answer.root)
        if not values_lie_elsewhere():
            return map(XCom.deserialize_value, wrapped)
        with ThreadPoolExecutor(BODIES_AT_ONCE, thread_name_prefix="fan-in-bodies") as readers:
            return iter(list(readers.map(XCom.deserialize_value, wrapped)))

    def _ask(self, message: Any) -> Any:
        from airflow.sdk.execution_time import task_runner

        self.requests += 1
        return task_runner.SUPERVISOR_COMMS.send(message)


def resumes(ti: RuntimeTaskInstance) -> bool:
    """Whether a task goes on with what it began before: after a deferral, or after a sensor's reschedule."""
    server: Any = ti._ti_context_from_server  # noqa: SLF001 - there is no public way
    return server is not None and bool(server.next_method or server.task_reschedule_count)


def values_lie_elsewhere() -> bool:
    """Whether values are not in the database, so that one can be gone that was pushed."""
    from airflow.sdk.bases.xcom import BaseXCom
    from airflow.sdk.execution_time.xcom import XCom

    return XCom is not BaseXCom


def whole(value: Any) -> Any:
    """What a mapped task returned as a list, in one request, instead of one for each look at an element."""
    from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

    return value[:] if isinstance(value, LazyXComSequence) else value


def _unexpected(expected: str, answer: object) -> str:
    return f"expected {expected} from the supervisor, found {answer!r}"
