"""Parts of Airflow die while groups run: no fan-in ever tells less, or anything else, than what happened."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
import pytest

from tests.support.celery_airflow import CeleryAirflow
from tests.support.run import Run
from tests.support.servers import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.run import Collected

pytestmark = pytest.mark.celery

REPOSITORY = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
DATABASE = "postgres"
PATIENCE = 240
"""Seconds after which to give up whatever is waited for: a busy machine takes its time."""

SLOTS = 9
"""Of each of the two workers: enough for all the branches of a run to wait at the same time."""

DETECTION = {
    # After this many seconds without a sign of life a task is given up: longer than the API server is away.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "90",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    # After this many seconds a task that no worker has taken is queued again.
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "45",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
}
PERSISTENCE = {
    # A task asks a silent API server 40 times, every 1 to 5 s, instead of 5 times within 15 s at most.
    "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "40",
    "AIRFLOW__WORKERS__EXECUTION_API_RETRY_WAIT_MAX": "5",
}

STAGES = ("branches", "items", "last item", "fan-in")
TRIED = ("retried", "final")
KILLED = (0, 2, 4, 6)
"""Numbers of the branches that are on worker-1."""

NO_EXCEPTION = (
    "no exception was recorded: the task's process never started, or ended before it could report one"
)


class SupervisedAirflow(CeleryAirflow):
    """An Airflow whose processes are started again when they end, as ``restart: unless-stopped`` has it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.restarted: list[str] = []

    def ensure_alive(self) -> None:
        """Start again what has ended by itself."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None:
                self.stop_process(name)
                self.start_process(name)
                self.restarted.append(name)


class HeldRun(Run):
    """A run, named after a fault, whose branches, items and fan-in wait at stages until they are let go."""

    airflow: SupervisedAirflow

    def __init__(
        self, airflow: SupervisedAirflow, dag_id: str, fault: str, scratch: Path, database: PostgresServer
    ) -> None:
        super().__init__(airflow, dag_id, fault)
        self.folder = scratch / fault
        self._database = database
        self.folder.mkdir()
        airflow.trigger(dag_id, dag_run_id=fault)

    def waiting(self, stage: str) -> dict[str, tuple[str, int]]:
        """Worker and process of what has come to a stage, by task id."""
        return {
            path.name: (path.read_text().split()[0], int(path.read_text().split()[1]))
            for path in (self.folder / stage).glob("*")
        }

    def wait_for(self, stage: str, count: int = 1) -> dict[str, tuple[str, int]]:
        """Wait until so many have come to a stage."""
        self.poll(lambda: len(self.waiting(stage)) >= count, f"{count} have not come to {stage!r}")
        return self.waiting(stage)

    def poll(self, condition: Callable[[], bool], failure: str) -> None:
        """Wait for a condition."""
        self.airflow.poll(lambda: condition() or None, timeout=PATIENCE, condition=lambda: failure)

    def let_go(self, *stages: str) -> None:
        """Let what has come, or comes, to stages go on."""
        for stage in stages:
            (self.folder / f"{stage}.go").touch()

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the database about the tables of this run."""
        with (
            closing(psycopg2.connect(f"{self._database.url}/{DATABASE}")) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, {"dag_id": self.dag_id, "run_id": self.run_id})
            return cursor.fetchall()

    def ledger(self, group_id: str) -> dict[str, tuple[str, Any]]:
        """State and value of every branch by name, as they are in the database."""
        rows = self.query(
            "SELECT task_id, state, value FROM task_instance"
            " LEFT JOIN (SELECT * FROM xcom WHERE key = 'return_value') pushed"
            " USING (dag_id, run_id, task_id, map_index)"
            " WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s"
        )
        found = {task_id: (state, value) for task_id, state, value in rows}
        names = [f"{group_id}_{index}" for index in range(len(found))]
        return {name: found[f"{group_id}.{name}"] for name in names if f"{group_id}.{name}" in found}

    def states(self, group_id: str) -> Counter[str]:
        """How many of a group's branches are in which state, at this moment."""
        return Counter(state for state, _ in self.ledger(group_id).values())

    @property
    def items_run(self) -> Counter[int]:
        """How often each item of the batch was begun."""
        return Counter(map(int, (self.folder / "items-run").read_text().split()))

    @property
    def items_saved(self) -> int:
        """How many items the batch has saved."""
        rows = self.query(
            "SELECT value FROM task_state_store WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s"
        )
        return sum(len(json.loads(value)) for (value,) in rows)


