"""One Airflow for all end-to-end tests, and the runs on it."""

from __future__ import annotations

import importlib.util
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.airflow import ControlledAirflow
from tests.support.celery_airflow import CeleryAirflow
from tests.support.database import database_in_use, metadata_database
from tests.support.run import Run, RunStarter
from tests.support.servers import RedisServer
from tests.support.statsd import StatsDServer

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "dags"
EXECUTOR = os.environ.get("FANOUT_E2E_EXECUTOR", "LocalExecutor")
TIMING_DAG = "timing"
OWN_DAGS = {"truth", "reported", "repeated", "rerun", "rerun_many", "rated", "bad_items", "stored", "reuse"}
"""Files whose Dags only their own tests start, in suites of their own."""
LIMIT_DAGS = ("limits", "limits_of_the_dag")
LIMIT_POOLS = {"e2e_two": 2, "e2e_five": 5}
OTHER_DAGS = sorted({path.stem for path in DAGS.glob("*.py")} - {TIMING_DAG, *OWN_DAGS, *LIMIT_DAGS})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.e2e)


def pytest_report_header() -> str:
    """Say what the runs are on."""
    return f"end-to-end tests: {EXECUTOR}, {database_in_use()}"


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that tasks can write to; its path is in their environment."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database of this session's own."""
    with metadata_database() as url:
        # On a busy machine a writer may wait longer than 5 s, and the scheduler would end with "locked".
        yield url or f"sqlite:///{tmp_path_factory.mktemp('database') / 'airflow.db'}?timeout=60"


@pytest.fixture(scope="session")
def statsd() -> Iterator[StatsDServer]:
    """What this Airflow sends its metrics to."""
    with StatsDServer() as server:
        yield server


@pytest.fixture(scope="session")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, scratch: Path, database_url: str, statsd: StatsDServer
) -> Iterator[ControlledAirflow]:
    """
    A scheduler, a Dag processor and an API server; their logs stay in pytest's temporary folders.

    ``FANOUT_E2E_EXECUTOR=CeleryExecutor`` adds two Celery workers, which take five tasks each, and a Redis.
    """
    settings: dict[str, Any] = {
        "dag_files": [*sorted(DAGS.glob("*.py")), REPOSITORY / "dags" / "fan_out_fan_in_pipeline.py"],
        "home": tmp_path_factory.mktemp("airflow"),
        "triggerer": True,
        "database_url": database_url,
        "env": {
            "FANOUT_E2E_SCRATCH": str(scratch),
            "AIRFLOW__FANOUT__STORAGE_PATH": str(scratch / "pieces"),
            # More at once would only wait for each other.
            "AIRFLOW__CORE__PARALLELISM": "10",
            **(statsd.settings if importlib.util.find_spec("statsd") else {}),
        },
    }
    with ExitStack() as started:
        if EXECUTOR == "CeleryExecutor":
            broker = started.enter_context(RedisServer(tmp_path_factory.mktemp("redis")))
            yield started.enter_context(CeleryAirflow(broker_url=broker.url, **settings))
        else:
            yield started.enter_context(ControlledAirflow(**settings))


@pytest.fixture(scope="session")
def limits() -> dict[str, float]:
    """Seconds that the groups of the timing Dag may take: 40 % and 60 % of their branches' in a row."""
    return {"eight": 0.4 * (8 * 3.0), "three": 0.6 * (3.5 + 3.0 + 3.0)}


@pytest.fixture(scope="session")
def timing_run(airflow: ControlledAirflow, limits: dict[str, float]) -> Run:
    """
    The run whose seconds count: no other runs beside it, and no file is parsed.

    The machine may be busy with something else, which can only add seconds; so it may have three goes at it.
    """
    with suppress(Exception):  # of another's file, which fails its own tests
        for dag_id in OTHER_DAGS:
            airflow.wait_for_dag(dag_id)
    for _ in range(3):
        run = Run.start(airflow, TIMING_DAG)
        run.wait()
        if all(run.wall_seconds(group_id) <= seconds for group_id, seconds in limits.items()):
            break
    return run


@pytest.fixture(scope="session")
def limit_runs(airflow: ControlledAirflow) -> dict[str, Run]:
    """
    Runs in which groups are held back by limits, by Dag id: one after another, no other runs beside them.

    All share ``[core] parallelism``; in company they would be held back by that.
    """
    for name, slots in LIMIT_POOLS.items():
        airflow.request("POST", "pools", json={"name": name, "slots": slots})
    runs = {}
    for dag_id in LIMIT_DAGS:
        runs[dag_id] = Run.start(airflow, dag_id)
        runs[dag_id].wait()
    return runs


@pytest.fixture(scope="session")
def finished_run(airflow: ControlledAirflow, request: pytest.FixtureRequest) -> RunStarter:
    """
    Call it with a Dag id to wait for that one's run.

    Where most modules are tested, every Dag of the folder is started at once, after the timing run.
    """
    starter = RunStarter(airflow)
    modules = {item.path for item in request.session.items}
    if len(modules) > len(OTHER_DAGS) // 2:
        with suppress(Exception):  # which fails its own tests
            request.getfixturevalue("timing_run")
        starter.start(*OTHER_DAGS)
    return starter


@pytest.fixture(scope="module")
def run(finished_run: RunStarter, request: pytest.FixtureRequest) -> Run:
    """The run of the Dag that the test module names, which has ended."""
    return finished_run(request.module.DAG_ID)
