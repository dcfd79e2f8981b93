"""Many fan-ins over few groups, for ``simulate`` to be compared with; a task parses its own Dag alone."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from typing import Any

from airflow.sdk import DAG, get_current_context, get_parsing_context, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from tests.e2e.simulated_plan import DAG_IDS, KEY, Case, Plan, plans_of


class Witness(FanInOperator):
    """A fan-in that also pushes what it raises."""

    def execute(self, context: Any) -> Any:
        """Tell what it raised."""
        try:
            return super().execute(context)
        except Exception as raised:
            context["ti"].xcom_push("raised", f"{type(raised).__name__}: {raised}")
            raise


def say_all(results: FanInResults, factor: int) -> dict[str, Any]:
    outcomes = {name: [each.state, each.error] for name, each in results.outcomes.items()}
    return {"outcomes": outcomes, "values": dict(results), "many": len(results) * factor}


def say_ds(results: FanInResults, *, day: str) -> list[Any]:
    return [day, *results.failed, *results.skipped, *results.missing]


def refuse(results: FanInResults) -> None:
    message = f"{len(results)} of {len(results.outcomes)} won't do"
    raise ValueError(message)


def give_way(results: FanInResults) -> None:
    raise AirflowSkipException


FUNCTIONS = {
    None: {},
    "say_all": {"python_callable": say_all, "op_kwargs": {"factor": 3}},
    "say_ds": {"python_callable": say_ds, "op_kwargs": {"day": "{{ dag.dag_id }}"}},
    "refuse": {"python_callable": refuse},
    "give_way": {"python_callable": give_way},
}


def act(plan: Plan, name: str) -> Any:
    """Do what the plan says."""
    match plan.fates[name]:
        case "raise":
            message = f"{name} is told to"
            raise ValueError(message)
        case "give up":
            message = f"{name} gives up"
            raise AirflowFailException(message)
        case "skip":
            message = f"{name} has nothing to do"
            raise AirflowSkipException(message)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "value" if plan.shape == "keyed":
            ti: Any = get_current_context()["ti"]
            ti.xcom_push(KEY, plan.values[name])
        case "value":
            return plan.values[name]
        case "stopped":
            message = f"{name} should have been stopped"
            raise AssertionError(message)
    return None


def fail() -> None:
    message = "no branch"
    raise ValueError(message)


def skip() -> None:
    raise AirflowSkipException


def group_of(plan: Plan) -> FanOutGroup:
    def by_item(branch: str) -> Any:
        return act(plan, branch)

    def by_index(index: int) -> Any:
        return act(plan, f"{plan.group_id}_{index}")

    @task(task_id=f"tell_{plan.group_id}", multiple_outputs=False)
    def tell() -> Any:
        if plan.shape == "items failed":
            fail()
        if plan.shape == "items skipped":
            skip()
        return (
            len(plan.names)
            if counted
            else {name: name for name in plan.names}
            if plan.shape == "mapping"
            else plan.names
        )

    @task_group
    def chain(branch: str) -> Any:
        return task(same)(task(by_item)(branch))

    counted = plan.shape in {"count", "stop", "items skipped"}
    literal: Any = len(plan.names) if counted else plan.names
    how_many: Any = {"count" if counted else "items": tell() if plan.at_run_time else literal}
    branch: Any = chain if plan.shape == "chain" else by_index if counted else by_item
    settings: dict[str, Any] = {}
    if plan.mode == "batched":
        settings = {"items_per_task": plan.items_per_task}
    elif plan.mode == "mapped" and not plan.at_run_time:
        settings = {"mapped": True}
    if plan.shape == "stop":
        settings["stop_after_failures"] = 1
        if plan.mode == "mapped":
            settings["max_concurrency"] = 1
        elif plan.mode == "static":
            settings["default_args"] = {"trigger_rule": "all_done"}
    return FanOutGroup(plan.group_id, branch=branch, **how_many, **settings)


def same(value: Any) -> Any:
    return value


def foreign(plan: Plan) -> list[Any]:
    return [task(task_id=name)(act)(plan, name) for name in plan.names]


def add(plan: Plan) -> None:
    """Add a plan's group and its fan-ins."""
    is_foreign = plan.shape == "foreign"
    group: Any = foreign(plan) if is_foreign else group_of(plan)
    other: Any = task(task_id=f"other_{plan.group_id}")(fail if plan.other == "failed" else skip)()
    for case in plan.cases:
        fan_in = fan_in_of(plan, case, group)
        if case.by_prefix:
            group >> fan_in
        if case.after_other:
            other >> fan_in
    tasks = [] if is_foreign else [branch.task_ids[0] for branch in group.declared.branches]
    if plan.shape == "blocked" and "blocked" in plan.fates.values():
        blocker: Any = task(task_id=f"block_{plan.group_id}")(fail)()
        for name, fate in plan.fates.items():
            if fate == "blocked":
                blocker >> group.children[f"{plan.group_id}.{name}"]
    if plan.shape == "stop":  # one after another, so that everybody knows which are stopped
        for before, after in pairwise(tasks):
            group.children[before] >> group.children[after]


def fan_in_of(plan: Plan, case: Case, group: Any) -> Witness:
    prefix = f"{plan.group_id}_" if plan.shape == "foreign" else f"{plan.group_id}."
    source: dict[str, Any] = {"task_id_prefix": prefix} if case.by_prefix else {"fan_out": group}
    if plan.shape == "keyed":
        source["key"] = KEY
    function: Any = FUNCTIONS[case.function]
    return Witness(task_id=case.task_id, **source, **case.policy, **function)


for dag_id in DAG_IDS:
    if get_parsing_context().dag_id in {None, dag_id}:
        with DAG(dag_id, schedule=None, max_active_tasks=32) as dag:
            for each in plans_of(dag_id):
                add(each)
        globals()[dag_id] = dag
