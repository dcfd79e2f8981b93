"""
Random groups of every mode and kind: fan-in, report, ``rerun`` and ``simulate`` say what the branches did.

Each runs in two phases. Between them the Dag file is edited, and branches, the tasks of their items, or only
the fan-ins are cleared. The oracle knows of the package only what it promises. It reads what each branch
wrote down before it acted, what the tasks that said how many wrote, and which instances Airflow has removed,
and works out names, states, values, counts and the verdict by itself.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout.execution_time.transport import UnstorableValueError
from airflow_fanout.testing import simulate
from tests.e2e.dags import truth
from tests.e2e.truth_plan import PHASES, Plan, plan_of, seeds
from tests.support.report import read_groups

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Run

pytestmark = pytest.mark.slow


KEEPS_STATE = "task_state_store" in KNOWN_CONTEXT_KEYS  # from Airflow 3.3 on
RERUN = Path(__file__).parents[1] / "distributed" / "read_rerun.py"


NO_EXCEPTION = "no exception was recorded"
CHANGED = "the Dag, or its items, changed"
"""In the reason of what no instance ran."""
HOSTILE_ERRORS = {name: error for name, (_, error) in truth.HOSTILE.items()}
Outcome = tuple[str, Any, str | None]
"""State, value, and how its error begins."""


@dataclass
class Answer:
    """
    What became of a group's fan-in in a phase.

    :param events: What its branches wrote down.
    :param in_database: State and error of every branch by name, as the report reads them.
    :param again: Names of the branches, or batches, that ``rerun`` would run.
    :param states: State of every task instance of the group.
    """

    given: dict[str, Any] | None
    report: dict[str, Any] | None
    state: str
    value: Any
    events: list[dict[str, Any]] = field(default_factory=list)
    in_database: dict[str, list[Any]] = field(default_factory=dict)
    again: set[str] = field(default_factory=set)
    states: dict[tuple[str, int], str] = field(default_factory=dict)


@pytest.fixture(scope="module")
def answers(
    airflow: ControlledAirflow, finished_run: Callable[[str], Run], scratch: Path
) -> dict[tuple[int, int], Answer]:
    """The answer of every fan-in, by seed and phase."""

    def look(phase: int) -> dict[tuple[int, int], Answer]:
        found = {(seed, phase): ask(run, plan_of(seed)) for seed in seeds()}
        groups, again = read_groups(airflow, run, scratch), read_rerun(airflow, run, scratch)
        for (seed, _), answer in found.items():
            group_id = plan_of(seed).group_id
            answer.in_database, answer.again = groups[group_id], again.get(group_id, set())
            path = scratch / f"truth-{group_id}.jsonl"
            answer.events = list(map(json.loads, path.read_text().splitlines())) if path.exists() else []
        return found

    run = finished_run("truth")
    at_first = look(1)
    edit(airflow, scratch)
    run_again(airflow, run)
    return at_first | look(2)


def edit(airflow: ControlledAirflow, scratch: Path) -> None:
    """Have the Dag file declare the second phase's branches."""
    before = version_count(airflow)
    (scratch / "truth-phase-2").touch()
    (airflow.dags_folder / "truth.py").touch()
    if any(plan_of(seed).is_edited for seed in seeds()):
        airflow.poll(
            lambda: version_count(airflow) > before or None,
            timeout=120,
            condition=lambda: "The Dag processor has not seen the file",
        )


def version_count(airflow: ControlledAirflow) -> int:
    return len(airflow.pages("dags/truth/dagVersions", "dag_versions"))


def run_again(airflow: ControlledAirflow, run: Run) -> None:
    """Clear what each plan says."""
    plans = [plan_of(seed) for seed in seeds()]
    sources = [plan.group_id for plan in plans if plan.again.startswith("source")]
    alone = {f"collect_{plan.group_id}" for plan in plans if plan.again == "fan-in"}
    alone |= {f"tell_{group_id}" for group_id in sources}
    alone |= {f"{plan.group_id}.split" for plan in plans if plan.again == "source and split"}
    clear_and_wait(airflow, run, to_clear(run), alone)
    clear_and_wait(airflow, run, set(), {f"collect_{group_id}" for group_id in sources})


