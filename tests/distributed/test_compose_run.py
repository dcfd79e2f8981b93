"""The services of docker-compose.yaml do together what the file promises; here as plain processes."""

from __future__ import annotations

import base64
from contextlib import closing
from secrets import token_bytes, token_hex
from shutil import which
from typing import TYPE_CHECKING

import psycopg2
import pytest

from airflow_fanout.demo.rest import RestError
from tests.distributed.compose_file import read, variables
from tests.distributed.native_stack import NativeStack
from tests.support.run import Run, ran_side_by_side

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = [name for name in ("curl", "redis-cli") if which(name) is None]
pytestmark = [
    pytest.mark.celery,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}"),
]

WORKERS = ("worker-1", "worker-2")
ADMIN = ("admin", f"{token_hex(8)} with a space, $PATH and 'quotes\"")
DAGS = ("fan_out_fan_in_pipeline", "fan_out_fan_in_chosen_count", "dynamic_documents")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """All services, two workers among them, started in the order that the file asks for."""
    values = {found.name: token_hex(32) for found in variables(read()) if found.default is None}
    values["AIRFLOW_FERNET_KEY"] = base64.urlsafe_b64encode(token_bytes(32)).decode()
    values["AIRFLOW_ADMIN_PASSWORD"] = ADMIN[1]
    # A worker has fewer slots than a group has branches.
    values |= {"WORKER_CONCURRENCY": "4", "FAN_OUT_POOL_SLOTS": "7"}
    more = {
        # Long enough for branches to be seen side by side on a busy machine.
        "AIRFLOW_FANOUT_DEMO_WORK_SECONDS": "4",
        # The only runs are those that are triggered.
        "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "false",
    }
    with NativeStack(tmp_path_factory.mktemp("stack"), values, more) as stack:
        for server in ("postgres", "redis"):
            stack.wait_until_healthy(server)
        initialised = stack.run_to_end("init")
        assert initialised.returncode == 0, initialised.stdout + initialised.stderr
        for service in ("apiserver", "scheduler", "dag-processor", "triggerer"):
            stack.start(service)
        stack.wait_until_healthy("apiserver")
        for worker in WORKERS:
            stack.start("worker", worker)
        for service in ("scheduler", "dag-processor", "triggerer"):
            stack.wait_until_healthy(service)
        for worker in WORKERS:
            stack.wait_until_healthy("worker", worker)
        stack.log_in(*ADMIN)
        yield stack


@pytest.fixture(scope="module")
def runs(stack: NativeStack) -> dict[str, Run]:
    """A run of each Dag, all of which have ended."""
    runs = {}
    for dag_id in DAGS:
        stack.wait_for_dag(dag_id, timeout=300)
        stack.request("PATCH", f"dags/{dag_id}", json={"is_paused": False})
        runs[dag_id] = Run.start(stack, dag_id)
        runs[dag_id].wait()
    return runs


def test_no_dag_file_has_an_import_error(stack: NativeStack, runs: dict[str, Run]) -> None:
    assert stack.import_errors() == []


@pytest.mark.parametrize("dag_id", DAGS)
def test_an_example_runs_to_its_end(stack: NativeStack, runs: dict[str, Run], dag_id: str) -> None:
    assert stack.run(dag_id, runs[dag_id].run_id)["state"] == "success"


@pytest.mark.parametrize("dag_id", DAGS[:2])
def test_the_branches_of_a_group_run_on_both_workers_at_the_same_time(
    runs: dict[str, Run], dag_id: str
) -> None:
    run = runs[dag_id]
    branches = [instance for (task_id, _), instance in run.instances.items() if "process" in task_id]
    assert {branch.hostname for branch in branches} == set(WORKERS)
    assert ran_side_by_side(branches)
    assert (run.report("combine")["expected"], run.report("combine")["succeeded"]) == (8, 8)


def test_the_log_of_a_branch_can_be_read(runs: dict[str, Run]) -> None:
    for index in range(8):
        log = runs[DAGS[0]].log(f"process_{index}")
        assert "Could not read served logs" not in log
        assert "Done. Returned value was" in log


def test_the_pool_has_the_slots_that_were_asked_for(stack: NativeStack) -> None:
    assert stack.request("GET", "pools/fan_out")["slots"] == 7


def test_a_wrong_password_is_refused(stack: NativeStack) -> None:
    with pytest.raises(RestError) as refused:
        stack.log_in(ADMIN[0], "guessed")
    assert refused.value.status == 401


def test_the_init_job_can_run_again(stack: NativeStack) -> None:
    again = stack.run_to_end("init")
    assert again.returncode == 0, again.stdout + again.stderr
    stack.log_in(*ADMIN)


def test_what_a_worker_knows_opens_celerys_results_and_not_airflows_database(
    stack: NativeStack, runs: dict[str, Run]
) -> None:
    url = stack.services["worker"]["environment"]["AIRFLOW__CELERY__RESULT_BACKEND"]
    results = url.removeprefix("db+").replace("+psycopg2", "")
    with closing(psycopg2.connect(results)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM celery_taskmeta")
        assert cursor.fetchone() != (0,)
    with pytest.raises(psycopg2.OperationalError, match="permission denied for database"):
        psycopg2.connect(f"{results.removesuffix('/celery')}/airflow")
