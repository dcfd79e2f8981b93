"""What ``simulate`` says of a fan-in is what the fan-in does in a real run, over every kind of outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout.testing import Simulation, simulate
from tests.e2e.dags import simulated
from tests.e2e.simulated_plan import DAG_IDS, Case, Plan, plans_of
from tests.support.run import Run

if TYPE_CHECKING:
    from tests.support.airflow import ControlledAirflow

pytestmark = pytest.mark.slow

CASES = [(dag_id, plan, case) for dag_id in DAG_IDS for plan in plans_of(dag_id) for case in plan.cases]
SECONDS = {"total_branch_seconds", "longest_branch", "longest_branch_seconds"}


@pytest.fixture(scope="module")
def runs(airflow: ControlledAirflow) -> dict[str, Run]:
    """One run of each Dag."""
    runs = {dag_id: Run.start(airflow, dag_id) for dag_id in DAG_IDS}
    for run in runs.values():
        run.wait()
    return runs


def outcome(plan: Plan, name: str) -> Any:
    """What becomes of a branch, in the words of ``simulate``."""
    return {
        "raise": ValueError(f"{name} is told to"),
        "give up": AirflowFailException(f"{name} gives up"),
        "skip": AirflowSkipException(f"{name} has nothing to do"),
        "die": "failed",
        "blocked": "upstream_failed",
        "missing": "missing",
        "stopped": "stopped",
    }.get(plan.fates[name], "success")


def branch_name(plan: Plan, case: Case, index: int) -> str:
    """The name that a fan-in gives a branch."""
    name = plan.names[index]
    if not case.by_prefix or plan.shape == "foreign":
        return name
    if plan.mode == "mapped":
        return f"{plan.group_id}.each[{index}]"
    return f"{plan.group_id}.{name}" + (".same" if plan.shape == "chain" else "")


def simulation(dag_id: str, plan: Plan, case: Case) -> Simulation:
    count_or_names: dict[str, Any] = {}
    if plan.never_expands:
        outcomes, values = {f"tell_{plan.group_id}": plan.shape.removeprefix("items ")}, {}
    else:
        names = {branch_name(plan, case, index): name for index, name in enumerate(plan.names)}
        outcomes = {known: outcome(plan, name) for known, name in names.items()}
        values = {known: plan.values[name] for known, name in names.items() if plan.fates[name] == "value"}
        if plan.at_run_time:
            has_names = plan.shape == "mapping" and not (case.by_prefix and plan.mode == "mapped")
            count_or_names = {"names": plan.names} if has_names else {"count": len(plan.names)}
    if case.after_other:
        outcomes[f"other_{plan.group_id}"] = plan.other
    dag = getattr(simulated, dag_id)
    return simulate(dag.get_task(case.task_id), outcomes, values, **count_or_names, context={"dag": dag})


def test_there_are_enough_cases_of_every_mode_and_verdict() -> None:
    assert len(CASES) >= 200
    assert {(plan.mode, simulation(dag_id, plan, case).state) for dag_id, plan, case in CASES} == {
        (mode, state)
        for mode in ("static", "mapped", "batched")
        for state in ("success", "degraded", "failed", "skipped")
    }


@pytest.mark.parametrize(("dag_id", "plan", "case"), [pytest.param(*row, id=row[2].task_id) for row in CASES])
def test_it_says_what_the_fan_in_does(runs: dict[str, Run], dag_id: str, plan: Plan, case: Case) -> None:
    run, simulated = runs[dag_id], simulation(dag_id, plan, case)
    report, state = run.report(case.task_id), run.instance(case.task_id).state

    assert simulated.state == ("degraded" if state == "success" and report["degraded"] else state)
    assert simulated.return_value == (run.find_xcom(case.task_id) if state == "success" else None)
    assert simulated.error == (run.find_xcom(case.task_id, "raised") if state == "failed" else None)
    assert simulated.report is not None
    assert without_seconds(simulated.report) == without_seconds(report)


def without_seconds(report: Any) -> dict[str, Any]:
    return {name: value for name, value in report.items() if name not in SECONDS}
