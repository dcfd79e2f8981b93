"""Branches that end in unusual ways: skipped after a failure, without ``post_execute``, marked by hand."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.report import read_groups

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Run, RunStarter

pytestmark = pytest.mark.slow

Outcome = tuple[str, Any, str | None]
"""State, value and error."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Outcomes by fan-in and name, and what the report reads, by group, or prefix fan-in, and name."""

    outcomes: dict[str, Mapping[str, Mapping[str, Any]]]
    groups: dict[str, dict[str, list[Any]]]

    def told(self, fan_in: str) -> list[Outcome]:
        """What a fan-in's function was given, in order."""
        return [(each["state"], each["value"], each["error"]) for each in self.outcomes[fan_in].values()]

    def read(self, title: str) -> list[tuple[str, str | None]]:
        """What the report reads, in order."""
        return [(state, error) for state, error in self.groups[title].values()]


def see(airflow: ControlledAirflow, run: Run, folder: Path) -> Seen:
    fan_ins = {task_id for task_id, _ in run.instances if task_id.startswith(("collect_", "prefix_"))}
    outcomes: dict[str, Mapping[str, Mapping[str, Any]]] = {}
    for fan_in in sorted(fan_ins):
        assert run.instance(fan_in).state == "success", run.log(fan_in)
        outcomes[fan_in] = run.collected(fan_in).outcomes
    return Seen(outcomes=outcomes, groups=read_groups(airflow, run, folder))


RULES = ("none_skipped", "one_success", "deep", "itself", "saved")
GROUPS = [*(f"{mode}_{rule}" for mode in ("static", "mapped") for rule in RULES), "told"]
FAILED: Outcome = ("failed", None, "ValueError: told to")


def expected_of(group_id: str) -> list[Outcome]:
    bad: Outcome = ("success", "end of bad", None) if group_id.endswith("saved") else FAILED
    return [bad, ("success", "end of good", None)]


@pytest.fixture(scope="module")
def skip_run(finished_run: RunStarter) -> Run:
    return finished_run("endings")


@pytest.fixture(scope="module")
def skips_seen(airflow: ControlledAirflow, skip_run: Run, scratch: Path) -> Seen:
    return see(airflow, skip_run, scratch)


class TestABranchWhoseLastTaskIsSkippedAfterAFailure:
    """One inner task failed, another one was skipped, and the last one by its trigger rule, or by itself."""

    @pytest.mark.parametrize("group_id", GROUPS)
    def test_its_last_task_was_skipped(self, skip_run: Run, group_id: str) -> None:
        index = -1 if group_id.startswith("static") else 0
        (state,) = [
            instance.state
            for (task_id, map_index), instance in skip_run.instances.items()
            if task_id.startswith(f"{group_id}.") and task_id.endswith(".last") and map_index == index
            if index == 0 or ".bad." in task_id
        ]
        assert state == ("success" if group_id.endswith("saved") else "skipped")

    @pytest.mark.parametrize("group_id", GROUPS)
    def test_it_is_failed_unless_its_last_task_succeeded(self, skips_seen: Seen, group_id: str) -> None:
        assert skips_seen.told(f"collect_{group_id}") == expected_of(group_id)

    @pytest.mark.parametrize("group_id", [each for each in GROUPS if not each.endswith("saved")])
    def test_it_names_the_task_that_failed(self, skips_seen: Seen, group_id: str) -> None:
        bad = skips_seen.outcomes[f"collect_{group_id}"]["bad"]
        index = -1 if group_id.startswith("static") else 0
        assert (bad["task_id"].rpartition(".")[2], bad["map_index"]) == ("fails", index)

    @pytest.mark.parametrize("group_id", [each for each in GROUPS if each != "told"])
    def test_a_fan_in_by_prefix_says_the_same(self, skips_seen: Seen, group_id: str) -> None:
        assert skips_seen.told(f"prefix_{group_id}") == expected_of(group_id)

    @pytest.mark.parametrize("group_id", GROUPS)
    def test_the_fan_in_counts_it(self, skip_run: Run, skips_seen: Seen, group_id: str) -> None:
        report = skip_run.report(f"collect_{group_id}")
        failed = 0 if group_id.endswith("saved") else 1
        assert (report["expected"], report["failed"], report["skipped"]) == (2, failed, 0)

    @pytest.mark.parametrize("group_id", GROUPS)
    def test_the_report_says_the_same(self, skips_seen: Seen, group_id: str) -> None:
        assert skips_seen.read(group_id) == [(state, error) for state, _, error in expected_of(group_id)]


NONE: Outcome = ("success", None, None)
"""A success with None."""
MODES = ("static", "mapped")
SUCCESSFUL = [
    *(f"trigger_{mode}" for mode in MODES),
    *(f"sensor_{mode}" for mode in MODES),
    "started",
]
WAITING = [f"{way}_{mode}" for way in ("wait", "defer") for mode in MODES]


@pytest.fixture(scope="module")
def trigger_run(finished_run: RunStarter) -> Run:
    return finished_run("endings_triggers")


@pytest.fixture(scope="module")
def triggers_seen(airflow: ControlledAirflow, trigger_run: Run, scratch: Path) -> Seen:
    return see(airflow, trigger_run, scratch)


