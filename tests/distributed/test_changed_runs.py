"""Faults that are changes: cleared branches, another Dag file, a file system that is full."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest

from tests.support.airflow import ControlledAirflow
from tests.support.database import metadata_database
from tests.support.run import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[2]
DAG_FILE = Path(__file__).parent / "dags" / "changed.py"
BACKEND = "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend"
PATIENCE = 600
FullRuns: TypeAlias = dict[str, tuple[Run, dict[str, Any]]]
"""Runs by their Dags' ids, with what was seen of them while the file system was full."""

BRANCH_B: dict[str, tuple[str, int]] = {
    "static": ("static.b", -1),
    "mapped": ("mapped.each", 1),
    "batched": ("batched.each", 1),
    "foreign": ("foreign_b", -1),
}
CHANGES = {
    "branch_added": ('["a", "b", "c"]', '["a", "b", "c", "d"]'),
    "branch_removed": ('["a", "b", "c"]', '["a", "b"]'),
    "branch_renamed": ('["a", "b", "c"]', '["a", "b", "d"]'),
}
FULL = ("full_for_a_branch", "full_for_a_batch", "full_for_the_fan_in")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where runs say how far they are, and are told to go on."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where large values are kept: a small file system of its own, if one may be mounted here."""
    folder = tmp_path_factory.mktemp("storage")
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False, capture_output=True).returncode == 0
    yield folder
    if mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def full(storage: Path) -> str:
    """What the system says when nothing can be written there."""
    return "[Errno 28] No space left on device" if storage.is_mount() else "[Errno 27] File too large"


@pytest.fixture(scope="module")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, scratch: Path, storage: Path
) -> Iterator[ControlledAirflow]:
    """An Airflow whose large values are files in the storage."""
    with (
        metadata_database() as database_url,
        ControlledAirflow(
            dag_files=[DAG_FILE],
            home=tmp_path_factory.mktemp("airflow"),
            database_url=database_url,
            env={
                "FANOUT_E2E_SCRATCH": str(scratch),
                "FANOUT_E2E_STORAGE": str(storage),
                "AIRFLOW__CORE__XCOM_BACKEND": BACKEND,
                "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{storage}",
                "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_THRESHOLD": "4000",
                # Fan-ins and branches that wait take slots from those that are waited for.
                "AIRFLOW__CORE__PARALLELISM": "16",
                "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "2",
            },
        ) as started,
    ):
        yield started


def wait_until_held(airflow: ControlledAirflow, scratch: Path, *names: str) -> None:
    missing = list(names)

    def probe() -> bool | None:
        missing[:] = [name for name in missing if not (scratch / f"{name}.held").exists()]
        return None if missing else True

    airflow.poll(probe, timeout=PATIENCE, condition=lambda: f"Not reached: {missing}")


def let_go(scratch: Path, *names: str) -> None:
    for name in names:
        (scratch / f"{name}.go").touch()


def points(run: Run) -> list[str]:
    """Where the branches that were cleared wait."""
    return [f"{run.dag_id}.{task_id}[{map_index}]" for task_id, map_index in BRANCH_B.values()]


@pytest.fixture(scope="module", params=["before", "while"])
def run(airflow: ControlledAirflow, scratch: Path, request: pytest.FixtureRequest) -> Run:
    """The run when its fan-ins have ended and the branches are still running."""
    run = Run.start(airflow, f"cleared_{request.param}_it_reads")
    fan_ins = [f"collect_{way}" for way in BRANCH_B]
    wait_until_held(airflow, scratch, *(f"{run.dag_id}.{fan_in}" for fan_in in fan_ins))
    cleared: list[Any] = [one if one[1] >= 0 else one[0] for one in BRANCH_B.values()]
    airflow.clear(run.dag_id, run.run_id, cleared)
    # What an earlier try pushed is deleted when the next one starts.
    wait_until_held(airflow, scratch, *points(run))
    let_go(scratch, *(f"{run.dag_id}.{fan_in}" for fan_in in fan_ins))

    def have_ended() -> bool | None:
        run.look_again()
        ended = {"success", "failed"}
        return all(run.instance(each).state in ended for each in fan_ins) or None

    airflow.poll(have_ended, timeout=PATIENCE, condition=lambda: f"The fan-ins run: {run.instances}")
    return run


