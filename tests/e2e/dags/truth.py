"""Random groups, every branch of which writes down what it did."""

from __future__ import annotations

import functools
import json
import math
import operator
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, get_current_context, task, task_group
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from airflow_fanout import FanOutGroup
from tests.e2e.telling import TellingFanIn
from tests.e2e.truth_plan import Plan, plan_of, seeds

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
RETRIES = int(os.environ.get("FANOUT_TRUTH_RETRIES", "1"))
SECONDS = float(os.environ.get("FANOUT_TRUTH_SECONDS", "0"))
"""How long each branch works, so that whoever kills workers finds them at work."""
PLANS = [plan_of(seed) for seed in seeds()]


class Odd:
    """What no XCom takes."""


HOSTILE: dict[str, tuple[Any, str]] = {
    "nan": ({"loss": math.nan}, "NaN at ['loss'] can't be stored in an XCom"),
    "infinity": ([1, math.inf], "infinity at [1] can't be stored in an XCom"),
    "minus infinity": (-math.inf, "-infinity can't be stored in an XCom"),
    "large": ({"of": [2**64]}, "an int beyond 64 bits at ['of'][0] can't be stored in an XCom"),
    "surrogate": ("\ud800", "a lone surrogate can't be stored in an XCom"),
    "object": ({"it": Odd()}, "a value of type Odd at ['it'] can't be stored in an XCom"),
    "key": ({1: "one"}, "the key 1"),
}
"""Values that a plan names, and how the error of one begins."""
RETURNED: list[list[str]] = []
"""Values that branches have returned in this process, and that the next ones change."""


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
    if does == "hostile":
        return HOSTILE[value][0]
    for returned in RETURNED:
        returned.append(f"changed by {name}")
    if does == "share":
        RETURNED.append([name])
        return RETURNED[-1]
    return value


def returned_by(plan: Plan, name: str) -> Any:
    """What a function returns that acts."""
    value = act(plan, name)
    return [[name, value]] if plan.is_combined else value


class Acting(BaseOperator):
    """An operator that acts."""

    template_fields = ("branch",)

    def __init__(self, *, seed: int, branch: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed, self.branch = seed, branch

    def execute(self, context: Any) -> Any:
        """Act."""
        return act(plan_of(self.seed), self.branch)


class Ending(Acting):
    """An operator that acts, and succeeds without ``post_execute``."""

    def execute(self, context: Any) -> Any:
        """Act, and skip no task."""
        super().execute(context)
        raise DownstreamTasksSkipped(tasks=[])  # type: ignore[no-untyped-call]


def branch_of(plan: Plan) -> Any:
    def name_of(branch: str | None, index: int | None) -> str:
        return f"{plan.group_id}_{index}" if branch is None else branch

    if plan.origin == "count":

        def by_index(index: int) -> Any:
            return returned_by(plan, name_of(None, index))

        function: Any = by_index
    else:

        def by_item(branch: str) -> Any:
            return returned_by(plan, name_of(branch, None))

        function = by_item
    operators: dict[str, Any] = {"operator": Acting, "ending": Ending}
    if plan.kind in operators:
        return functools.partial(operators[plan.kind], seed=plan.seed)
    match plan.kind:
        case "task":
            return task(multiple_outputs=False)(function)
        case "pipe":
            return [function, same]
        case "task_group":
            return steps_of(plan, function)
    return function


def steps_of(plan: Plan, function: Any) -> Any:
    """A branch of two tasks."""
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


def same(value: Any) -> Any:
    return value


def items_of(plan: Plan, names: list[str]) -> list[Any]:
    is_operator = plan.kind in {"operator", "ending"}
    return [{"branch": name} for name in names] if is_operator else list(names)


def add(plan: Plan, declared_in: int) -> None:
    """Add a plan's group, as it is declared in a phase, and its fan-in."""

    @task(task_id=f"tell_{plan.group_id}")
    def tell() -> Any:
        names = plan.names[phase()]
        write(plan, told=names)
        if plan.origin == "count":
            return len(names)
        items = items_of(plan, names)
        return items if plan.origin == "list" else dict(zip(names, items, strict=True))

    names = plan.names[declared_in]
    items = items_of(plan, names)
    literal: Any = {
        "count": len(names),
        "list": items,
        "mapping": dict(zip(names, items, strict=True)),
    }[plan.origin]
    how_many: Any = tell() if plan.at_run_time else literal
    declared: dict[str, Any] = {"count" if plan.origin == "count" else "items": how_many}
    if plan.mode == "batched":
        declared |= {"items_per_task": plan.items_per_task, "item_concurrency": plan.item_concurrency}
        declared |= {"item_retries": plan.item_retries, "item_retry_delay": 0.05} if plan.item_retries else {}
        declared |= {"combine": operator.add} if plan.is_combined else {}
    elif plan.mode == "mapped" and not plan.at_run_time:
        declared |= {"mapped": True}
    group = FanOutGroup(plan.group_id, branch=branch_of(plan), **declared)
    TellingFanIn(task_id=f"collect_{plan.group_id}", fan_out=group, **plan.policy)


def dag_of(declared_in: int) -> DAG:
    """Make the Dag as its file declares it in a phase."""
    retries: Any = {"retries": RETRIES, "retry_delay": timedelta(milliseconds=100)}
    with DAG("truth", schedule=None, max_active_tasks=32, default_args=retries) as made:
        for plan in PLANS:
            add(plan, declared_in)
    return made


dag = dag_of(phase())
