"""A batch as Airflow would run it, without Airflow's server."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest import mock

from airflow.sdk.bases.operator import ExecutorSafeguard

from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE
from tests.unit.fake_run import TASK_INSTANCE, FakeRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_fanout import FanOutGroup
    from airflow_fanout.operators.batch import BatchOperator
    from tests.unit.fake_store import FakeStore

__all__ = ["Ran", "batch_operator", "run_batch", "task_instance"]


@dataclass(kw_only=True)
class Ran:
    """What a batch did: what it returned, or raised, and what it pushed by key, in that order."""

    value: Any
    error: BaseException | None
    pushed: dict[str, Any]
    ti: Any
    history: list[tuple[str, Any]]
    """All that it pushed, in order."""

    @property
    def record(self) -> dict[str, Any]:
        """Its record."""
        record: dict[str, Any] = self.pushed[RECORD_KEY]
        return record

    @property
    def outcome(self) -> tuple[str, Any]:
        """What it leaves for the fan-in, whether it succeeded or not: a letter for each item; the values."""
        return self.record["statuses"], self.pushed[RETURN_VALUE]


def batch_operator(group: FanOutGroup, start: int, stop: int, split: int = 1) -> BatchOperator:
    """Make the instance of a group's mapped task that runs these items, cut by a try of the task before."""
    each: Any = group.dag.get_task(f"{group.group_id}.each")
    operator: BatchOperator = each.unmap({"batch": [start, stop, split]})
    return operator


def task_instance(*, map_index: int = 0, try_number: int = 1, retries: int = 0, payload: Any = None) -> Any:
    """
    Make a task instance of a batch.

    :param payload: Its items as they were split; an exception if they can't be read.
    """
    ti = mock.Mock(spec=TASK_INSTANCE)
    ti.map_index, ti.try_number, ti.max_tries = map_index, try_number, retries
    ti.dag_id, ti.run_id = "pipeline", "the run"
    ti._ti_context_from_server = None
    ti.get_task_breadcrumbs.return_value = []

    ti.xcom_pull.side_effect = payload if isinstance(payload, Exception) else None
    ti.xcom_pull.return_value = payload
    return ti


def run_batch(
    group: FanOutGroup,
    start: int = 0,
    stop: int | None = None,
    *,
    split: int = 1,
    store: FakeStore | None = None,
    run: FakeRun | None = None,
    context: dict[str, Any] | None = None,
    operator: BatchOperator | None = None,
    refuses: Callable[[dict[str, Any]], Exception | bool] = lambda values: False,
    **of_instance: Any,
) -> Ran:
    """
    Execute a batch of a group.

    :param refuses: Whether the server refuses its values.
    """
    size = group.declared.count or 0
    operator = operator or batch_operator(group, start, size if stop is None else stop, split)
    ti = task_instance(**of_instance)
    pushed: dict[str, Any] = {}
    history: list[tuple[str, Any]] = []

    def push(key: str, value: Any) -> None:
        if key == RETURN_VALUE and (refusal := refuses(value)):
            raise refusal if isinstance(refusal, Exception) else ConnectionError("refused")
        pushed[key] = value
        history.append((key, copy.copy(value)))

    ti.xcom_push.side_effect = push
    given: Any = {"ti": ti, **(context or {})}
    if store is not None:
        given["task_state_store"] = store
    value, error = None, None
    reader = (run or FakeRun()).reader()
    with (
        mock.patch.object(ExecutorSafeguard, "test_mode", new=True),
        mock.patch("airflow_fanout.operators.batch.RunReader", return_value=reader),
    ):
        try:
            value = operator.execute(given)
            if operator._post_execute_hook is not None:
                operator._post_execute_hook(given, value)
            for callback in operator.on_success_callback:
                callback(given)
        except BaseException as raised:
            error = raised
    return Ran(value=value, error=error, pushed=pushed, ti=ti, history=history)