class TestAClearedBranch:
    """Branch b is cleared alone, after its fan-in has been started, and runs until the fan-in has ended."""

    @pytest.mark.parametrize("way", BRANCH_B)
    def test_its_fan_in_fails_and_names_it(self, run: Run, way: str) -> None:
        assert run.instance(f"collect_{way}").state == "failed"
        log = run.log(f"collect_{way}")
        name = "foreign_b" if way == "foreign" else "b"
        if way == "batched" and run.dag_id == "cleared_before_it_reads":
            name = "batched.each[1]"
        assert f"Branches are not finished: '{name}'. " in log
        assert "BranchesRunningError" in log

    def test_its_fan_in_has_the_true_result_afterwards(self, run: Run, scratch: Path) -> None:
        let_go(scratch, *points(run))
        run.wait()
        run.clear(*(f"collect_{way}" for way in BRANCH_B))
        results = {way: run.xcom(f"collect_{way}") for way in BRANCH_B}
        true = {"a": "a1", "b": "b2", "c": "c1"}
        assert results == {
            "static": true,
            "mapped": true,
            "batched": true,
            "foreign": {f"foreign_{name}": value for name, value in true.items()},
        }


@pytest.fixture(scope="module")
def runs(airflow: ControlledAirflow, scratch: Path) -> dict[str, Run]:
    """Each run after the second try of its fan-in."""
    runs = {dag_id: Run.start(airflow, dag_id) for dag_id in CHANGES}
    wait_until_held(airflow, scratch, *runs)
    airflow.stop_process("dag-processor")
    file = airflow.dags_folder / DAG_FILE.name
    text = file.read_text()
    for dag_id, (before, after) in CHANGES.items():
        assert f'"{dag_id}": {before}' in text
        text = text.replace(f'"{dag_id}": {before}', f'"{dag_id}": {after}')
    file.write_text(text)
    let_go(scratch, *runs)
    for run in runs.values():
        run.wait()
    return runs


@pytest.fixture(scope="module")
def seen(airflow: ControlledAirflow, runs: dict[str, Run]) -> dict[str, Run]:
    """The same runs, with their fan-ins cleared when the Dag processor has seen the file."""
    versions = {dag_id: version_count(airflow, dag_id) for dag_id in runs}
    airflow.start_process("dag-processor")

    def are_seen() -> bool | None:
        return all(version_count(airflow, dag_id) > count for dag_id, count in versions.items()) or None

    airflow.poll(are_seen, timeout=PATIENCE, condition=lambda: "The Dag processor has not seen the file")
    for run in runs.values():
        airflow.clear(run.dag_id, run.run_id, ["collect"])
    for run in runs.values():
        run.wait()
    return runs


def version_count(airflow: ControlledAirflow, dag_id: str) -> int:
    return len(airflow.pages(f"dags/{dag_id}/dagVersions", "dag_versions"))


class TestAnotherDagFile:
    """The file is another from the fan-ins' second try on, and the Dag processor has not seen it yet."""

    @pytest.mark.parametrize("dag_id", ["branch_added", "branch_renamed"])
    def test_a_branch_without_an_instance_is_named(self, runs: dict[str, Run], dag_id: str) -> None:
        run = runs[dag_id]
        assert (run.instance("collect").state, run.instance("collect").try_number) == ("failed", 2)
        assert "Branches are not finished: 'd'" in run.log("collect")
        with pytest.raises(KeyError):
            run.xcom("collect")

    def test_a_branch_that_is_no_longer_declared_is_removed(self, runs: dict[str, Run]) -> None:
        run = runs["branch_removed"]
        assert run.instance("collect").try_number == 2
        collected = run.collected("collect")
        assert collected.states == {"a": "success", "b": "success", "c": "removed"}
        assert collected.items == [("a", "A"), ("b", "B")]
        assert run.report("collect")["expected"] == 2

    @pytest.mark.parametrize(
        ("dag_id", "states", "values"),
        [
            ("branch_added", dict.fromkeys("abcd", "success"), "ABCD"),
            ("branch_removed", {**dict.fromkeys("ab", "success"), "c": "removed"}, "AB"),
            ("branch_renamed", {**dict.fromkeys("abd", "success"), "c": "removed"}, "ABD"),
        ],
    )
    def test_once_the_file_is_seen_all_that_it_declares_is_there(
        self, seen: dict[str, Run], dag_id: str, states: dict[str, str], values: str
    ) -> None:
        collected = seen[dag_id].collected("collect")
        assert collected.states == states
        assert collected.items == [(value.lower(), value) for value in values]


