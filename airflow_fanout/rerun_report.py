"""A plan of what runs again -> plain values that JSON can hold; for CLI and UI."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_fanout.clearing import Clearing
    from airflow_fanout.rerun import RerunPlan
    from airflow_fanout.run_facts import TaskRun

__all__ = ["fingerprint", "plan_as_json"]


def fingerprint(plan: RerunPlan) -> str:
    """
    Tell plans apart: the same for two that clear the same task instances in the same states.

    :param plan: The plan.
    """
    cleared = sorted((each.task_id, each.map_index, each.state or "") for each in plan.with_causes)
    return hashlib.sha256(json.dumps(cleared).encode()).hexdigest()


def plan_as_json(plan: RerunPlan, done: Clearing | None) -> dict[str, Any]:
    """
    Say what a plan clears, for programs.

    :param plan: The plan.
    :param done: What came of it; None if nothing was cleared.
    """
    return {
        "dag_id": plan.dag_id,
        "run_id": plan.run_id,
        "run_state": plan.run_state,
        "groups": [
            {
                "group": group.title,
                "branches": [
                    {
                        "name": again.branch.name,
                        "state": again.branch.state,
                        "stopped": again.branch.is_stopped,
                        "error": again.branch.error,
                        "task_instances": _instances(again.task_runs),
                    }
                    for again in group.branches
                ],
                "unexpanded": _instances(group.unexpanded),
                "fan_ins": _instances(group.fan_ins),
            }
            for group in plan.groups
        ],
        "downstream": _instances(plan.downstream),
        "setups_and_teardowns": _instances(plan.scaffolding),
        "causes": _instances(plan.causes),
        "between": _instances(plan.between),
        "notes": list(plan.notes),
        "cleared": _instances(() if done is None else done.cleared),
        "changed_meanwhile": _instances(() if done is None else done.changed),
    }


def _instances(task_runs: Sequence[TaskRun]) -> list[dict[str, Any]]:
    return [{"task_id": each.task_id, "map_index": each.map_index, "state": each.state} for each in task_runs]