def clear_and_wait(airflow: ControlledAirflow, run: Run, with_all_after: set[str], alone: set[str]) -> None:
    for tasks, downstream in ((with_all_after, True), (alone, False)):
        if tasks:
            airflow.clear(run.dag_id, run.run_id, sorted(tasks), include_downstream=downstream)
    run.wait()


def read_rerun(airflow: ControlledAirflow, run: Run, folder: Path) -> dict[str, set[str]]:
    """Names of the branches, or batches, that ``rerun`` would run, by group."""
    output = folder / "plan.json"
    command = [sys.executable, str(RERUN), str(output), run.dag_id, run.run_id]
    subprocess.run(command, cwd=airflow.home, env=airflow.environment("command"), check=True)
    groups = json.loads(output.read_text(encoding="utf-8"))["groups"]
    return {group["group"]: {branch["name"] for branch in group["branches"]} for group in groups}


def ask(run: Run, plan: Plan) -> Answer:
    fan_in = f"collect_{plan.group_id}"
    return Answer(
        given=run.find_xcom(fan_in, "given"),
        report=run.find_xcom(fan_in, "fan_out_report"),
        state=run.instance(fan_in).state,
        value=run.find_xcom(fan_in),
        states={
            key: instance.state
            for key, instance in run.instances.items()
            if key[0].startswith(f"{plan.group_id}.")
        },
    )


def to_clear(run: Run) -> set[str]:
    """
    Tasks to clear with all that comes after them.

    Those that say how many, every second static branch that is still declared, each mapped task, and what
    cuts batches where the Dag file has changed.
    """
    tasks = set()
    for plan in map(plan_of, seeds()):
        if plan.again != "branches":
            continue
        if plan.at_run_time:
            tasks.add(f"tell_{plan.group_id}")
        elif plan.mode == "static":
            tasks |= {task for task in first_tasks(run, plan) if sum(map(ord, task)) % 2}
            tasks |= {f"collect_{plan.group_id}"} if plan.is_edited else set()
        elif plan.names[1]:
            tasks |= first_tasks(run, plan)
            tasks |= {f"{plan.group_id}.split"} if plan.is_edited and plan.is_split else set()
    return tasks


def first_tasks(run: Run, plan: Plan) -> set[str]:
    """The tasks that act, of branches that are still declared in the end."""
    inner = "by_index" if plan.origin == "count" else "by_item"
    ids = {task_id for task_id, _ in run.instances if task_id.startswith(f"{plan.group_id}.")}
    ids -= {f"{plan.group_id}.no_branches", f"{plan.group_id}.split"}
    if plan.mode == "static":
        ids = {each for each in ids if each.split(".")[1] in plan.names[2]}
    return {each for each in ids if plan.kind != "task_group" or each.endswith(f".{inner}")}


def names_of(plan: Plan, phase: int, events: list[dict[str, Any]]) -> list[str]:
    """The branches that were declared, or yielded, last."""
    if not plan.at_run_time:
        return plan.names[phase]
    rounds: list[list[str]] = [event["told"] for event in events if "told" in event]
    return rounds[-1]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """
    What ran one branch, or item.

    :param position: Where among all it ran.
    :param name: What it ran as; None if it could not say.
    """

    position: int
    name: str | None
    outcome: Outcome


def ran_of(plan: Plan, phase: int, answer: Answer) -> list[Ran]:
    """What ran last at each position, by what was written down; without what Airflow has removed."""
    events = [event for event in answer.events if "name" in event]
    removed = {index for (task_id, index), state in answer.states.items() if state == "removed"}
    if plan.mode == "batched":
        return list(ran_in_batches(plan, phase, events, removed))
    last = {event["map_index"]: event for event in events}
    return [
        Ran(
            position=index,
            name=event["name"] if tells_its_name(plan, event) else None,
            outcome=outcome_of(plan, event),
        )
        for index, event in sorted(last.items())
        if index not in removed
    ]


