"""XComs in object storage, in files and in a server that speaks S3, on a real scheduler."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from moto.server import ThreadedMotoServer

from tests.support.airflow import ControlledAirflow
from tests.support.database import metadata_database
from tests.support.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BRANCHES = 64
LOST = "it returned a value, which is no longer stored: "
RECORD_GONE = "what it recorded is no longer stored: "
BUCKET = "xcoms"
BACKEND = "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend"


class Storage:
    """
    The storage of an Airflow's XComs.

    :param base: Beginning of their references.
    :param read: Reads the body of a reference.
    :param admin: URL that lets it refuse everything, or nothing; "" if it can't.
    :param client: Modules that whoever reads or writes there imports.
    """

    def __init__(
        self,
        base: str,
        env: Mapping[str, str],
        *,
        read: Callable[[str], bytes],
        admin: str = "",
        client: Sequence[str] = (),
    ) -> None:
        self.base, self.read, self.admin, self.client = base, read, admin, client
        self.env = {
            "AIRFLOW__CORE__XCOM_BACKEND": BACKEND,
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": base,
            "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "0",
            **env,
        }


@pytest.fixture(scope="module")
def s3() -> Iterator[Storage]:
    """A server that speaks S3, on loopback, with an empty bucket."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        url = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=url,
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket=BUCKET)

        def read(reference: str) -> bytes:
            key = reference.partition(f"{BUCKET}/")[2]
            body: bytes = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
            return body

        connection = {
            "conn_type": "aws",
            "login": "key",
            "password": "secret",
            "extra": {"endpoint_url": url, "region_name": "us-east-1"},
        }
        yield Storage(
            f"s3://aws_default@{BUCKET}/of/runs",
            {"AIRFLOW_CONN_AWS_DEFAULT": json.dumps(connection)},
            read=read,
            admin=f"{url}/moto-api/reset-auth",
            client=("boto3", "s3fs"),
        )
    finally:
        server.stop()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage(
        f"file://{tmp_path_factory.mktemp('xcoms')}",
        {},
        read=lambda reference: Path(reference.removeprefix("file://")).read_bytes(),
    )


@pytest.fixture(scope="module", params=["files", "s3"])
def storage(request: pytest.FixtureRequest) -> Storage:
    found: Storage = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory, storage: Storage) -> Iterator[ControlledAirflow]:
    home = tmp_path_factory.mktemp("airflow")
    # Tasks are forks of the scheduler: what it has imported they needn't, which takes a second each.
    (home / "config").mkdir()
    imports = "".join(f"import {module}\n" for module in storage.client)
    (home / "config" / "airflow_local_settings.py").write_text(imports, encoding="utf-8")
    with (
        metadata_database() as url,
        ControlledAirflow(
            dag_files=[HERE / "dags_storage" / "storage.py"],
            home=home,
            database_url=url,
            env={
                "FANOUT_STORAGE_ADMIN": storage.admin,
                "AIRFLOW__CORE__PARALLELISM": "8",
                # A branch that fails meets the storage's client for the first time in its failure callback:
                # on a busy machine its imports take longer than the 20 s after which Airflow kills it.
                "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "300",
                **storage.env,
            },
        ) as embedded,
    ):
        embedded.wait_for_dag("storage_gone", timeout=300)
        yield embedded


