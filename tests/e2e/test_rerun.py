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
    from collections.abc import Callable, Mapping

    from tests.support.airflow import ControlledAirflow

pytestmark = [pytest.mark.e2e, pytest.mark.commands]

SCRIPT = Path(__file__).parent / "write_round.py"


def rerun(run: Run, *options: str) -> subprocess.CompletedProcess[str]:
    return run.airflow.command("fanout", "rerun", run.dag_id, run.run_id, *options)


def named(found: list[Mapping[str, Any]]) -> set[str]:
    return {name_of(each["task_id"], each["map_index"]) for each in found}


def name_of(task_id: str, map_index: int) -> str:
    return task_id if map_index < 0 else instance_name(task_id, map_index)


@dataclass(kw_only=True)
class Round:
    """
    How the run was after a command.

    :param states: State of every instance.
    :param tries: Number of the last try of every instance.
    :param ran: What its functions noted by then, each as often as it ran.
    :param said: What the command said, and its exit code.
    """

    states: dict[str, str]
    tries: dict[str, int]
    ran: Counter[str]
    said: subprocess.CompletedProcess[str] | None = None


@dataclass(kw_only=True)
class Many:
    """
    A run of many branches, after those that had failed have run again.

    :param run: The run.
    :param failed: The branches that had failed.
    :param said: What the command said.
    """

    run: Run
    failed: set[str]
    said: subprocess.CompletedProcess[str]


def write_round(run: Run, states: Mapping[str, str], database_url: str, home: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url,
    }
    command = [sys.executable, str(SCRIPT), run.dag_id, run.run_id]
    subprocess.run(command, cwd=home, env=env, input=json.dumps(states), text=True, check=True)


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("rerun")


@pytest.fixture(scope="module")
def rounds(run: Run, scratch: Path) -> list[Round]:
    """At first; after a dry run; after one group was run again, without what comes after; after all was."""

    def look(said: subprocess.CompletedProcess[str] | None = None) -> Round:
        run.__dict__.pop("instances", None)
        return Round(
            states={name_of(*key): found.state for key, found in run.instances.items()},
            tries={name_of(*key): found.try_number for key, found in run.instances.items()},
            ran=Counter((scratch / "rerun-ran").read_text().splitlines()),
            said=said,
        )

    found = [look(), look(rerun(run, "--dry-run", "--output", "json"))]
    (scratch / "rerun-mended").touch()
    for options in (["--group", "chains", "--no-downstream", "--yes"], ["--yes"]):
        said = rerun(run, *options)
        run.wait()
        found.append(look(said))
    return found


@pytest.fixture(scope="module")
def at_first(rounds: list[Round]) -> Round:
    return rounds[0]


@pytest.fixture(scope="module")
def dry(rounds: list[Round]) -> Round:
    return rounds[1]


@pytest.fixture(scope="module")
def one_group(rounds: list[Round]) -> Round:
    return rounds[2]


@pytest.fixture(scope="module")
def all_groups(rounds: list[Round]) -> Round:
    return rounds[3]


def ran_again(before: Round, after: Round) -> set[str]:
    return {name for name, tries in after.tries.items() if tries > before.tries.get(name, 0)}


def test_a_dry_run_changes_nothing(at_first: Round, dry: Round) -> None:
    assert (dry.states, dry.tries) == (at_first.states, at_first.tries)


def test_a_dry_run_tells_all_as_json(dry: Round) -> None:
    assert dry.said is not None
    plan = json.loads(dry.said.stdout)
    branches = {
        group["group"]: {branch["name"]: branch["state"] for branch in group["branches"]}
        for group in plan["groups"]
    }
    assert branches == {
        "chains": {"chains_1": "failed"},
        "items": {"items batch 1": "failed"},
        "texts": {},
        "stops": {"stops_0": "failed", "stops_1": "skipped", "stops_2": "skipped", "stops_3": "skipped"},
        "clusters": {"clusters_1": "failed"},
    }
    assert named(plan["causes"]) == {"list_texts"}
    assert named(plan["setups_and_teardowns"]) == {"clusters.clusters_1.make", "clusters.clusters_1.drop"}
    assert named(plan["downstream"]) == {"publish"}
    assert plan["cleared"] == []


def test_of_one_group_only_the_failed_task_and_the_fan_in_run_again(dry: Round, one_group: Round) -> None:
    assert ran_again(dry, one_group) == {"chains.chains_1.load", "collect_chains"}
    assert one_group.states["collect_chains"] == "success"


