"""
Random groups of every mode and kind: fan-in, report and ``simulate`` say what the branches say they did.

The oracle knows of the package only what it promises. It reads what each branch wrote down before it acted,
and what the tasks that said how many wrote, and works out states, values, counts and the verdict by itself.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout.testing import simulate
from tests.e2e.dags import truth
from tests.e2e.truth_plan import Plan, plan_of, seeds

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Run

pytestmark = pytest.mark.slow


SCRIPT = Path(__file__).parents[1] / "distributed" / "read_run.py"


@dataclass
class Answer:
    """What became of a group's fan-in in a phase; its branches' events, and what the report reads of them."""

    given: dict[str, Any] | None
    report: dict[str, Any] | None
    state: str
    value: Any
    events: list[dict[str, Any]] = field(default_factory=list)
    in_database: dict[str, list[Any]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def answers(
    finished_run: Callable[[str], Run], scratch: Path, database_url: str
) -> dict[tuple[int, int], Answer]:
    """The answer of every fan-in, by seed and phase."""

    def look(phase: int) -> dict[tuple[int, int], Answer]:
        found = {(seed, phase): ask(run, plan_of(seed)) for seed in seeds()}
        groups = read_groups(run, database_url, scratch)
        for (seed, _), answer in found.items():
            answer.in_database = groups[plan_of(seed).group_id]
            path = scratch / f"truth-{plan_of(seed).group_id}.jsonl"
            answer.events = list(map(json.loads, path.read_text().splitlines())) if path.exists() else []
        return found

    run = finished_run("truth")
    at_first = look(1)
    (scratch / "truth-phase-2").touch()
    run.clear(*sorted(to_clear(run)))
    return at_first | look(2)


def read_groups(run: Run, database_url: str, scratch: Path) -> dict[str, dict[str, list[Any]]]:
    """State and error of every branch, by group and name, as ``report``, ``rerun`` and the tab read them."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    env |= {"AIRFLOW_HOME": str(scratch), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database_url}
    output = scratch / "groups.json"
    subprocess.run([sys.executable, str(SCRIPT), str(output), run.dag_id, run.run_id], env=env, check=True)
    groups: dict[str, dict[str, list[Any]]] = json.loads(output.read_text(encoding="utf-8"))
    return groups


def ask(run: Run, plan: Plan) -> Answer:
    fan_in = f"collect_{plan.group_id}"
    return Answer(
        given=run.find_xcom(fan_in, "given"),
        report=run.find_xcom(fan_in, "fan_out_report"),
        state=run.instance(fan_in).state,
        value=run.find_xcom(fan_in),
    )


def to_clear(run: Run) -> set[str]:
    """Tasks to clear: those that say how many, every second static branch, each mapped task."""
    tasks = set()
    for plan in map(plan_of, seeds()):
        if plan.at_run_time:
            tasks.add(f"tell_{plan.group_id}")
        elif plan.mode == "static":
            tasks |= {task for task in first_tasks(run, plan) if sum(map(ord, task)) % 2}
        elif plan.names[1]:
            tasks |= first_tasks(run, plan)
    return tasks


def first_tasks(run: Run, plan: Plan) -> set[str]:
    """The tasks that act."""
    inner = "by_index" if plan.origin == "count" else "by_item"
    ids = {task_id for task_id, _ in run.instances if task_id.startswith(f"{plan.group_id}.")}
    ids -= {f"{plan.group_id}.no_branches", f"{plan.group_id}.split"}
    return {each for each in ids if plan.kind != "task_group" or each.endswith(f".{inner}")}


def names_of(plan: Plan, events: list[dict[str, Any]]) -> list[str]:
    """The branches that were declared last."""
    rounds: list[list[str]] = [event["told"] for event in events if "told" in event]
    return rounds[-1] if rounds else plan.names[1]


def states_of(plan: Plan, events: list[dict[str, Any]]) -> dict[str, tuple[str, Any, str | None]]:
    """State, value and error of every branch, from what was written down last."""
    names = names_of(plan, events)
    last = {event["name"]: event for event in events if "name" in event}
    killed = killed_batches(plan, names, events) if plan.mode == "batched" else set()
    found: dict[str, tuple[str, Any, str | None]] = {}
    for place, name in enumerate(names):
        if plan.mode == "batched" and place // plan.items_per_task in killed:
            found[name] = ("failed", None, "no exception was recorded")
            continue
        event = last[name]
        match event["does"]:
            case "value":
                found[name] = ("success", event["value"], None)
            case "raise":
                found[name] = ("failed", None, f"ValueError: {name} is told to")
            case "give up":
                found[name] = ("failed", None, f"AirflowFailException: {name} gives up")
            case "skip":
                found[name] = ("skipped", None, f"{name} has nothing to do")
            case "die":
                found[name] = ("failed", None, "no exception was recorded")
    return found


