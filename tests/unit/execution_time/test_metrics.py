from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.exceptions import TooFewBranchesError, UpstreamFailedError
from airflow_fanout.execution_time import metrics
from tests.unit.fake_run import STARTED, FakeRun, run_fan_in

if TYPE_CHECKING:
    from tests.unit.fake_run import Verdict

TAGS = {"dag_id": "pipeline", "task_id": "combine", "group_id": "process"}


def work() -> None:
    """Never called: what became of it is told."""


@dataclass
class Client:
    """What Airflow's own client is asked to send."""

    counted: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    measured: dict[str, tuple[float, dict[str, str]]] = field(default_factory=dict)

    def incr(self, stat: str, count: int = 1, *, tags: dict[str, str]) -> None:
        self.counted.append((stat, count, tags))

    def gauge(self, stat: str, value: float, *, tags: dict[str, str]) -> None:
        self.measured[stat] = (value, tags)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client()
    monkeypatch.setattr(metrics, "Stats", client)
    return client


def mixed_run() -> FakeRun:
    run = (
        FakeRun().succeed("process.process_0", 0, duration=1.5).succeed("process.process_1", 1, duration=2.0)
    )
    run.fail("process.process_2", duration=0.25)
    return run.add("process.process_3", "skipped", duration=None)


def run_group(run: FakeRun, **arguments: Any) -> Verdict:
    process = FanOutGroup("process", branch=work, count=4)
    fan_in = FanInOperator(task_id="combine", fan_out=process, **arguments)
    return run_fan_in(fan_in, run, dag_run=SimpleNamespace(start_date=STARTED - timedelta(seconds=90)))


@pytest.mark.usefixtures("dag")
class TestMetrics:
    def test_branches_are_counted_by_state(self, client: Client) -> None:
        run_group(mixed_run(), min_success=2)

        branches = [(count, tags) for stat, count, tags in client.counted if stat == "fan_out.branches"]
        counts = {"success": 2, "failed": 1, "skipped": 1}
        assert branches == [(number, {**TAGS, "state": state}) for state, number in counts.items()]

    def test_only_a_degraded_success_is_counted_as_one(self, client: Client) -> None:
        run_group(mixed_run(), min_success=2)

        assert client.counted[-1] == ("fan_out.degraded", 1, TAGS)

    def test_a_verdict_against_the_run_is_counted_too_and_is_not_degraded(self, client: Client) -> None:
        assert isinstance(run_group(mixed_run()).error, TooFewBranchesError)

        assert [(stat, count) for stat, count, _ in client.counted] == [
            ("fan_out.branches", n) for n in (2, 1, 1)
        ]

    def test_so_is_a_run_in_which_another_task_failed(self, client: Client) -> None:
        process = FanOutGroup("process", branch=work, count=1)
        fan_in = FanInOperator(task_id="combine", fan_out=process)
        EmptyOperator(task_id="beside") >> fan_in
        run = FakeRun().succeed("process.process_0", 0).add("beside", "failed", operator="EmptyOperator")

        assert isinstance(run_fan_in(fan_in, run).error, UpstreamFailedError)
        assert client.counted == [("fan_out.branches", 1, {**TAGS, "state": "success"})]

    def test_work_is_that_of_all_branches_and_wall_from_the_runs_start_to_the_fan_ins(
        self, client: Client
    ) -> None:
        run_group(mixed_run(), min_success=2)

        assert client.measured == {
            "fan_out.work_seconds": (3.75, TAGS),
            "fan_out.wall_seconds": (90.0, TAGS),
        }

    def test_a_wall_that_is_not_known_is_not_sent(self, client: Client) -> None:
        fan_in = FanInOperator(task_id="combine", fan_out=FanOutGroup("process", branch=work, count=1))
        run_fan_in(fan_in, FakeRun().succeed("process.process_0", 0))

        assert list(client.measured) == ["fan_out.work_seconds"]

    def test_branches_of_a_prefix_have_no_group(self, client: Client) -> None:
        process = FanOutGroup("process", branch=work, count=1)
        fan_in = FanInOperator(task_id="combine", task_id_prefix="process.")
        process >> fan_in
        run_fan_in(fan_in, FakeRun().succeed("process.process_0", 0))

        ((_, _, tags),) = client.counted
        assert tags == {"dag_id": "pipeline", "task_id": "combine", "state": "success"}

    def test_a_client_that_is_broken_fails_no_fan_in(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            message = "no route to host"
            raise OSError(message)

        monkeypatch.setattr(metrics, "Stats", SimpleNamespace(incr=refuse, gauge=refuse))

        verdict = run_group(mixed_run(), min_success=2)

        assert verdict.error is None
        assert "No metrics of this fan-in could be sent" in caplog.text
        assert "no route to host" in caplog.text


@pytest.mark.usefixtures("dag")
class TestSpan:
    def test_the_tasks_own_span_says_the_same(self) -> None:
        provider, exporter = TracerProvider(), InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(exporter))

        with provider.get_tracer("test").start_as_current_span("worker.combine"):
            run_group(mixed_run(), min_success=2)

        (span,) = exporter.get_finished_spans()
        assert dict(span.attributes or {}) == {
            "fan_out.group_id": "process",
            "fan_out.degraded": True,
            "fan_out.branches.success": 2,
            "fan_out.branches.failed": 1,
            "fan_out.branches.skipped": 1,
            "fan_out.work_seconds": 3.75,
            "fan_out.wall_seconds": 90.0,
        }