def tells_its_name(plan: Plan, event: dict[str, Any]) -> bool:
    """Whether the process lived, and had a chance, to record what it ran."""
    return event["does"] != "die" and not (plan.kind == "ending" and event["does"] == "value")


def ran_in_batches(plan: Plan, phase: int, events: list[dict[str, Any]], removed: set[int]) -> Iterator[Ran]:
    is_cut_again = phase == 2 and plan.again in {"branches", "source and split"}
    names = plan.names[2 if phase == 2 and plan.again == "branches" else 1]
    last = {event["name"]: event for event in events}
    killed = killed_batches(plan, names, events)
    for position, name in enumerate(names):
        batch = position // plan.items_per_task
        if batch not in removed | killed:
            yield Ran(position=position, name=name, outcome=outcome_of(plan, last[name]))
    # Nobody knows of how many items such a batch was; it stands for all that it is cut for now.
    for position in range(len(plan.names[2 if is_cut_again else 1])):
        batch = position // plan.items_per_task
        if batch in killed - removed:
            yield Ran(position=position, name=None, outcome=("failed", None, NO_EXCEPTION))


def outcome_of(plan: Plan, event: dict[str, Any]) -> Outcome:
    name = event["name"]
    return {
        "value": ("success", event["value"], None),
        "share": ("success", event["value"], None),
        "raise": ("failed", None, f"ValueError: {name} is told to"),
        "give up": ("failed", None, f"AirflowFailException: {name} gives up"),
        "skip": ("skipped", None, f"{name} has nothing to do"),
        "die": ("failed", None, NO_EXCEPTION),
        "hostile": ("failed", None, HOSTILE_ERRORS.get(str(event["value"]))),
    }[event["does"]]


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


@dataclass(frozen=True, kw_only=True)
class Truth:
    """
    What is true of a group in a phase.

    :param outcomes: Of every branch that is declared, by name.
    :param ran_at: Where each of these was run; None if it was not.
    :param removed: What ran and is no longer declared: its name, or None where another one has it.
    """

    outcomes: dict[str, Outcome]
    ran_at: dict[str, Ran | None]
    removed: list[str | None]


def truth_of(plan: Plan, phase: int, answer: Answer) -> Truth:
    """Give every name what ran as it, and every position that couldn't say so what ran there."""
    names = names_of(plan, phase, answer.events)
    if plan.mode == "static":
        return static_truth(plan, names, answer)
    ran = ran_of(plan, phase, answer)
    ran_at: dict[str, Ran | None] = {}
    for position, name in enumerate(names):
        here = [each for each in ran if each.position == position]
        named = [each for each in ran if each.name == name]
        found = [each for each in here if each in named] or named or [e for e in here if e.name is None]
        ran_at[name] = found[0] if found else None
    rest = [each for each in ran if each not in ran_at.values()]
    return Truth(
        outcomes={
            name: ("missing", None, CHANGED) if found is None else found.outcome
            for name, found in ran_at.items()
        },
        ran_at=ran_at,
        removed=[None if each.name in ran_at else each.name for each in rest],
    )


def static_truth(plan: Plan, names: list[str], answer: Answer) -> Truth:
    """Each branch has tasks of its own name."""
    last = {event["name"]: event for event in answer.events if "name" in event}
    return Truth(
        outcomes={name: outcome_of(plan, last[name]) for name in names},
        ran_at={},
        removed=[name for name in last if name not in names],
    )


def is_displaced(truth: Truth) -> bool:
    """Whether what ran is not what is declared, in that order."""
    places = [None if found is None else found.position for found in truth.ran_at.values()]
    return bool(truth.removed) or places != list(range(len(places)))


def is_as_told(given: dict[str, Any], expected: Outcome) -> bool:
    state, _, error = expected
    if given["state"] != state or (given["error"] is None) != (error is None):
        return False
    found = given["error"] or ""
    return error is None or found.startswith(error) or (error == CHANGED and CHANGED in found)


