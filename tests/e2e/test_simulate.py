"""What ``simulate`` says of a fan-in is what the fan-in does in a real run, over every kind of outcome."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout.testing import Simulation, simulate
from tests.e2e.simulated_plan import DAG_IDS, PLANS, Case, Plan, plans_of
from tests.support.run import Run

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from tests.support.airflow import ControlledAirflow

pytestmark = [pytest.mark.e2e, pytest.mark.truth]

CASES = [(plan, case) for plan in PLANS for case in plan.cases]
SECONDS = {"total_branch_seconds", "longest_branch", "longest_branch_seconds"}


@pytest.fixture(scope="module")
def runs(airflow: ControlledAirflow) -> dict[str, Run]:
    """One run of each Dag."""
    for dag_id in DAG_IDS:
        airflow.wait_for_dag(dag_id)
    started = {dag_id: Run(airflow, dag_id, airflow.trigger(dag_id)) for dag_id in DAG_IDS}
    for run in started.values():
        run.wait()
    return started


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    """The same Dags as the test knows them."""
    from tests.e2e.dags import simulated

    return {dag_id: getattr(simulated, dag_id) for dag_id in DAG_IDS}


def dag_id_of(plan: Plan) -> str:
    return next(dag_id for dag_id in DAG_IDS if plan in plans_of(dag_id))


def told(plan: Plan, name: str) -> Any:
    """What became of a branch, in the words of ``simulate``."""
    return {
        "raise": ValueError(f"{name} is told to"),
        "give up": AirflowFailException(f"{name} gives up"),
        "skip": AirflowSkipException(f"{name} has nothing to do"),
        "die": "failed",
        "blocked": "upstream_failed",
        "missing": "missing",
        "stopped": "stopped",
    }.get(plan.fates[name], "success")


def known_as(plan: Plan, case: Case, place: int) -> str:
    """What a fan-in calls a branch."""
    name = plan.names[place]
    if not case.by_prefix or plan.shape == "foreign":
        return name
    if plan.mode == "mapped":
        return f"{plan.group_id}.each[{place}]"
    return f"{plan.group_id}.{name}" + (".same" if plan.shape == "chain" else "")


def simulated(plan: Plan, case: Case, dag: DAG) -> Simulation:
    never = plan.shape.startswith("items ")
    names = {} if never else {known_as(plan, case, place): name for place, name in enumerate(plan.names)}
    outcomes = {known: told(plan, name) for known, name in names.items()}
    values = {known: plan.values[name] for known, name in names.items() if plan.fates[name] == "value"}
    if never:
        outcomes[f"tell_{plan.group_id}"] = plan.shape.removeprefix("items ")
    if case.after_other:
        outcomes[f"other_{plan.group_id}"] = plan.other
    how_many: dict[str, Any] = {}
    if plan.at_run_time and not never:
        by_name = plan.named and not (case.by_prefix and plan.mode == "mapped")
        how_many = {"names": plan.names} if by_name else {"count": len(plan.names)}
    fan_in: Any = dag.get_task(case.task_id)
    return simulate(fan_in, outcomes, values, **how_many, context={"dag": dag})


def test_there_are_enough_cases_of_every_mode_and_verdict(dags: dict[str, DAG]) -> None:
    found = {(plan.mode, simulated(plan, case, dags[dag_id_of(plan)]).state) for plan, case in CASES}

    assert len(CASES) >= 200
    assert found == {
        (mode, state)
        for mode in ("static", "mapped", "batched")
        for state in ("success", "degraded", "failed", "skipped")
    }


def test_all_of_them_take_no_time(dags: dict[str, DAG]) -> None:
    begin = time.process_time()
    for plan, case in CASES:
        simulated(plan, case, dags[dag_id_of(plan)])

    assert (time.process_time() - begin) / len(CASES) < 0.05


@pytest.mark.parametrize(("plan", "case"), [pytest.param(p, c, id=c.task_id) for p, c in CASES])
def test_it_says_what_the_fan_in_does(
    runs: dict[str, Run], dags: dict[str, DAG], plan: Plan, case: Case
) -> None:
    dag_id = dag_id_of(plan)
    run, said = runs[dag_id], simulated(plan, case, dags[dag_id])
    report = run.report(case.task_id)
    state = run.instance(case.task_id).state

    assert said.state == ("degraded" if state == "success" and report["degraded"] else state)
    assert said.return_value == (xcom(run, case, "return_value") if state == "success" else None)
    assert said.error == (xcom(run, case, "raised") if state == "failed" else None)
    assert said.report is not None
    assert without_seconds(said.report) == without_seconds(report)


def xcom(run: Run, case: Case, key: str) -> Any:
    try:
        return run.xcom(case.task_id, key)
    except KeyError:
        return None


def without_seconds(report: Any) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in SECONDS}