class StoredRun(Run):
    """A run whose XComs are references, as the API server has them."""

    def __init__(self, airflow: ControlledAirflow, dag_id: str, storage: Storage) -> None:
        super().__init__(airflow, dag_id, airflow.trigger(dag_id))
        self._storage = storage
        self.wait()

    def xcom(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        reference = super().xcom(task_id, key, map_index)
        assert reference.startswith(self._storage.base)
        return json.loads(self._storage.read(reference))


@pytest.fixture(scope="module")
def artifacts(airflow: ControlledAirflow, storage: Storage) -> Run:
    return StoredRun(airflow, "storage_artifacts", storage)


@pytest.fixture(scope="module")
def gone(airflow: ControlledAirflow, storage: Storage) -> Run:
    return StoredRun(airflow, "storage_gone", storage)


def outcomes(run: Run, group: str) -> dict[str, tuple[str, Any, str | None]]:
    """State, value and error of every branch, as the group's fan-in was given them."""
    given = run.collected(f"tell_{group}", "given")
    return {
        name: (outcome["state"], outcome["value"], outcome["error"])
        for name, outcome in given.outcomes.items()
    }


class TestArtifacts:
    def test_every_one_arrives_whole_and_in_order(self, artifacts: Run) -> None:
        texts = (random.Random(index).randbytes(500_000).hex() for index in range(BRANCHES))
        expected = [
            [f"process_{index}", index, hashlib.sha256(text.encode()).hexdigest()]
            for index, text in enumerate(texts)
        ]

        assert artifacts.xcom("combine") == expected

    def test_requests_stay_within_their_budget(self, artifacts: Run) -> None:
        sent = artifacts.xcom("combine", "requests")
        sent.pop("MaskSecret", None)  # of the connection's: it stays with the supervisor

        assert sum(sent.values()) <= BRANCHES + 3

    def test_sixteen_bodies_are_read_at_once_each_of_them_once(self, artifacts: Run) -> None:
        assert artifacts.xcom("combine", "bodies") == {"read": BRANCHES, "peak": 16}

    def test_the_report_lies_there_too(self, artifacts: Run) -> None:
        report = artifacts.report("combine")

        assert (report["expected"], report["succeeded"], report["problems"]) == (BRANCHES, BRANCHES, [])

    def test_a_value_that_looks_like_a_template_is_not_rendered(self, artifacts: Run) -> None:
        assert artifacts.xcom("said") == "{{ 7 * 7 }}"


TEMPLATE = "{{ 7 * 7 }}"
OUTCOMES: dict[str, dict[str, tuple[str, Any, str]]] = {
    "kept": {
        "kept_0": ("success", 0, ""),
        "kept_1": ("missing", None, LOST),
        "kept_2": ("success", 2, ""),
    },
    "each": {
        **{name: ("success", [TEMPLATE, 1], "") for name in "abd"},
        "c": ("missing", None, LOST),
    },
    # Of a batch. Its neighbour's retry took what was done from the checkpoint.
    "many": {
        **dict.fromkeys("ab", ("missing", None, LOST)),
        "c": ("success", 2, ""),
        "d": ("success", 1, ""),
    },
    # Of records. A value that is there is kept.
    "silent": {
        "silent_0": ("missing", None, RECORD_GONE),
        "silent_1": ("success", "said", ""),
        "silent_2": ("failed", None, RECORD_GONE),
    },
    "silent_each": {
        "silent_each_0": ("missing", None, RECORD_GONE),
        "silent_each_1": ("success", "said", ""),
        "silent_each_2": ("failed", None, RECORD_GONE),
        "silent_each_3": ("success", None, ""),
    },
    "silent_many": {
        "silent_many_0": ("missing", None, RECORD_GONE),
        "silent_many_1": ("missing", None, RECORD_GONE),
        "silent_many_2": ("success", 2, ""),
        "silent_many_3": ("success", 3, ""),
    },
}
"""State, value and beginning of the error of each branch, by group."""


class TestABodyThatIsGone:
    @pytest.mark.parametrize("group", OUTCOMES)
    def test_costs_its_own_branch_alone(self, gone: Run, group: str) -> None:
        given = outcomes(gone, group)

        assert {name: given[name][:2] for name in given} == {
            name: (state, value) for name, (state, value, _) in OUTCOMES[group].items()
        }
        for name, (_, _, error) in OUTCOMES[group].items():
            assert (given[name][2] or "").startswith(error)
            assert bool(given[name][2]) == bool(error)

    def test_is_named_with_its_place(self, gone: Run, storage: Storage) -> None:
        assert str(outcomes(gone, "kept")["kept_1"][2]).startswith(f"{LOST}{storage.base}/storage_gone/")

    @pytest.mark.parametrize("group", ["kept", "each", "many"])
    def test_fails_a_fan_in_that_tolerates_nothing(self, gone: Run, group: str) -> None:
        assert gone.instance(f"tell_{group}").state == "failed"
        assert f"missing: {LOST}" in gone.log(f"tell_{group}")

    def test_of_the_places_of_the_batches_fails_the_fan_in(self, gone: Run) -> None:
        assert gone.instance("tell_lost").state == "failed"
        assert "what 'lost.split' returned is no longer stored" in gone.log("tell_lost")

    def test_the_metadata_reader_knows_what_is_recorded(
        self, gone: Run, airflow: ControlledAirflow, tmp_path: Path
    ) -> None:
        answer = tmp_path / "branches.json"
        subprocess.run(
            [sys.executable, str(HERE / "read_run.py"), str(answer), gone.dag_id, gone.run_id],
            env=airflow.environment("command"),
            check=True,
            timeout=120,
            capture_output=True,
        )
        branches = json.loads(answer.read_text(encoding="utf-8"))

        assert list(branches["many"]) == ["a", "b", "c", "d"]
        assert branches["kept"]["kept_0"] == ["success", None]
        assert branches["silent_each"]["silent_each_3"] == ["success", None]
        assert branches["silent"]["silent_2"][0] == "failed"


def test_a_damaged_body_fails_the_fan_in_by_name(gone: Run, storage: Storage) -> None:
    log = gone.log("tell_damaged")

    assert gone.instance("tell_damaged").state == "failed"
    assert "What 'damaged.damaged_1' pushed under 'return_value' can't be read: ValueError: " in log
    assert f"{storage.base}/storage_gone/" in log


@pytest.fixture
def denied(airflow: ControlledAirflow, storage: Storage) -> Iterator[Run]:
    """A run during which the storage has begun to refuse everything; it gives in when the test has ended."""
    try:
        yield StoredRun(airflow, "storage_denied", storage)
    finally:
        httpx.post(storage.admin, content=b"inf").raise_for_status()


@pytest.mark.parametrize("storage", ["s3"], indirect=True)
def test_a_storage_that_refuses_fails_the_fan_in_until_it_gives_in(
    denied: Run, airflow: ControlledAirflow, storage: Storage
) -> None:
    assert denied.instance("combine").state == "failed"
    assert "can't be read: PermissionError: Forbidden" in denied.log("combine")

    httpx.post(storage.admin, content=b"inf").raise_for_status()
    denied.clear("combine")

    assert denied.xcom("combine") == {"allowed_0": 0, "allowed_1": 1}