def reruns_of(plan: Plan, answer: Answer, truth: Truth) -> tuple[set[str], set[str]]:
    """Names that ``rerun`` has to run, and those that it may: what is no success, and what this displaces."""
    bad = {name for name, (state, _, _) in truth.outcomes.items() if state != "success"}
    if plan.mode == "static":
        return bad, bad
    names = list(truth.outcomes)
    if plan.mode == "batched":
        return batches_again(plan, answer, truth, bad)
    moving = {
        name
        for position, name in enumerate(names)
        if (found := truth.ran_at[name]) is None or found.position != position
    }
    again = set(bad)
    while True:
        taken = {names.index(name) for name in again & moving}
        more = {n for n in moving if (found := truth.ran_at[n]) is not None and found.position in taken}
        if more <= again:
            break
        again |= more
    last = "each.same" if plan.kind == "task_group" else "each"
    known = {
        index
        for (task_id, index), state in answer.states.items()
        if task_id == f"{plan.group_id}.{last}" and index >= 0 and state != "removed"
    }
    cleared = {name for name in again if names.index(name) in known}
    # When Airflow runs one of these again, it makes the instances that are lacking.
    again = cleared | {name for name in names if cleared and names.index(name) not in known}
    return again, again


def batches_again(plan: Plan, answer: Answer, truth: Truth, bad: set[str]) -> tuple[set[str], set[str]]:
    """A batch runs again if an item of it failed, or if it has none of an item that it should have run."""
    states = {
        index: state
        for (task_id, index), state in answer.states.items()
        if task_id == f"{plan.group_id}.each" and index >= 0 and state != "removed"
    }
    has_to = {batch for batch, state in states.items() if state == "failed"}
    may = set(has_to)
    for position, name in enumerate(truth.outcomes):
        found = truth.ran_at[name]
        batch = position // plan.items_per_task
        if found is None or found.position != position:
            may.add(batch)
            has_to |= {batch} if name in bad else set()
    if any(found is None or found.position != p for p, found in enumerate(truth.ran_at.values())):
        may |= states.keys()  # those whose items are displaced
    title = f"{plan.group_id} batch"
    return {f"{title} {n}" for n in has_to & states.keys()}, {f"{title} {n}" for n in may}


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


PHASES_OF_SEEDS = [pytest.param(seed, phase, id=f"{seed}-{phase}") for seed in seeds() for phase in PHASES]


@pytest.mark.parametrize(("seed", "phase"), PHASES_OF_SEEDS)
def test_the_fan_in_says_what_the_branches_did(
    answers: dict[tuple[int, int], Answer], seed: int, phase: int
) -> None:
    plan, answer = plan_of(seed), answers[seed, phase]
    expected = truth_of(plan, phase, answer)
    states = [state for state, _, _ in expected.outcomes.values()]
    assert answer.given is not None
    assert answer.report is not None
    given = {each["name"]: each for each in answer.given["outcomes"]}
    declared = {name: each for name, each in given.items() if each["state"] != "removed"}

    assert {name: each["state"] for name, each in declared.items()} == {
        name: state for name, (state, _, _) in expected.outcomes.items()
    }
    assert list(declared) == list(expected.outcomes)
    good = [[name, value] for name, (state, value, _) in expected.outcomes.items() if state == "success"]
    is_refused = plan.is_combined and isinstance(answer.given["items"], str)
    if is_refused:  # what was folded can't be taken apart
        assert is_displaced(expected)
        assert "can't be told apart any more" in answer.given["items"]
    else:
        assert (answer.given["items"] or []) == good
    odd = {n: each["error"] for n, each in declared.items() if not is_as_told(each, expected.outcomes[n])}
    assert odd == {}
    removed = given.keys() - declared.keys()
    assert {name for name in expected.removed if name is not None} <= removed
    assert len(removed) >= len(expected.removed)
    assert (answer.report["expected"], answer.report["succeeded"], answer.report["failed"]) == (
        len(states),
        states.count("success"),
        states.count("failed"),
    )
    assert answer.report["missing"] == states.count("missing")
    verdict = verdict_of(plan, states)
    assert answer.state == ("failed" if is_refused and verdict == "success" else verdict)
    if answer.state == "success":
        assert (answer.value or []) == good if plan.is_combined else answer.value == dict(good)


