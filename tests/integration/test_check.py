from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from argparse import Namespace
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.demo.embedded import isolated_environment
from tests.integration.conftest import BUNDLE

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.integration, pytest.mark.slow]

REPOSITORY = Path(__file__).parents[2]
HEAD = """
from airflow.sdk import DAG, task
from airflow_fanout import FanInOperator, FanOutGroup
print("parsed")
"""
FINE = f"""{HEAD}
with DAG("fine", schedule=None):
    work = FanOutGroup("work", branch=lambda index: index, count=50)
    FanInOperator(task_id="combine", fan_out=work)
"""
TROUBLED = f"""{HEAD}
with DAG("troubled", schedule=None):
    FanOutGroup("work", branch=lambda index: index, count=3, default_args={{"pool": "gone"}})
"""
PLAIN = f"""{HEAD}
with DAG("plain", schedule=None):
    task(lambda: None, task_id="only")()
"""
BROKEN = f"{HEAD}\nmissing_name\n"
OTHER_BUNDLE = "another"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Dags folder of this process, instead of the example Dags."""
    folder = tmp_path / "dags"
    folder.mkdir()
    bundles = [{**BUNDLE, "name": OTHER_BUNDLE, "kwargs": {"path": str(folder)}}]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    return folder


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call it for exit code, standard output and standard error."""

    def call(dag_id: str | None = None, **options: Any) -> tuple[int, str, str]:
        from airflow_fanout.cli.check import command

        capsys.readouterr()
        given = {"dag_id": dag_id, "all": False, "output": "json", "verbose": False, **options}
        with pytest.raises(SystemExit) as ended:
            command(Namespace(**given))
        code: Any = ended.value.code
        return code, *capsys.readouterr()

    return call


def run(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = isolated_environment(os.environ, home=home, extra={"PYTHONPATH": str(REPOSITORY)})
    return subprocess.run(
        [sys.executable, "-m", "airflow", "fanout", "check", *arguments],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def store(folder: Path) -> None:
    """Put the Dags of the folder into the database, as the Dag processor does."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

    DagBundlesManager().sync_bundles_to_db(deactivate_missing=False)  # type: ignore[no-untyped-call]
    bag = BundleDagBag(dag_folder=folder, bundle_path=folder, bundle_name=OTHER_BUNDLE)
    sync_bag_to_db(bag, OTHER_BUNDLE, None)


class TestAsACommand:
    @pytest.fixture
    def home(self, tmp_path: Path) -> Path:
        (tmp_path / "dags").mkdir()
        write(tmp_path / "dags", fine=FINE, troubled=TROUBLED)
        with (
            closing(sqlite3.connect(Path(os.environ["AIRFLOW_HOME"], "airflow.db"))) as migrated,
            closing(sqlite3.connect(tmp_path / "airflow.db")) as own,
        ):
            migrated.backup(own)
        return tmp_path

    @staticmethod
    def content(home: Path) -> list[str]:
        with closing(sqlite3.connect(home / "airflow.db")) as connection:
            return list(connection.iterdump())

    def test_all_is_well_and_nothing_is_written(self, home: Path) -> None:
        before = self.content(home)

        completed = run(home, "fine")

        assert completed.returncode == 0, completed.stderr
        assert "50 branches, at most 16 at once:" in completed.stdout
        assert self.content(home) == before

    def test_a_problem_is_exit_code_1_and_nothing_but_json_is_put_out(self, home: Path) -> None:
        completed = run(home, "troubled", "--output", "json")

        assert completed.returncode == 1, completed.stderr
        (dag,) = json.loads(completed.stdout)["dags"]
        assert [problem["kind"] for problem in dag["problems"]] == ["missing_pool"]

    def test_without_a_database_one_line_says_so(self, home: Path) -> None:
        (home / "airflow.db").unlink()

        completed = run(home, "fine")

        assert (completed.returncode, completed.stdout) == (2, "")
        (line,) = completed.stderr.splitlines()
        assert "no such table: slot_pool" in line
        assert "airflow db migrate" in line


def test_an_unknown_dag_is_told_what_is_close_to_it(folder: Path, check: Any) -> None:
    write(folder, fine=FINE, troubled=TROUBLED)

    code, out, err = check("trouble")

    assert (code, out) == (2, "")
    assert err.endswith("airflow fanout check: there is no Dag 'trouble'; did you mean 'troubled'?\n")


def test_an_unknown_dag_may_be_in_a_file_that_is_broken(folder: Path, check: Any) -> None:
    write(folder, fine=FINE, broken=BROKEN)

    code, out, err = check("nowhere")

    assert (code, out) == (2, "")
    assert "there is no Dag 'nowhere'" in err
    assert "NameError: name 'missing_name' is not defined" in err


class TestADagThatTheDatabaseHas:
    @pytest.fixture(autouse=True)
    def stored(self, folder: Path) -> None:
        write(folder, fine=FINE)
        store(folder)

    def test_it_can_not_be_told_if_its_file_is_broken_now(self, folder: Path, check: Any) -> None:
        write(folder, fine=BROKEN)

        code, out, err = check("fine")

        assert (code, out) == (2, "")
        assert "the file of Dag 'fine' can't be imported:\nfine.py: " in err
        assert "NameError" in err

    def test_it_is_found_in_another_file_if_it_has_moved(self, folder: Path, check: Any) -> None:
        (folder / "fine.py").rename(folder / "moved.py")

        code, out, _ = check("fine")

        assert (code, json.loads(out)["dags"][0]["source"]) == (0, "file")

    def test_it_is_taken_from_there_if_no_file_has_it(self, folder: Path, check: Any) -> None:
        (folder / "fine.py").unlink()

        code, out, _ = check("fine")

        (dag,) = json.loads(out)["dags"]
        assert (code, dag["source"]) == (0, "database")
        assert [(group["group_id"], group["effective"]) for group in dag["groups"]] == [("work", 16)]

    def test_only_its_file_is_parsed(self, folder: Path, check: Any) -> None:
        write(folder, broken=BROKEN)

        code, _, _ = check("fine")

        assert code == 0


class TestAll:
    def test_dags_with_a_fan_out_are_checked_and_the_others_counted(self, folder: Path, check: Any) -> None:
        write(folder, fine=FINE, troubled=TROUBLED, plain=PLAIN)

        code, out, _ = check(all=True)

        data = json.loads(out)
        assert [dag["dag_id"] for dag in data["dags"]] == ["fine", "troubled"]
        assert (code, data["problems"], data["others"]) == (1, 1, 1)

    def test_a_broken_file_is_exit_code_2(self, folder: Path, check: Any) -> None:
        write(folder, fine=FINE, broken=BROKEN)

        code, out, _ = check(all=True)

        data = json.loads(out)
        assert code == 2
        assert [dag["dag_id"] for dag in data["dags"]] == ["fine"]
        assert [error["file"] for error in data["import_errors"]] == ["broken.py"]

    @pytest.mark.parametrize("options", [{}, {"dag_id": "fine", "all": True}], ids=["neither", "both"])
    def test_either_a_dag_or_all_of_them_is_wanted(self, check: Any, options: dict[str, Any]) -> None:
        code, out, err = check(**options)

        assert (code, out) == (2, "")
        assert "expected either a DAG_ID or --all" in err
