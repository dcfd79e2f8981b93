"""``stop_after_failures``: whether a branch may still start; asked in its own process, or in its batch's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.execution_time.recording import push_record
from airflow_fanout.rules.instances import InstanceState, States, instances_at, instances_of
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.outcomes import BranchTasks, judge_branch
from airflow_fanout.rules.policy import known
from airflow_fanout.rules.wording import counted, listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from airflow_fanout.rules.outcomes import ValueState
    from airflow_fanout.serialization.declaration import DeclaredGroup


class _States:
    """A run of which only the states are known."""

    def __init__(self, states: States) -> None:
        self._states = states

    def instances(self, task_id: str, map_index: int) -> Mapping[int, InstanceState]:
        return instances_at(self._states, task_id, map_index)

    def record(self, task_id: str, map_index: int) -> None:
        return None

    def value_state(self, task_id: str, map_index: int, key: str) -> ValueState:
        return "present"


def failed_names(states: States, group: DeclaredGroup, map_index: int) -> list[str]:
    """
    Names of a group's branches that have failed.

    Where only the items' task knows the names, they are Airflow's own, ``id[map_index]``.

    :param states: States of the run's finished instances.
    :param map_index: Index of the mapped task group that it stands in; -1 outside of one.
    """
    reader = _States(states)

    def has_failed(task_ids: tuple[str, ...], index: int) -> bool:
        return judge_branch(reader, BranchTasks(task_ids=task_ids, map_index=index)).state == "failed"

    if group.mode == "static":
        return [branch.name for branch in group.branches if has_failed(branch.task_ids, map_index)]
    last, known = group.each[-1], group.known_names
    return [
        known[index] if index < len(known) else instance_name(last, index)
        for index in instances_of(states, last)
        if has_failed(group.each, index)
    ]


def stop(context: Context, group: DeclaredGroup) -> None:
    """
    Skip the branch, with the reason in its record, if as many others have failed as its group allows.

    One request; one more to record the reason. What is retried or cleared, or goes on after a deferral or a
    reschedule, is not asked.

    :param context: Context of the branch's first task.
    :raises AirflowSkipException: If enough have failed.
    """
    from airflow_fanout.execution_time.xcom import RunReader, resumes

    ti: Any = context["ti"]
    if ti.try_number > 1 or resumes(ti):
        return
    failed = failed_names(RunReader(ti).states(), group, -1 if ti.map_index is None else ti.map_index)
    limit = known(group.stop_after_failures)
    if limit is None or len(failed) < limit:
        return
    reason = stop_reason(group, failed)
    push_record(context, state="stopped", error=reason)
    raise AirflowSkipException(reason)


def stop_reason(group: DeclaredGroup, failed: Sequence[str]) -> str:
    """
    Say why a branch was not started.

    :param failed: Names of the group's branches that have failed.
    """
    count = group.known_count
    branches = counted(len(failed), "branch", "branches")
    if count is not None:
        branches = f"{len(failed)} of {counted(count, 'branch', 'branches')}"
    has = "has" if (count or len(failed)) == 1 else "have"
    return (
        f"not started: {branches} of {group.group_id!r} {has} failed "
        f"(stop_after_failures={group.stop_after_failures}): {listing(failed, limit=5)}"
    )


def item_stop_reason(group_id: str, limit: int | None) -> str:
    """Say why an item was not started; its batch knows how many have failed, and not all their names."""
    return f"not started: {limit} or more items of {group_id!r} have failed (stop_after_failures={limit})"