def killed_batches(plan: Plan, names: list[str], events: list[dict[str, Any]]) -> set[int]:
    """Batches whose last process was killed."""
    last_process: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.get("name") in names:
            last_process[names.index(event["name"]) // plan.items_per_task] = event
    return {
        batch
        for batch, event in last_process.items()
        if any(each.get("pid") == event["pid"] and each.get("does") == "die" for each in events)
    }


def verdict_of(plan: Plan, states: list[str]) -> str:
    """What the policy table says."""
    policy = plan.policy
    if not states:
        return "failed" if policy else "success"
    skipped, good = states.count("skipped"), states.count("success")
    counts_as = policy.get("count_skipped", "exclude")
    if skipped == len(states) and counts_as == "exclude":
        return "skipped"
    counted = len(states) - (skipped if counts_as == "exclude" else 0)
    good += skipped if counts_as == "success" else 0
    if not policy:
        return "success" if good == counted else "failed"
    needed = policy.get("min_success", 0)
    if "min_success_ratio" in policy:
        needed = max(needed, math.ceil(Fraction(str(policy["min_success_ratio"])) * counted))
    return "success" if good >= needed else "failed"


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("seed", seeds())
def test_the_fan_in_says_what_the_branches_did(
    answers: dict[tuple[int, int], Answer], seed: int, phase: int
) -> None:
    plan, answer = plan_of(seed), answers[seed, phase]
    states = states_of(plan, answer.events)
    assert answer.given is not None
    assert answer.report is not None
    outcomes = {each["name"]: each for each in answer.given["outcomes"] if each["state"] != "removed"}

    assert {name: each["state"] for name, each in outcomes.items()} == {
        name: state for name, (state, _, _) in states.items()
    }
    assert list(outcomes) == list(states)
    good = [[name, value] for name, (state, value, _) in states.items() if state == "success"]
    assert answer.given["items"] == good
    for name, (_, _, error) in states.items():
        assert (outcomes[name]["error"] or "").startswith(error or "")
        assert (error is None) == (outcomes[name]["error"] is None)
    assert {name: [each["state"], each["error"]] for name, each in outcomes.items()} == {
        name: outcome for name, outcome in answer.in_database.items() if outcome[0] != "removed"
    }
    counts = [state for state, _, _ in states.values()]
    assert (answer.report["expected"], answer.report["succeeded"], answer.report["failed"]) == (
        len(states),
        counts.count("success"),
        counts.count("failed"),
    )
    assert answer.state == verdict_of(plan, counts)
    if answer.state == "success":
        assert answer.value == dict(good)


@pytest.mark.parametrize("phase", [1, 2])
@pytest.mark.parametrize("seed", seeds())
def test_simulate_says_what_the_fan_in_did(
    answers: dict[tuple[int, int], Answer], seed: int, phase: int
) -> None:
    plan, answer = plan_of(seed), answers[seed, phase]
    states = states_of(plan, answer.events)
    branches: dict[str, Any] = {}
    if plan.at_run_time:
        branches = {"names": list(states)} if plan.origin == "mapping" else {"count": len(states)}

    fan_in: Any = truth.dag.get_task(f"collect_{plan.group_id}")
    simulation = simulate(
        fan_in,
        {name: as_outcome(error) for name, (_, _, error) in states.items() if error is not None},
        {name: value for name, (state, value, _) in states.items() if state == "success"},
        **branches,
    )

    assert simulation.report is not None
    assert answer.report is not None
    is_degraded = answer.state == "success" and answer.report["degraded"]
    assert simulation.state == ("degraded" if is_degraded else answer.state)
    assert simulation.return_value == answer.value
    assert comparable(simulation.report) == comparable(answer.report)


def as_outcome(error: str) -> Any:
    """The outcome of a branch that left an error, in the words of ``simulate``."""
    kind, _, message = error.partition(": ")
    if kind == "no exception was recorded":
        return "failed"
    exceptions = {"ValueError": ValueError, "AirflowFailException": AirflowFailException}
    return exceptions[kind](message) if kind in exceptions else AirflowSkipException(error)


def comparable(report: Any) -> dict[str, Any]:
    """Leave out the seconds, and which process it was that recorded no exception."""
    problems = [
        {**problem, "error": str(problem["error"]).removesuffix(problem["error"].partition("recorded: ")[2])}
        for problem in report["problems"]
    ]
    seconds = dict.fromkeys(("total_branch_seconds", "longest_branch", "longest_branch_seconds"))
    return {**report, **seconds, "problems": problems}
