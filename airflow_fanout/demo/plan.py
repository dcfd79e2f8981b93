"""What of a Dag is shown while it runs, and how each task instance is called meanwhile; used by the demo."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_fanout.demo import view as demo_view
from airflow_fanout.rules.names import EACH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow_fanout.reports.timing import BranchTiming


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    What of a Dag is shown.

    :param shown: Ids of the tasks that are shown while they run.
    :param fan_ins: Ids of the tasks directly before each fan-in, by its id.
    :param batched: Ids of the tasks that run batches of items.
    """

    shown: frozenset[str]
    fan_ins: Mapping[str, frozenset[str]] = field(default_factory=dict)
    batched: frozenset[str] = frozenset()


def make_plan(tasks: Sequence[Mapping[str, Any]]) -> Plan:
    """
    Find the fan-ins of a Dag, and what they wait for.

    :param tasks: Its tasks as the REST API has them.
    """
    classes = {str(task["task_id"]): task["class_ref"]["class_name"] for task in tasks}
    fan_ins = {
        fan_in_id: frozenset(task["task_id"] for task in tasks if fan_in_id in task["downstream_task_ids"])
        for fan_in_id in sorted(classes)
        if classes[fan_in_id] == "FanInOperator"
    }
    return Plan(
        shown=frozenset().union(*fan_ins.values()),
        fan_ins=fan_ins,
        batched=frozenset(task_id for task_id in classes if classes[task_id] == "BatchOperator"),
    )


def shown(instances: Sequence[Mapping[str, Any]], plan: Plan) -> list[BranchTiming]:
    """
    Return the times of the tasks that are shown.

    :param instances: All task instances of the run as the REST API has them.
    :param plan: What is shown of them.
    """
    names = {_branch(each): name for each in instances if (name := demo_view.rendered_name(each)) is not None}
    found = [
        _timing(each, plan, names.get(_branch(each))) for each in instances if each["task_id"] in plan.shown
    ]
    return sorted(found, key=demo_view.in_order)


def _branch(instance: Mapping[str, Any]) -> tuple[str, int]:
    """Tell which instances are tasks of one branch of a mapped group."""
    steps = str(instance["task_id"]).split(".")
    of = ".".join(steps[: steps.index(EACH)]) if EACH in steps else str(instance["task_id"])
    return of, instance["map_index"]


def _timing(instance: Mapping[str, Any], plan: Plan, name: str | None) -> BranchTiming:
    timing = demo_view.timing_of(instance)
    if instance["task_id"] in plan.batched:
        return replace(timing, name=demo_view.batch_name(instance))
    if name is not None:
        return replace(timing, name=name)
    is_ours = EACH in instance["task_id"].split(".") and instance["map_index"] >= 0
    if is_ours and timing.state == "running":
        return replace(timing, state="queued")  # it is about to say what it is called
    return timing