@pytest.fixture(scope="module")
def full_runs(airflow: ControlledAirflow, storage: Path) -> FullRuns:
    """Runs that have ended, been given room again, cleared where they had failed, and ended again."""
    found = {}
    for dag_id in FULL:
        for path in storage.rglob("*"):
            if path.is_file():
                path.unlink()
        run = Run.start(airflow, dag_id)
        run.wait()
        found[dag_id] = (run, look(run))
        (storage / "ballast").unlink(missing_ok=True)
        failed = [key for key, instance in run.instances.items() if instance.state == "failed"]
        airflow.clear(
            dag_id,
            run.run_id,
            [key if key[1] >= 0 else key[0] for key in failed],
            include_downstream=True,
        )
        run.wait()
    return found


def look(run: Run) -> dict[str, Any]:
    try:
        value = run.xcom("collect")
    except KeyError:
        value = None
    return {
        "value": value,
        "states": {key: instance.state for key, instance in run.instances.items()},
        "report": run.report("collect"),
        "log": run.log("collect"),
    }


class TestAFullFileSystem:
    """Nothing more can be written where large values are kept; then somebody makes room."""

    def test_a_branch_that_cannot_store_its_value_failed_of_that(
        self, full_runs: FullRuns, full: str
    ) -> None:
        _, seen = full_runs["full_for_a_branch"]
        assert seen["states"]["group.c", -1] == "failed"
        assert seen["value"]["errors"].keys() == {"c"}
        assert full in seen["value"]["errors"]["c"]

    def test_branches_that_had_stored_theirs_keep_them(self, full_runs: FullRuns) -> None:
        assert full_runs["full_for_a_branch"][1]["value"]["values"] == {"a": "a", "b": "b"}

    def test_a_batch_that_cannot_store_its_record_failed_of_that(
        self, full_runs: FullRuns, full: str
    ) -> None:
        _, seen = full_runs["full_for_a_batch"]
        assert seen["states"]["group.each", 0] == "failed"
        assert (seen["report"]["expected"], seen["report"]["failed"]) == (800, 400)
        (error,) = seen["value"]["errors"]
        assert full in error

    def test_the_other_batch_keeps_its_items(self, full_runs: FullRuns) -> None:
        seen = full_runs["full_for_a_batch"][1]["value"]
        assert (seen["values"], seen["right"]) == (400, True)

    def test_a_fan_in_that_cannot_store_its_result_failed_of_that(
        self, full_runs: FullRuns, full: str
    ) -> None:
        _, seen = full_runs["full_for_the_fan_in"]
        assert (seen["states"]["collect", -1], seen["value"]) == ("failed", None)
        assert full in seen["log"]
        assert seen["report"]["succeeded"] == 2

    def test_with_room_again_what_failed_and_is_cleared_is_whole(
        self, full_runs: FullRuns, storage: Path
    ) -> None:
        branch, batch, fan_in = (full_runs[dag_id][0] for dag_id in FULL)
        assert branch.xcom("collect")["values"] == {"a": "a", "b": "b", "c": "c"}
        seen = batch.xcom("collect")
        assert (seen["values"], seen["right"], seen["errors"]) == (800, True, [])
        assert fan_in.instance("collect").state == "success"
