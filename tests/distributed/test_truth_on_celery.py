"""
Random groups on Celery workers that are killed at random: the fan-in says what the database says.

What a branch is told to do is known from its plan, so a value can only be its own. Whether it could do so, or
was killed at each of its tries, is read from the database: the instances, and what a batch has pushed.
"""

from __future__ import annotations

import random
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.rules.records import part_key
from tests.e2e.test_truth import Answer, ask, verdict_of
from tests.e2e.truth_plan import Plan, plan_of, seeds
from tests.support.celery_airflow import CeleryAirflow
from tests.support.run import Run
from tests.support.servers import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

pytestmark = pytest.mark.celery

REPOSITORY = Path(__file__).parents[2]
DAG_FILE = REPOSITORY / "tests" / "e2e" / "dags" / "truth.py"
SEEDS = seeds(default="0:10")
PATIENCE = 600
SECONDS_BETWEEN_KILLS = (10, 20)
SECONDS_FOR_ALL = 120 + 120 * len(SEEDS)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryAirflow]:
    """Two workers, and a Redis and a PostgreSQL that are nobody else's."""
    with (
        RedisServer(tmp_path_factory.mktemp("redis")) as broker,
        PostgresServer() as database,
        CeleryAirflow(
            broker_url=broker.url,
            database_url=database.database_url,
            dag_files=[DAG_FILE],
            home=tmp_path_factory.mktemp("airflow"),
            env={
                "FANOUT_E2E_SCRATCH": str(tmp_path_factory.mktemp("scratch")),
                "FANOUT_TRUTH_SEEDS": f"{SEEDS.start}:{len(SEEDS)}",
                "FANOUT_TRUTH_RETRIES": "4",
                "FANOUT_TRUTH_SECONDS": "2",
                "AIRFLOW__CORE__PARALLELISM": "10",
                # What a killed worker ran is given up after so many seconds without a sign of life.
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "25",
                "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
                # A worker takes a task from Redis, then notes there that it has it. What one that was killed
                # in between had taken, nobody knows of; after so many seconds it is queued again.
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "120",
                "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "5",
            },
        ) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def kills() -> list[str]:
    """Workers in the order in which they were killed."""
    return []


@pytest.fixture(scope="module")
def run(airflow: CeleryAirflow, kills: list[str]) -> Run:
    """The run of all groups, during which workers were killed; it has ended."""
    airflow.wait_for_dag("truth", timeout=PATIENCE)
    for worker in airflow.workers:
        airflow.wait_for_worker(worker, timeout=PATIENCE)
    run = Run(airflow, "truth", airflow.trigger("truth"))
    dice = random.Random(f"kills from {SEEDS.start}")
    starts = dict.fromkeys(airflow.workers, 1)
    deadline = time.monotonic() + SECONDS_FOR_ALL
    while not ends_within(run, dice.uniform(*SECONDS_BETWEEN_KILLS)):
        if time.monotonic() > deadline:
            break  # without further kills it must come to an end
        worker = dice.choice(airflow.workers)
        airflow.stop_process(worker, signal.SIGKILL)
        kills.append(worker)
        airflow.start_process(worker)
        starts[worker] += 1
        airflow.wait_for_worker(worker, starts=starts[worker], timeout=PATIENCE)
    run.wait()
    return run


def ends_within(run: Run, seconds: float) -> bool:
    try:
        run.airflow.wait_for_run(run.dag_id, run.run_id, timeout=seconds)
    except TimeoutError:
        return False
    return True


@pytest.fixture(scope="module")
def answers(run: Run) -> dict[int, Answer]:
    """The answer of each fan-in, by seed."""
    return {seed: ask(run, plan_of(seed)) for seed in SEEDS}


def states_in_the_database(run: Run, plan: Plan) -> dict[str, str]:
    """State of every branch by name, in declared order."""
    names = plan.names[1]
    if plan.mode == "batched":
        found: dict[str, str] = {}
        for number, start in enumerate(range(0, len(names), plan.items_per_task)):
            found |= states_of_batch(run, plan, number, names[start : start + plan.items_per_task])
        return found
    return {name: state_of_branch(run, plan, place) for place, name in enumerate(names)}


def state_of_branch(run: Run, plan: Plan, place: int) -> str:
    prefix = f"{plan.group_id}.{plan.names[1][place] if plan.mode == 'static' else 'each'}"
    at = -1 if plan.mode == "static" else place
    if plan.kind != "task_group":
        return run.instance(prefix, at).state
    first = run.instance(f"{prefix}.{'by_index' if plan.origin == 'count' else 'by_item'}", at).state
    last = run.instance(f"{prefix}.same", at).state
    return "failed" if (first, last) == ("failed", "upstream_failed") else last


def states_of_batch(run: Run, plan: Plan, number: int, names: list[str]) -> Mapping[str, str]:
    task_id = f"{plan.group_id}.each"
    state = run.instance(task_id, number).state
    try:
        record = run.xcom(task_id, "fan_out_branch", number)
    except KeyError:
        record = {}
    if state not in {"success", "failed"} or record.get("state") != "batch":
        return dict.fromkeys(names, state)
    keys = ["return_value"] if record.get("parts") is None else map(part_key, range(record["parts"]))
    pushed = [run.xcom(task_id, key, number) for key in keys]
    values = {name for values in pushed for name in names_in(plan, values)}
    other = {"F": "failed", "K": "skipped"}
    found = {}
    for name, letter in zip(names, record["statuses"], strict=True):
        found[name] = "success" if name in values else other[letter]
    return found


def names_in(plan: Plan, values: Any) -> Iterable[str]:
    """Names of the items whose values, or what was made of them, a batch has pushed."""
    if plan.is_combined and isinstance(values, list):
        return [name for _, joined in values for name, _ in joined]
    return list(values)


def test_workers_were_killed(
    airflow: CeleryAirflow, run: Run, kills: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert kills
    found = airflow.run(run.dag_id, run.run_id)
    began, ended = (datetime.fromisoformat(found[moment]) for moment in ("start_date", "end_date"))
    with capsys.disabled():
        seconds = (ended - began).total_seconds()
        print(f"\n{len(SEEDS)} groups in {seconds:.0f} s, in which {len(kills)} workers were killed")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_fan_in_says_what_the_database_says(run: Run, answers: dict[int, Answer], seed: int) -> None:
    plan, answer = plan_of(seed), answers[seed]
    before = [f"tell_g{seed}"] if plan.at_run_time else []
    before += [f"g{seed}.split"] if plan.mode == "batched" and (f"g{seed}.split", -1) in run.instances else []
    if any(run.instance(task_id).state != "success" for task_id in before):
        assert answer.state == "failed"
        return
    if answer.given is None:
        # Killed at its last try: it has said nothing, and nothing wrong.
        assert (answer.state, answer.value) == ("failed", None)
        assert run.instance(f"collect_g{seed}").try_number == 5
        return
    states = states_in_the_database(run, plan)
    outcomes = {each["name"]: each for each in answer.given["outcomes"]}
    assert {name: each["state"] for name, each in outcomes.items()} == states
    assert list(outcomes) == list(states)
    good = [[name, plan.fates[1][name]["value"]] for name, state in states.items() if state == "success"]
    assert (answer.given["items"] or []) == good
    assert all((outcomes[name]["error"] is None) == (states[name] == "success") for name in states)
    assert answer.report is not None
    assert (answer.report["expected"], answer.report["succeeded"]) == (len(states), len(good))
    assert answer.state == verdict_of(plan, list(states.values()))
    if answer.state == "success":
        assert (answer.value or []) == good if plan.is_combined else answer.value == dict(good)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_branch_ends_as_it_was_told_to_unless_it_was_killed(
    run: Run, answers: dict[int, Answer], seed: int
) -> None:
    plan, answer = plan_of(seed), answers[seed]
    as_told = {**dict.fromkeys(("value", "share", "recover"), "success"), "skip": "skipped"}
    for each in (answer.given or {"outcomes": []})["outcomes"]:
        expected = as_told.get(plan.fates[1][each["name"]]["does"], "failed")
        killed = each["state"] == "failed" and "no exception was recorded" in each["error"]
        assert killed or each["state"] == expected, each["name"]
