"""The finished task instances of a run -> which of them make a branch, and how it ended; on the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.execution_time.recording import identity
from airflow_fanout.rules.instances import (
    States,
    failed_before_last,
    instances_of,
)
from airflow_fanout.rules.names import instance_name
from airflow_fanout.rules.records import RECORD_KEY, STOPPED
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.serialization.declaration import DeclaredGroup

    AnyOperator = BaseOperator | MappedOperator

__all__ = ["failed_names", "stop", "why_item_stopped", "why_stopped"]


def failed_names(states: States, group: DeclaredGroup, map_index: int) -> list[str]:
    """
    Names of a group's branches that have failed: in their last task, or in one that kept it from running.

    Where only the items' task knows the names, they are Airflow's own, ``id[map_index]``.

    :param states: States of the run's finished instances.
    :param group: The group.
    :param map_index: Index of the mapped task group that it stands in; -1 outside of one.
    """
    if group.mode == "static":
        return [branch.name for branch in group.branches if _has_failed(states, branch.task_ids, map_index)]
    last, known = group.each[-1], group.known_names
    return [
        known[index] if index < len(known) else instance_name(last, index)
        for index in instances_of(states, last)
        if _has_failed(states, group.each, index)
    ]


def _has_failed(states: States, task_ids: Sequence[str], map_index: int) -> bool:
    last = states.get((task_ids[-1], map_index))
    if last is None:
        return False
    return last.state == "failed" or (
        last.state == "upstream_failed" and failed_before_last(states, task_ids, map_index) is not None
    )


def stop(context: Context, group: DeclaredGroup) -> None:
    """
    Skip the branch, with the reason in its record, if as many others have failed as its group allows.

    One request; one more to record the reason. What is retried or cleared, or goes on after a deferral or a
    reschedule, is not asked.

    :param context: Context of the branch's first task.
    :param group: The group.
    :raises AirflowSkipException: If enough have failed.
    """
    from airflow_fanout.execution_time.stopping import failed_names
    from airflow_fanout.execution_time.xcom import RunReader, resumes

    ti: Any = context["ti"]
    if ti.try_number > 1 or resumes(ti):
        return
    failed = failed_names(RunReader(ti).states(), group, -1 if ti.map_index is None else ti.map_index)
    if group.stop_after_failures is None or len(failed) < group.stop_after_failures:
        return
    reason = why_stopped(group, failed)
    ti.xcom_push(RECORD_KEY, {"state": STOPPED, "error": reason, **identity(context)})
    raise AirflowSkipException(reason)


def why_stopped(group: DeclaredGroup, failed: Sequence[str]) -> str:
    """
    Why a branch was not let start.

    :param group: The group.
    :param failed: Names of its branches that have failed.
    """
    known = group.known_count
    one = (known or len(failed)) == 1
    of = "" if known is None else f" of {known}"
    return (
        f"not started: {len(failed)}{of} {'branch' if one else 'branches'} of {group.group_id!r} "
        f"{'has' if one else 'have'} failed "
        f"(stop_after_failures={group.stop_after_failures}): {listing(failed, limit=5)}"
    )


def why_item_stopped(group: DeclaredGroup) -> str:
    """
    Why an item was not let start; its batch knows how many have failed, and not all their names.

    :param group: The group.
    """
    return (
        f"not started: {group.stop_after_failures} or more items of {group.group_id!r} have failed "
        f"(stop_after_failures={group.stop_after_failures})"
    )