class TestOperatorsThatEndWithoutPostExecute:
    """``TriggerDagRunOperator``, waiting or not, and a sensor that its trigger ends."""

    @pytest.mark.parametrize("group_id", SUCCESSFUL)
    def test_they_are_successes_with_none(self, triggers_seen: Seen, group_id: str) -> None:
        assert set(triggers_seen.told(f"collect_{group_id}")) == {NONE}

    @pytest.mark.parametrize("group_id", [each for each in SUCCESSFUL if each != "started"])
    def test_they_are_successes_with_none_by_prefix_too(self, triggers_seen: Seen, group_id: str) -> None:
        assert triggers_seen.told(f"prefix_{group_id}") == [NONE, NONE]

    @pytest.mark.parametrize("group_id", SUCCESSFUL)
    def test_they_are_successes_in_the_report(self, triggers_seen: Seen, group_id: str) -> None:
        assert set(triggers_seen.read(group_id)) == {("success", None)}

    def test_those_that_this_package_did_not_make_are_so_too(self, triggers_seen: Seen) -> None:
        assert dict(
            zip(triggers_seen.outcomes["collect_foreign"], triggers_seen.told("collect_foreign"), strict=True)
        ) == {
            "foreign_mapped[0]": NONE,
            "foreign_mapped[1]": NONE,
            "foreign_sensor": NONE,
            "foreign_trigger": NONE,
            "foreign_wait": NONE,
        }
        assert set(triggers_seen.read("collect_foreign")) == {("success", None)}

    @pytest.mark.parametrize("fan_in", ["collect", "prefix"])
    @pytest.mark.parametrize("group_id", WAITING)
    def test_one_whose_child_failed_says_so(self, triggers_seen: Seen, group_id: str, fan_in: str) -> None:
        good, (state, _, error) = triggers_seen.told(f"{fan_in}_{group_id}")
        assert (good, state) == (NONE, "failed")
        assert "endings_child" in str(error)
        assert "failed" in str(error)

    @pytest.mark.parametrize("group_id", WAITING)
    def test_one_whose_child_failed_says_so_in_the_report(self, triggers_seen: Seen, group_id: str) -> None:
        good, (state, error) = triggers_seen.read(group_id)
        assert (good, state) == (("success", None), "failed")
        assert "endings_child" in str(error)
        assert "failed" in str(error)

    def test_a_rerun_starts_the_children_that_failed_alone(
        self, airflow: ControlledAirflow, trigger_run: Run, triggers_seen: Seen
    ) -> None:
        assert triggers_seen.groups
        before = children(airflow)
        ended = airflow.command(
            "fanout", "rerun", trigger_run.dag_id, trigger_run.run_id, "--yes", "--output", "json"
        )
        assert ended.returncode == 0, ended.stderr
        trigger_run.wait()
        failed = {f"{group_id}_1" for group_id in WAITING}
        said = {
            branch["name"] for group in json.loads(ended.stdout)["groups"] for branch in group["branches"]
        }
        assert said == failed
        assert children(airflow) - before == Counter(failed)


def children(airflow: ControlledAirflow) -> Counter[str]:
    """Runs of the child Dag, by who started them."""
    runs = airflow.pages("dags/endings_child/dagRuns", "dag_runs")
    return Counter(run["conf"]["by"] for run in runs)


BY_HAND: Outcome = ("missing", None, "it was marked success by hand, and pushed nothing")
MARKED = [
    ("static.never", -1),
    ("mapped.each", 0),
    ("steps.each.passes", 0),
    ("foreign_failed", -1),
    ("foreign_never", -1),
]


@pytest.fixture(scope="module")
def marked_seen(airflow: ControlledAirflow, finished_run: RunStarter, scratch: Path) -> Seen:
    run = finished_run("endings_marked")
    assert {run.instance(*instance).state for instance in MARKED} == {"failed", "upstream_failed"}
    for task_id, map_index in MARKED:
        airflow.set_state(run.dag_id, run.run_id, task_id, "success", map_index=map_index)
    run.clear(*sorted({task_id for task_id, _ in run.instances if task_id.startswith("collect_")}))
    assert {run.instance(*instance).state for instance in MARKED} == {"success"}
    return see(airflow, run, scratch)


class TestWhatWasMarkedSuccessByHand:
    """Each was marked after the run had ended; then the fan-ins were cleared."""

    @pytest.mark.parametrize(("group_id", "name"), [("static", "never"), ("mapped", "bad"), ("steps", "bad")])
    def test_a_branch_that_never_ran_is_missing_and_says_why(
        self, marked_seen: Seen, group_id: str, name: str
    ) -> None:
        outcome = marked_seen.outcomes[f"collect_{group_id}"][name]
        assert (outcome["state"], outcome["value"], outcome["error"]) == BY_HAND
        assert marked_seen.groups[group_id][name] == ["missing", BY_HAND[2]]

    def test_a_task_of_others_that_never_ran_is_missing_and_says_why(self, marked_seen: Seen) -> None:
        outcome = marked_seen.outcomes["collect_foreign"]["foreign_never"]
        assert (outcome["state"], outcome["value"], outcome["error"]) == BY_HAND
        assert marked_seen.groups["collect_foreign"]["foreign_never"] == ["missing", BY_HAND[2]]

    def test_a_task_of_others_that_failed_is_what_airflow_says(self, marked_seen: Seen) -> None:
        outcome = marked_seen.outcomes["collect_foreign"]["foreign_failed"]
        assert (outcome["state"], outcome["value"], outcome["error"]) == NONE
        assert marked_seen.groups["collect_foreign"]["foreign_failed"] == ["success", None]