def assert_true(run: HeldRun, group_id: str, collected: Collected) -> None:
    """A fan-in was given what the database says: every branch in declared order, its state and value."""
    true = run.ledger(group_id)
    assert list(collected.outcomes) == list(true)
    assert collected.states == {name: state for name, (state, _) in true.items()}
    assert collected.items == [(name, value) for name, (state, value) in true.items() if state == "success"]


def assert_all_squares(group_id: str, collected: Collected) -> None:
    """A fan-in was given every item's value."""
    assert collected.items == [(f"{group_id}_{index}", index * index) for index in range(40)]


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(autouse=True)
def nothing_waits_afterwards(scratch: Path) -> Iterator[None]:
    """What a test that failed has left waiting would take a slot from the next."""
    yield
    for folder in scratch.iterdir():
        for stage in STAGES:
            (folder / f"{stage}.go").touch()


@pytest.fixture(scope="module")
def shared_airflow(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, redis: RedisServer, scratch: Path
) -> Iterator[SupervisedAirflow]:
    """Two workers, PostgreSQL and Redis, for all faults one after another."""
    with SupervisedAirflow(
        broker_url=redis.url,
        database_url=postgres.database_url,
        concurrency=SLOTS,
        dag_files=[DAGS / "faults.py"],
        home=tmp_path_factory.mktemp("airflow"),
        env={
            "FANOUT_E2E_SCRATCH": str(scratch),
            **DETECTION,
            **PERSISTENCE,
        },
    ) as airflow:
        for dag_id in ("faults_tries", "faults_held", "faults_saving", "faults_queued"):
            airflow.wait_for_dag(dag_id, timeout=PATIENCE)
        yield airflow


@pytest.fixture(scope="module")
def begin(
    shared_airflow: SupervisedAirflow, postgres: PostgresServer, scratch: Path
) -> Callable[[str, str], HeldRun]:
    """Call it with a Dag id and the name of a fault for a run on an Airflow that is healthy."""

    def begin(dag_id: str, fault: str) -> HeldRun:
        shared_airflow.wait_until_healthy()
        shared_airflow.restarted.clear()
        return HeldRun(shared_airflow, dag_id, fault, scratch, postgres)

    return begin


@pytest.fixture(scope="module", params=["worker", "processes"])
def killed(request: pytest.FixtureRequest, begin: Callable[[str, str], HeldRun]) -> HeldRun:
    """A run in whose midst a worker was killed, or the processes of all its tasks, which are the same."""
    run = begin("faults_tries", f"killed-{request.param}")
    waiting = run.wait_for("branches", 16) | run.wait_for("items")
    run.poll(lambda: run.items_saved == 20, "the batch has not saved what it had done")
    processes = {task_id: process for task_id, (worker, process) in waiting.items() if worker == "worker-1"}
    assert set(processes) == {*(f"{name}.{name}_{n}" for name in TRIED for n in KILLED), "resumed.each"}
    if request.param == "worker":
        run.airflow.stop_process("worker-1", signal.SIGKILL)
        run.airflow.start_process("worker-1")
    else:
        for process in processes.values():
            os.kill(process, signal.SIGKILL)
    run.let_go("branches", "items", "last item")
    run.wait()
    return run


def test_a_branch_that_was_killed_is_tried_again(killed: HeldRun) -> None:
    assert_true(killed, "retried", killed.collected("collect_retried"))
    assert killed.ledger("retried") == {
        f"retried_{n}": ("success", f"retried.retried_{n} on try {2 if n in KILLED else 1}") for n in range(8)
    }


def test_a_branch_that_was_killed_for_good_is_failed_and_the_others_are_kept(killed: HeldRun) -> None:
    collected = killed.collected("tolerate_final")
    assert_true(killed, "final", collected)
    assert collected.failed == [f"final_{n}" for n in KILLED]
    assert {collected.outcomes[name]["error"] for name in collected.failed} == {NO_EXCEPTION}


def test_a_fan_in_that_needs_every_branch_names_those_that_were_killed(killed: HeldRun) -> None:
    assert killed.instance("refuse_final").state == "failed"
    assert killed.report("refuse_final")["problems"] == [
        {"name": f"final_{n}", "state": "failed", "error": NO_EXCEPTION} for n in KILLED
    ]
    names = ", ".join(f"final_{n}" for n in KILLED)
    assert f"{len(KILLED)} × failed: {NO_EXCEPTION} ({names})" in killed.log("refuse_final")


