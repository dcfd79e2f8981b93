"""Random groups, every branch of which writes down what it did."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout import FanOutGroup
from tests.e2e.telling import TellingFanIn
from tests.e2e.truth_plan import Plan, plan_of, seeds

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
RETRIES = int(os.environ.get("FANOUT_TRUTH_RETRIES", "1"))
SECONDS = float(os.environ.get("FANOUT_TRUTH_SECONDS", "0"))
"""How long each branch works, so that whoever kills workers finds them at work."""
PLANS = [plan_of(seed) for seed in seeds()]


def side_file(plan: Plan) -> Path:
    return SCRATCH / f"truth-{plan.group_id}.jsonl"


def phase() -> int:
    return 2 if (SCRATCH / "truth-phase-2").exists() else 1


def write(plan: Plan, **event: Any) -> None:
    line = json.dumps({"phase": phase(), "pid": os.getpid(), **event}) + "\n"
    with side_file(plan).open("a") as file:
        file.write(line)


def has_tried(plan: Plan, name: str) -> bool:
    """Whether a branch has been tried in this phase."""
    lines = side_file(plan).read_text().splitlines() if side_file(plan).exists() else []
    return any(event.get("name") == name and event["phase"] == phase() for event in map(json.loads, lines))


def act(plan: Plan, name: str) -> Any:
    """Do what the plan says, having written it down."""
    fate = plan.fates[phase()].get(name, {"does": "value", "value": "not planned"})
    does, value = fate["does"], fate["value"]
    if does == "recover":
        does = "value" if has_tried(plan, name) else "raise"
    ti: Any = get_current_context()["ti"]
    write(plan, name=name, does=does, value=value, map_index=ti.map_index)
    time.sleep(SECONDS)
    if does == "raise":
        message = f"{name} is told to"
        raise ValueError(message)
    if does == "give up":
        message = f"{name} gives up"
        raise AirflowFailException(message)
    if does == "skip":
        message = f"{name} has nothing to do"
        raise AirflowSkipException(message)
    if does == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return value


class Acting(BaseOperator):
    """An operator that acts."""

    template_fields = ("branch",)

    def __init__(self, *, seed: int, branch: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed, self.branch = seed, branch

    def execute(self, context: Any) -> Any:
        """Act."""
        return act(plan_of(self.seed), self.branch)


def branch_of(plan: Plan) -> Any:
    import functools

    def name_of(branch: str | None, index: int | None) -> str:
        return f"{plan.group_id}_{index}" if branch is None else branch

    if plan.origin == "count":

        def by_index(index: int) -> Any:
            return act(plan, name_of(None, index))

        function: Any = by_index
    else:

        def by_item(branch: str) -> Any:
            return act(plan, name_of(branch, None))

        function = by_item
    match plan.kind:
        case "task":
            return task(multiple_outputs=False)(function)
        case "pipe":
            return [function, same]
        case "operator":
            return functools.partial(Acting, seed=plan.seed)
        case "task_group":
            acting: Any = task(multiple_outputs=False)(function)
            passing: Any = task(multiple_outputs=False)(same)
            if plan.origin == "count":

                @task_group
                def steps_by_index(index: int) -> Any:
                    return passing(acting(index))

                return steps_by_index

            @task_group
            def steps(branch: str) -> Any:
                return passing(acting(branch))

            return steps
    return function


def same(value: Any) -> Any:
    return value


def add(plan: Plan) -> None:
    """Add a plan's group and its fan-in."""

    @task(task_id=f"tell_{plan.group_id}")
    def tell() -> Any:
        names = plan.names[phase()]
        write(plan, told=names)
        if plan.origin == "count":
            return len(names)
        items: list[Any] = [{"branch": name} for name in names] if plan.kind == "operator" else list(names)
        return items if plan.origin == "list" else dict(zip(names, items, strict=True))

    names = plan.names[1]
    items: list[Any] = [{"branch": name} for name in names] if plan.kind == "operator" else list(names)
    literal: Any = {
        "count": len(names),
        "list": items,
        "mapping": dict(zip(names, items, strict=True)),
    }[plan.origin]
    how_many: Any = tell() if plan.at_run_time else literal
    declared: dict[str, Any] = {"count" if plan.origin == "count" else "items": how_many}
    if plan.mode == "batched":
        declared |= {"items_per_task": plan.items_per_task, "item_concurrency": plan.item_concurrency}
    elif plan.mode == "mapped" and not plan.at_run_time:
        declared |= {"mapped": True}
    group = FanOutGroup(plan.group_id, branch=branch_of(plan), **declared)
    TellingFanIn(task_id=f"collect_{plan.group_id}", fan_out=group, **plan.policy)


retries: Any = {"retries": RETRIES, "retry_delay": timedelta(milliseconds=100)}
with DAG("truth", schedule=None, max_active_tasks=32, default_args=retries) as dag:
    for each in PLANS:
        add(each)
