"""``items_per_second``: a service that counts sees no more calls, whatever is tried again or cleared."""

from __future__ import annotations

import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.e2e.dags.rated import BATCHES, PER_SECOND, SIZE, TASKS
from tests.support.run import Run
from tests.support.serving import Serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.airflow import ControlledAirflow

pytestmark = pytest.mark.slow


class Call(NamedTuple):
    """A call that the service has seen: when, and from which try of which batch for which item."""

    at: float
    batch: int
    try_number: int
    item: int


class Service(Serving, ThreadingHTTPServer):
    """Counts its calls, and is too busy for the first one of every eighth item."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[Call] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str) -> str:
        """Note a call, and answer it."""
        call = Call(time.monotonic(), *map(int, path.strip("/").split("/")))
        is_first = all(call[1:] != earlier[1:] for earlier in self.calls)
        self.calls.append(call)
        return "too busy" if is_first and call.item % 8 == 2 else "here you are"


class Handler(BaseHTTPRequestHandler):
    """Answers with what the service says."""

    def do_GET(self) -> None:
        """Answer a call."""
        service: Any = self.server
        answer = service.answer(self.path).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def service(scratch: Path) -> Iterator[Service]:
    with Service() as server:
        (scratch / "rated-service").write_text(server.url)
        yield server


@pytest.fixture(scope="module")
def rated_run(airflow: ControlledAirflow, service: Service) -> Run:
    """A run of which the first batch is cleared while others run, and one is killed."""
    run = Run.start(airflow, "rated")

    def has_ended() -> bool | None:
        run.look_again()
        first = run.instances.get(("rated.each", 0))
        return (first is not None and first.state == "success") or None

    airflow.poll(has_ended, timeout=240, condition=lambda: "the first batch succeeds")
    airflow.clear(run.dag_id, run.run_id, [("rated.each", 0)])
    run.wait()
    return run


@pytest.fixture(scope="module")
def tries(rated_run: Run, service: Service) -> dict[tuple[int, int], list[Call]]:
    """What each try of each batch called, in order."""
    calls: dict[tuple[int, int], list[Call]] = defaultdict(list)
    for call in sorted(service.calls):
        calls[call.batch, call.try_number].append(call)
    return calls


def test_every_item_has_its_value_and_the_number_of_its_calls(rated_run: Run) -> None:
    collected = rated_run.collected("collect")

    assert [value for _, value in collected.items] == list(range(BATCHES * SIZE))


def test_no_second_sees_more_than_the_rate_and_one_seconds_burst(
    service: Service, tries: dict[tuple[int, int], list[Call]]
) -> None:
    times = sorted(call.at for call in service.calls)
    most = max(sum(first <= other < first + 1 for other in times) for first in times)

    assert {(0, 1), (0, 2), (3, 1), (3, 2)} <= tries.keys()  # cleared, and killed
    assert len(times) > BATCHES * SIZE * 1.1  # tried again
    assert most <= 2 * PER_SECOND


def test_each_task_uses_its_share(tries: dict[tuple[int, int], list[Call]]) -> None:
    whole = [calls for calls in tries.values() if len(calls) >= SIZE]
    used = [(len(calls) - 1) / (calls[-1].at - calls[0].at) / (PER_SECOND / TASKS) for calls in whole]

    assert len(whole) >= BATCHES - 1
    assert sorted(used)[len(used) // 2] >= 0.9
    assert max(used) <= 1.2


def test_waiting_for_the_rate_is_in_the_record(rated_run: Run) -> None:
    record = rated_run.xcom("rated.each", "fan_out_branch", map_index=1)

    assert 0.5 < record["rate_wait_seconds"] / record["elapsed"] <= 1
    assert sorted(set(record["tries"].values())) == [2]
    assert len(record["tries"]) == SIZE // 8
