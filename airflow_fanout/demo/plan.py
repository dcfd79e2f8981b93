"""The tasks of a Dag that are shown while it runs, and the names of their instances."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_fanout.reports.timing import BranchTiming
from airflow_fanout.rules.names import EACH, natural_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


WAITING = "waiting"
"""State of a task instance that Airflow has no state for yet."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    Ids of the tasks that matter.

    :param shown: Tasks that are shown while they run.
    :param fan_ins: Fan-ins.
    :param batched: Tasks that run batches of items.
    """

    shown: frozenset[str]
    fan_ins: frozenset[str] = frozenset()
    batched: frozenset[str] = frozenset()

    def timings(self, instances: Sequence[Mapping[str, Any]]) -> list[BranchTiming]:
        """Return the times of the tasks that are shown, from all instances as the REST API has them."""
        names = {_branch(instance): name for instance in instances if (name := _rendered_name(instance))}
        timings = [
            self._timing(instance, names.get(_branch(instance)))
            for instance in instances
            if instance["task_id"] in self.shown
        ]
        return sorted(timings, key=lambda timing: natural_key(timing.name))

    def _timing(self, instance: Mapping[str, Any], branch_name: str | None) -> BranchTiming:
        task_id, state = instance["task_id"], instance["state"] or WAITING
        is_nameless = branch_name is None and EACH in task_id.split(".") and instance["map_index"] >= 0
        if task_id in self.batched:
            branch_name = batch_name(instance)
        elif is_nameless and state == "running":
            state = "queued"  # it is about to render its name
        return BranchTiming(
            name=branch_name or instance_name(instance),
            state=state,
            queued=timestamp(instance["queued_when"]),
            started=timestamp(instance["start_date"]),
            ended=timestamp(instance["end_date"]),
            tries=instance["try_number"],
        )


def make_plan(tasks: Sequence[Mapping[str, Any]]) -> Plan:
    """Find the fan-ins among a Dag's tasks, as the REST API has them, and the tasks directly before them."""
    classes = {task["task_id"]: task["class_ref"]["class_name"] for task in tasks}
    fan_ins = frozenset(task_id for task_id in classes if classes[task_id] == "FanInOperator")
    before = (task["task_id"] for task in tasks if not fan_ins.isdisjoint(task["downstream_task_ids"]))
    return Plan(
        shown=frozenset(before),
        fan_ins=fan_ins,
        batched=frozenset(task_id for task_id in classes if classes[task_id] == "BatchOperator"),
    )


def instance_name(instance: Mapping[str, Any]) -> str:
    """Name a task instance: its branch's name, or its task's id, with the map index if it is mapped."""
    task_id: str = instance["task_id"]
    indexed = task_id if instance["map_index"] < 0 else f"{task_id}[{instance['map_index']}]"
    return _rendered_name(instance) or indexed


def batch_name(instance: Mapping[str, Any]) -> str:
    """Name an instance of a batched group's task."""
    group_id = str(instance["task_id"]).rpartition(".")[0]
    return group_id if instance["map_index"] < 0 else f"{group_id} batch {instance['map_index']}"


def timestamp(text: str | None) -> datetime | None:
    """Read a timestamp in ISO 8601; None stays None."""
    return None if text is None else datetime.fromisoformat(text)


def _rendered_name(instance: Mapping[str, Any]) -> str | None:
    """Return the name that a mapped instance has rendered since it started; None for a mere index."""
    name: str | None = instance.get("rendered_map_index")
    return None if name == str(instance["map_index"]) else name


def _branch(instance: Mapping[str, Any]) -> tuple[str, int]:
    """Return what the instances of one branch of a mapped group have in common."""
    group_id, is_mapped_group, _ = f"{instance['task_id']}.".partition(f".{EACH}.")
    return group_id if is_mapped_group else instance["task_id"], instance["map_index"]
