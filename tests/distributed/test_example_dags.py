"""Every example Dag on two Celery workers: they run to success, and branches run on both at the same time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.celery_airflow import CeleryAirflow
from tests.support.run import Run, ran_side_by_side
from tests.support.servers import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.celery

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 300

DAGS: dict[str, dict[str, Any]] = {
    "document_analysis": {},
    "dynamic_documents": {},
    "ensemble": {},
    "fan_out_fan_in_chosen_count": {"parallel_count": 5},
    "fan_out_fan_in_pipeline": {},
    "hyperparameter_search": {"penalties": [1, 10], "gammas": [1e-4, 1e-3], "folds": 3},
    "nightly_validation": {},
    "regional_etl": {},
    "taskflow_fan_out": {},
}
"""Every example Dag with a group, and the params of its run."""

TWIN = "document_analysis_sequential"
"""The analyses of one of them as plain tasks; the demo runs it."""

PIPELINE = "fan_out_fan_in_pipeline"
EXPECTED = {
    ("document_analysis", "merge"): (3, 3),
    ("ensemble", "answer"): (6, 6),
    ("ensemble", "forest"): (64, 64),
    ("fan_out_fan_in_chosen_count", "combine"): (5, 5),
    ("fan_out_fan_in_pipeline", "combine"): (8, 8),
    ("hyperparameter_search", "best_mapped"): (4, 4),
    ("hyperparameter_search", "best_batched"): (4, 4),
    ("nightly_validation", "verdict"): (7, 5),
    ("regional_etl", "write_manifest"): (6, 6),
    ("taskflow_fan_out", "to_do"): (3, 3),
}
"""How many branches a fan-in has, and how many of them succeed, where the Dag alone decides that."""


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryAirflow]:
    """Two workers, neither of which has a slot for every branch of the pipeline."""
    warehouse = tmp_path_factory.mktemp("warehouse") / "cities.db"
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as broker,
        PostgresServer() as database,
        CeleryAirflow(
            broker_url=broker.url,
            database_url=database.database_url,
            concurrency=5,
            dag_files=sorted((REPOSITORY / "dags").glob("*.py")),
            home=tmp_path_factory.mktemp("airflow"),
            env={
                "AIRFLOW_CONN_FANOUT_WAREHOUSE": json.dumps({"conn_type": "sqlite", "host": str(warehouse)}),
                "AIRFLOW_FANOUT_DEMO_WORK_SECONDS": "2",
            },
        ) as started,
    ):
        for worker in started.workers:
            started.wait_for_worker(worker, timeout=PATIENCE)
        yield started


@pytest.fixture(scope="module")
def runs(airflow: CeleryAirflow) -> dict[str, Run]:
    """A run of each Dag, all of which have ended; that of the pipeline had no other beside it."""
    found = {}
    for dag_id in sorted(DAGS, key=lambda dag_id: dag_id != PIPELINE):
        airflow.wait_for_dag(dag_id, timeout=PATIENCE)
        found[dag_id] = Run(airflow, dag_id, airflow.trigger(dag_id, conf=DAGS[dag_id]))
        if dag_id == PIPELINE:
            found[dag_id].wait()
    for run in found.values():
        run.wait()
    return found


def test_no_example_is_left_out(airflow: CeleryAirflow, runs: dict[str, Run]) -> None:
    assert airflow.import_errors() == []
    assert {dag["dag_id"] for dag in airflow.pages("dags", "dags")} == {*DAGS, TWIN}


@pytest.mark.parametrize("dag_id", DAGS)
def test_it_runs_to_success(airflow: CeleryAirflow, runs: dict[str, Run], dag_id: str) -> None:
    assert airflow.run(dag_id, runs[dag_id].run_id)["state"] == "success"


@pytest.mark.parametrize(("dag_id", "fan_in"), EXPECTED)
def test_its_fan_in_has_every_branch(runs: dict[str, Run], dag_id: str, fan_in: str) -> None:
    report = runs[dag_id].report(fan_in)
    assert (report["expected"], report["succeeded"]) == EXPECTED[dag_id, fan_in]


def test_the_branches_of_the_pipeline_run_on_both_workers_at_the_same_time(
    airflow: CeleryAirflow, runs: dict[str, Run]
) -> None:
    branches = [runs[PIPELINE].instance(f"process_{index}") for index in range(8)]
    assert {branch.hostname for branch in branches} == set(airflow.workers)
    assert ran_side_by_side(branches)


def test_what_one_worker_logged_can_be_read_beside_what_the_other_did(runs: dict[str, Run]) -> None:
    for index in range(8):
        assert "Done. Returned value was" in runs[PIPELINE].log(f"process_{index}")
