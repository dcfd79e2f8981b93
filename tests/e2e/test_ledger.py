"""What was declared outlives the Dag file."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Collected, Run

pytestmark = pytest.mark.e2e

SCRIPT = Path(__file__).parent / "rebuild_ledger.py"


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("many_names")


@pytest.fixture(scope="module")
def collected(run: Run) -> Collected:
    return run.collected("tolerate")


@pytest.fixture(scope="module")
def rebuilt(run: Run, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The ledger, from a process that knows the database and nothing else of the run."""
    home = tmp_path_factory.mktemp("without_dags")
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url,
    }
    output = home / "ledger.json"
    command = [sys.executable, str(SCRIPT), str(output), run.dag_id, run.run_id, "tolerate"]
    subprocess.run(command, cwd=home, env=env, check=True)
    ledger: list[dict[str, Any]] = json.loads(output.read_text(encoding="utf-8"))
    return ledger


def test_the_names_are_in_declared_order_which_is_not_theirs(rebuilt: list[dict[str, Any]]) -> None:
    ending = "of_the_archive_that_was_scanned_last_year"
    assert [row["name"] for row in rebuilt] == [f"document_{(n * 7) % 300}_{ending}" for n in range(300)]


def test_the_ledger_is_that_of_the_fan_in(rebuilt: list[dict[str, Any]], collected: Collected) -> None:
    assert {row["name"]: row["state"] for row in rebuilt} == collected.states
    assert [row["name"] for row in rebuilt] == list(collected.outcomes)


def test_the_values_are_those_of_the_fan_in(rebuilt: list[dict[str, Any]], collected: Collected) -> None:
    assert [(row["name"], row["value"]) for row in rebuilt if row["state"] == "success"] == collected.items


def test_a_failure_names_20_branches_and_counts_the_rest(run: Run) -> None:
    log = run.log("refuse_all")
    assert log.count(": upstream_failed") == 19
    assert "and 276 more" in log
    assert len(run.report("refuse_all")["problems"]) == 20
