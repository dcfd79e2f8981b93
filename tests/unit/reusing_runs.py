"""Runs of a group with ``reuse``, one after another, without Airflow's server."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock

from airflow.sdk import DAG
from airflow.sdk.bases.operator import ExecutorSafeguard

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.rules.records import RECORD_KEY, RETURN_VALUE, batch_key
from tests.unit.fake_batch import batch_operator, run_batch, task_instance
from tests.unit.fake_run import FakeRun, Verdict, run_fan_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_fanout.storage import Reuse

__all__ = ["ReusingRun"]


def described(results: Any) -> dict[str, Any]:
    """What a fan-in's function sees of results."""
    return {
        "outcomes": {name: (o.state, o.value, o.error) for name, o in results.outcomes.items()},
        "values": list(results.items()),
        "reused": list(results.reused),
        "indexes": [o.index for o in results.outcomes.values()],
    }


@dataclass
class ReusingRun:
    """
    A run whose group has batches of ``size`` items.

    :param source: A task that returns the items, if they are known only at run time.
    """

    reuse: Reuse | None
    branch: Callable[..., Any]
    size: int = 3
    conf: dict[str, Any] = field(default_factory=dict)
    min_success: int | None = None
    more: dict[str, Any] = field(default_factory=dict)
    source: Any = None
    run: FakeRun = field(default_factory=FakeRun)

    def __post_init__(self) -> None:
        with DAG("pipeline", schedule=None):
            if self.source is not None:
                self.more = {**self.more, "items": self.source()}
            self.group = FanOutGroup(
                "g", branch=self.branch, items_per_task=self.size, reuse=self.reuse, **self.more
            )
            self.fan_in = FanInOperator(
                task_id="f", fan_out=self.group, python_callable=described, min_success=self.min_success
            )

    def split(self) -> ReusingRun:
        """Cut the items."""
        operator: Any = self.group.dag.get_task("g.split")
        ti = task_instance()
        with mock.patch.object(ExecutorSafeguard, "test_mode", new=True):
            bounds = operator.execute({"ti": ti, "dag_run": mock.Mock(conf=self.conf)})
        self.run.add("g.split", value=bounds)
        for call in ti.xcom_push.call_args_list:
            self.run.xcoms["g.split", -1, call.args[0]] = call.args[1]
        return self

    @property
    def bounds(self) -> list[list[int]]:
        """What was cut."""
        bounds: list[list[int]] = self.run.xcoms["g.split", -1, RETURN_VALUE]
        return bounds

    def batches(self) -> ReusingRun:
        """Run the batches; a group without any is skipped by Airflow."""
        if not self.bounds:
            self.run.add("g.each", "skipped", duration=0.0)
        for number, (start, stop, split, *_) in enumerate(self.bounds):
            payload = self.run.xcoms.get(("g.split", -1, batch_key(number)))
            operator = batch_operator(self.group, start, stop, split)
            ran = run_batch(self.group, operator=operator, map_index=number, payload=payload)
            state = "success" if ran.error is None else "failed"
            assert RECORD_KEY in ran.pushed, ran.error
            self.run.add("g.each", state, ran.pushed[RETURN_VALUE], map_index=number, record=ran.record)
        return self

    def collect(self) -> Verdict:
        """Run the fan-in."""
        return run_fan_in(self.fan_in, self.run)

    def whole(self) -> Any:
        """Run all, and return what the fan-in's function saw."""
        verdict = self.split().batches().collect()
        if verdict.error is not None:
            raise verdict.error
        return verdict.value