def test_a_batch_that_was_killed_runs_only_what_it_had_not_saved(killed: HeldRun) -> None:
    assert killed.instance("resumed.each", 0).try_number == 2
    assert_all_squares("resumed", killed.collected("collect_resumed"))
    assert killed.items_run == {index: 2 if index == 20 else 1 for index in range(40)}


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=lambda sig: sig.name)
def test_branches_end_while_there_is_no_scheduler_and_the_next_one_takes_up_the_run(
    begin: Callable[[str, str], HeldRun], sig: signal.Signals
) -> None:
    run = begin("faults_held", f"scheduler-{sig.name}")
    run.wait_for("branches", 8)
    run.airflow.stop_process("scheduler", sig)
    run.let_go("branches", "fan-in")
    run.poll(lambda: run.states("held") == {"success": 8}, "the branches have not ended")
    assert not run.waiting("fan-in")
    run.airflow.start_process("scheduler")
    run.wait()
    assert_true(run, "held", run.collected("collect"))
    assert {found.try_number for found in run.instances.values()} == {1}


def test_a_fan_in_and_a_batch_wait_for_the_api_server(begin: Callable[[str, str], HeldRun]) -> None:
    reading = begin("faults_held", "api-server-away")
    saving = begin("faults_saving", "api-server-away-from-a-batch")
    reading.let_go("branches")
    reading.wait_for("fan-in")
    process = saving.wait_for("items")["saving.each"][1]
    reading.airflow.stop_process("api-server", signal.SIGKILL)
    reading.let_go("fan-in")
    saving.let_go("items")
    time.sleep(10)
    back = datetime.now(tz=UTC)
    reading.airflow.start_process("api-server")
    reading.wait()
    assert_true(reading, "held", reading.collected("collect"))
    assert reading.instance("collect").try_number == 1
    assert reading.instance("collect").end > back
    # What the batch did meanwhile it has saved, too.
    saving.wait_for("last item")
    saving.poll(lambda: saving.items_saved == 39, "the batch has not saved what it had done")
    os.kill(process, signal.SIGKILL)
    saving.let_go("last item")
    saving.wait()
    assert_all_squares("saving", saving.collected("collect"))
    assert saving.items_run == {index: 2 if index == 39 else 1 for index in range(40)}


def test_what_redis_has_lost_is_queued_again_and_what_runs_goes_on(
    begin: Callable[[str, str], HeldRun], shared_airflow: SupervisedAirflow, redis: RedisServer
) -> None:
    # With one worker there are not enough slots.
    shared_airflow.stop_process("worker-2", grace=PATIENCE)
    run = begin("faults_queued", "redis-empty")
    run.wait_for("branches", SLOTS)
    run.poll(lambda: run.states("queued")["queued"] == 12 - SLOTS, "the others have not been queued")
    lost = {f"queued.{name}" for name, (state, _) in run.ledger("queued").items() if state == "queued"}
    redis.restart(signal.SIGKILL)
    run.airflow.start_process("worker-2")
    run.let_go("branches")
    run.wait()
    assert_true(run, "queued", run.collected("collect"))
    assert {found.try_number for found in run.instances.values()} == {1}
    requeued = run.query(
        "SELECT DISTINCT task_id FROM log WHERE event = 'stuck in queued reschedule'"
        " AND dag_id = %(dag_id)s AND run_id = %(run_id)s"
    )
    assert lost <= {task_id for (task_id,) in requeued}


def cut_connections(postgres: PostgresServer, meanwhile: Callable[[], None]) -> None:
    """End every connection, so that what is asked next finds a dead one."""
    assert postgres.cut_connections()
    meanwhile()


def go_away(postgres: PostgresServer, meanwhile: Callable[[], None]) -> None:
    """Stop the database and start it again."""
    postgres.stop()
    meanwhile()
    time.sleep(5)
    postgres.start()


@pytest.mark.parametrize("fault", [cut_connections, go_away], ids=lambda fault: fault.__name__)
def test_a_run_outlives_a_database_that_does_not_answer(
    begin: Callable[[str, str], HeldRun], postgres: PostgresServer, fault: Callable[..., None]
) -> None:
    run = begin("faults_held", f"database-{fault.__name__}")
    for stage, count in (("branches", 8), ("fan-in", 1)):
        run.wait_for(stage, count)
        fault(postgres, lambda stage=stage: run.let_go(stage))
    run.wait()
    # What asks the database by itself may end; workers and the API server, on which tasks depend, don't.
    assert set(run.airflow.restarted) <= {"scheduler", "dag-processor"}
    assert_true(run, "held", run.collected("collect"))
    assert {found.try_number for found in run.instances.values()} == {1}