def test_without_downstream_what_comes_after_stays_as_it_was(one_group: Round) -> None:
    assert one_group.states["publish"] == "upstream_failed"


def test_it_says_what_it_cleared_and_how_to_look(run: Run, one_group: Round) -> None:
    assert one_group.said is not None
    assert one_group.said.returncode == 0, one_group.said.stderr
    assert "chains: 1 of 3 branches run again" in one_group.said.stdout
    branch = "  chains_1  failed; ValueError: chain 1 is broken; runs chains.chains_1.load\n"
    assert branch in one_group.said.stdout
    assert "  fan-in: collect_chains (failed)" in one_group.said.stdout
    assert "Cleared 2 task instances." in one_group.said.stdout
    assert f"airflow fanout report rerun {run.run_id}" in one_group.said.stdout


def test_then_everything_is_green_but_what_was_left_out_before(all_groups: Round) -> None:
    states = dict(all_groups.states)
    assert states.pop("publish") == "upstream_failed"
    assert set(states.values()) == {"success"}


def test_what_had_succeeded_did_not_run_again(one_group: Round, all_groups: Round) -> None:
    texts = {"list_texts", "texts.each[0]", "texts.each[1]", "collect_texts"}
    stops = {*(f"stops.each[{index}]" for index in range(4)), "collect_stops"}
    cluster = {*(f"clusters.clusters_1.{each}" for each in ("make", "work", "drop")), "collect_clusters"}
    items = {"items.each[1]", "collect_items"}
    assert ran_again(one_group, all_groups) == texts | stops | cluster | items


def test_of_a_batch_only_the_failed_items_ran_again(at_first: Round, all_groups: Round) -> None:
    items = {f"item {index}": 1 for index in range(12)}
    assert {name: count for name, count in at_first.ran.items() if name.startswith("item")} == items
    assert {name: count for name, count in all_groups.ran.items() if name.startswith("item")} == {
        **items,
        "item 5": 2,
        "item 6": 2,
    }


def test_a_group_that_is_not_there_is_an_error_in_one_line(run: Run) -> None:
    said = rerun(run, "--group", "chain", "--yes")

    assert said.returncode == 2
    assert said.stderr.splitlines()[-1] == (
        "airflow fanout rerun: Dag 'rerun' has no fan-out group 'chain' in this run; "
        "there are 'chains', 'clusters', 'items', 'stops', 'texts'"
    )


@pytest.fixture(scope="module")
def many(airflow: ControlledAirflow, database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Many:
    """420 branches of which 135 failed, in a round that was written into the database, and the next one."""
    airflow.wait_for_dag("rerun_many")
    run = Run(airflow, "rerun_many", airflow.trigger("rerun_many"))  # the Dag is paused
    failed = {f"static.static_{index}" for index in range(1, 120, 2)}
    failed |= {f"mapped.each[{index}]" for index in range(0, 300, 4)}
    states = dict.fromkeys([*sorted(failed), "collect_static", "collect_mapped"], "failed")
    write_round(
        run, states | {"add": "upstream_failed"}, database_url, tmp_path_factory.mktemp("without_dags")
    )
    said = rerun(run, "--yes", "--output", "json")
    airflow.request("PATCH", "dags/rerun_many", json={"is_paused": False})
    run.wait()
    return Many(run=run, failed=failed, said=said)


@pytest.mark.truth
class TestMoreThanAPage:
    """Airflow's own clear of a group takes the first 50 instances."""

    def test_exactly_those_that_failed_are_cleared_and_what_comes_after(self, many: Many) -> None:
        assert many.said.returncode == 0, many.said.stderr
        assert len(many.failed) == 60 + 75
        cleared = named(json.loads(many.said.stdout)["cleared"])
        assert cleared == many.failed | {"collect_static", "collect_mapped", "add"}

    def test_exactly_those_ran_again(self, many: Many) -> None:
        tries = {name_of(*key): found.try_number for key, found in many.run.instances.items()}
        # The first round has one try of each but of the last task, which never started.
        again = many.failed | {"collect_static", "collect_mapped"}
        assert tries == {name: 2 if name in again else 1 for name in tries}

    def test_everything_is_green(self, many: Many) -> None:
        assert {found.state for found in many.run.instances.values()} == {"success"}

    def test_the_last_task_is_given_the_values_of_all_branches(self, many: Many) -> None:
        assert many.run.xcom("add") == sum(range(120)) + sum(range(300))
