"""``airflow fanout rerun`` on a real scheduler: what failed runs again, with all that depends on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.rules.names import instance_name
from tests.support.run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.airflow import ControlledAirflow

pytestmark = pytest.mark.slow

DAG_ID = "rerun"

SCRIPT = Path(__file__).parent / "write_round.py"


def rerun(airflow: ControlledAirflow, run: Run, *options: str) -> subprocess.CompletedProcess[str]:
    return airflow.command("fanout", "rerun", run.dag_id, run.run_id, *options)


def names_of(instances: list[Mapping[str, Any]]) -> set[str]:
    return {name_of(instance["task_id"], instance["map_index"]) for instance in instances}


def name_of(task_id: str, map_index: int) -> str:
    return task_id if map_index < 0 else instance_name(task_id, map_index)


@dataclass(kw_only=True)
class Round:
    """How the run was after a command: states and tries by instance, and what its functions noted."""

    states: dict[str, str]
    tries: dict[str, int]
    notes: Counter[str]
    ended: subprocess.CompletedProcess[str]

    def has_run_again(self, before: Round) -> set[str]:
        """Names of the instances that have had another try since."""
        return {name for name, tries in self.tries.items() if tries > before.tries.get(name, 0)}


@pytest.fixture(scope="module")
def rounds(airflow: ControlledAirflow, run: Run, scratch: Path) -> list[Round]:
    """After a dry run; after one group was run again, without what comes after; after all was."""

    def look(ended: subprocess.CompletedProcess[str]) -> Round:
        run.look_again()
        return Round(
            states={name_of(*key): instance.state for key, instance in run.instances.items()},
            tries={name_of(*key): instance.try_number for key, instance in run.instances.items()},
            notes=Counter((scratch / "rerun-ran").read_text().splitlines()),
            ended=ended,
        )

    rounds = [look(rerun(airflow, run, "--dry-run", "--output", "json"))]
    (scratch / "rerun-mended").touch()
    for options in (["--group", "chains", "--no-downstream", "--yes"], ["--yes"]):
        ended = rerun(airflow, run, *options)
        run.wait()
        rounds.append(look(ended))
    return rounds


@pytest.fixture(scope="module")
def dry(rounds: list[Round]) -> Round:
    return rounds[0]


@pytest.fixture(scope="module")
def one_group(rounds: list[Round]) -> Round:
    return rounds[1]


@pytest.fixture(scope="module")
def all_groups(rounds: list[Round]) -> Round:
    return rounds[2]


def test_a_dry_run_changes_nothing_and_tells_all_as_json(dry: Round) -> None:
    plan = json.loads(dry.ended.stdout)
    assert {
        group["group"]: {branch["name"]: branch["state"] for branch in group["branches"]}
        for group in plan["groups"]
    } == {
        "chains": {"chains_1": "failed"},
        "items": {"items batch 1": "failed"},
        "texts": {},
        "stops": {"stops_0": "failed", "stops_1": "skipped", "stops_2": "skipped", "stops_3": "skipped"},
        "clusters": {"clusters_1": "failed"},
    }
    assert names_of(plan["causes"]) == {"list_texts"}
    assert names_of(plan["setups_and_teardowns"]) == {"clusters.clusters_1.make", "clusters.clusters_1.drop"}
    assert names_of(plan["downstream"]) == {"publish"}
    assert plan["cleared"] == []
    assert set(dry.tries.values()) == {0, 1}


def test_of_one_group_only_the_failed_task_and_the_fan_in_run_again(dry: Round, one_group: Round) -> None:
    assert one_group.has_run_again(dry) == {"chains.chains_1.load", "collect_chains"}
    assert one_group.states["collect_chains"] == "success"
    assert one_group.states["publish"] == "upstream_failed"  # --no-downstream


def test_it_says_what_it_cleared_and_how_to_look(run: Run, one_group: Round) -> None:
    assert one_group.ended.returncode == 0, one_group.ended.stderr
    for text in (
        "chains: 1 of 3 branches runs again",
        "  chains_1  failed; ValueError: chain 1 is broken; runs chains.chains_1.load\n",
        "  fan-in: collect_chains (failed)",
        "Cleared 2 task instances.",
        f"airflow fanout report rerun {run.run_id}",
    ):
        assert text in one_group.ended.stdout


def test_then_everything_is_green_but_what_was_left_out_before(all_groups: Round) -> None:
    states = dict(all_groups.states)
    assert states.pop("publish") == "upstream_failed"
    assert set(states.values()) == {"success"}


def test_what_had_succeeded_did_not_run_again(one_group: Round, all_groups: Round) -> None:
    texts = {"list_texts", "texts.each[0]", "texts.each[1]", "collect_texts"}
    stops = {*(f"stops.each[{index}]" for index in range(4)), "collect_stops"}
    cluster = {*(f"clusters.clusters_1.{task}" for task in ("make", "work", "drop")), "collect_clusters"}
    items = {"items.each[1]", "collect_items"}
    assert all_groups.has_run_again(one_group) == texts | stops | cluster | items


def test_of_a_batch_only_the_failed_items_ran_again(all_groups: Round) -> None:
    items = {f"item {index}": 2 if index in {5, 6} else 1 for index in range(12)}
    assert {name: count for name, count in all_groups.notes.items() if name.startswith("item")} == items


def test_a_group_that_is_not_there_is_an_error_in_one_line(airflow: ControlledAirflow, run: Run) -> None:
    ended = rerun(airflow, run, "--group", "chain", "--yes")

    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        "airflow fanout rerun: Dag 'rerun' has no fan-out group 'chain' in this run; "
        "there are 'chains', 'clusters', 'items', 'stops', 'texts'"
    )


def test_more_branches_than_a_page_run_again(
    airflow: ControlledAirflow, database_url: str, tmp_path: Path
) -> None:
    """Of 420 branches 135 failed, in a round that was written into the database; Airflow's pages have 50."""
    run = Run.start(airflow, "rerun_many")  # the Dag is paused
    failed = {f"static.static_{index}" for index in range(1, 120, 2)}
    failed |= {f"mapped.each[{index}]" for index in range(0, 300, 4)}
    fan_ins = {"collect_static", "collect_mapped"}
    states = dict.fromkeys([*failed, *fan_ins], "failed") | {"add": "upstream_failed"}
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    env |= {"AIRFLOW_HOME": str(tmp_path), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url}
    command = [sys.executable, str(SCRIPT), run.dag_id, run.run_id]
    subprocess.run(command, cwd=tmp_path, env=env, input=json.dumps(states), text=True, check=True)

    ended = rerun(airflow, run, "--yes", "--output", "json")
    airflow.request("PATCH", "dags/rerun_many", json={"is_paused": False})
    run.wait()

    assert ended.returncode == 0, ended.stderr
    assert names_of(json.loads(ended.stdout)["cleared"]) == failed | fan_ins | {"add"}
    tries = {name_of(*key): instance.try_number for key, instance in run.instances.items()}
    # The first round has one try of each but of the last task, which never started.
    assert tries == {name: 2 if name in failed | fan_ins else 1 for name in tries}
    assert {instance.state for instance in run.instances.values()} == {"success"}
    assert run.xcom("add") == sum(range(120)) + sum(range(300))