@pytest.mark.skipif(not KEEPS_STATE, reason="Airflow keeps no tries of a task's items before 3.3")
@pytest.mark.parametrize("seed", seeds())
def test_an_item_has_as_many_tries_as_it_wrote_down(
    answers: dict[tuple[int, int], Answer], seed: int
) -> None:
    plan, answer = plan_of(seed), answers[seed, 1]
    events = [event for event in answer.events if event["phase"] == 1]
    if plan.mode != "batched" or any(event.get("does") == "die" for event in events):
        return  # what a killed process had not saved is not counted
    assert answer.given is not None
    calls = Counter(event["name"] for event in events if "name" in event)

    assert {each["name"]: each["tries"] for each in answer.given["outcomes"]} == calls


@pytest.mark.parametrize(("seed", "phase"), PHASES_OF_SEEDS)
def test_the_report_says_what_the_fan_in_says(
    answers: dict[tuple[int, int], Answer], seed: int, phase: int
) -> None:
    answer = answers[seed, phase]
    assert answer.given is not None
    given = [(each["name"], [each["state"], each["error"]]) for each in answer.given["outcomes"]]
    assert list(answer.in_database.items()) == given


@pytest.mark.parametrize(("seed", "phase"), PHASES_OF_SEEDS)
def test_rerun_would_run_what_is_no_success_and_what_that_displaces(
    answers: dict[tuple[int, int], Answer], seed: int, phase: int
) -> None:
    plan, answer = plan_of(seed), answers[seed, phase]
    has_to, may = reruns_of(plan, answer, truth_of(plan, phase, answer))
    assert has_to <= answer.again <= may


@pytest.mark.parametrize(("seed", "phase"), PHASES_OF_SEEDS)
def test_simulate_says_what_the_fan_in_did(
    answers: dict[tuple[int, int], Answer], seed: int, phase: int
) -> None:
    plan, answer = plan_of(seed), answers[seed, phase]
    expected = truth_of(plan, phase, answer).outcomes
    assert answer.given is not None
    if any(state == "missing" for state, _, _ in expected.values()):
        return  # it knows of no Dag but the one that it is given
    if plan.is_combined and isinstance(answer.given["items"], str):
        return
    errors = {each["name"]: each["error"] for each in answer.given["outcomes"]}
    branches: dict[str, Any] = {}
    if plan.at_run_time:
        branches = {"names": list(expected)} if plan.origin == "mapping" else {"count": len(expected)}

    fan_in: Any = dag_of(phase).get_task(f"collect_{plan.group_id}")
    simulation = simulate(
        fan_in,
        {name: as_outcome(errors[name]) for name, (_, _, error) in expected.items() if error is not None},
        {
            name: [[name, value]] if plan.is_combined else value
            for name, (state, value, _) in expected.items()
            if state == "success"
        },
        **branches,
    )

    assert simulation.report is not None
    assert answer.report is not None
    is_degraded = answer.state == "success" and answer.report["degraded"]
    assert simulation.state == ("degraded" if is_degraded else answer.state)
    assert simulation.return_value == answer.value
    assert comparable(simulation.report) == comparable(answer.report)


dag_of = cache(truth.dag_of)


def as_outcome(error: str) -> Any:
    """The outcome of a branch that left an error, in the words of ``simulate``."""
    kind, _, message = error.partition(": ")
    if kind == NO_EXCEPTION:
        return "failed"
    if error.startswith(tuple(HOSTILE_ERRORS.values())):
        return UnstorableValueError(error)
    exceptions = {each.__name__: each for each in (ValueError, AirflowFailException)}
    return exceptions[kind](message) if kind in exceptions else AirflowSkipException(error)


def comparable(report: Any) -> dict[str, Any]:
    """Leave out seconds, and which process recorded no exception, by which kinds of errors differ."""
    problems = [
        {**problem, "error": str(problem["error"]).removesuffix(problem["error"].partition("recorded: ")[2])}
        for problem in report["problems"]
    ]
    seconds = dict.fromkeys(("total_branch_seconds", "longest_branch", "longest_branch_seconds"))
    return {**report, **seconds, "problems": problems, "errors": None}
