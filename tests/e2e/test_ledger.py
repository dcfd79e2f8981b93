"""A group of 300 long names: its declaration outlives the Dag file, and a failure names only some of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Run

DAG_ID = "many_names"

NAMES = [f"document_{(number * 7) % 300}_of_the_archive_that_was_scanned_last_year" for number in range(300)]


def test_a_process_without_the_dag_file_knows_every_branch_in_declared_order(
    airflow: ControlledAirflow, run: Run
) -> None:
    ended = airflow.command("fanout", "report", "many_names", run.run_id, "--output", "json")

    assert ended.returncode == 0, ended.stderr
    (group,) = json.loads(ended.stdout)["groups"]
    collected = run.collected("tolerate")
    assert [branch["name"] for branch in group["branches"]] == list(collected.outcomes) == NAMES
    assert {branch["name"]: branch["state"] for branch in group["branches"]} == collected.states


def test_a_failure_names_the_first_branches_of_each_kind_and_counts_the_rest(run: Run) -> None:
    log, report = run.log("refuse_all"), run.report("refuse_all")
    assert f"{NAMES[0]}: failed: ValueError: unreadable" in log
    assert f"295 × upstream_failed ({', '.join(report['errors'][1]['names'])} and 290 more)" in log
    assert [kind["branches"] for kind in report["errors"]] == [1, 295]
    assert len(report["problems"]) == 20
