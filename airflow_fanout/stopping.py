"""``stop_after_failures``: whether a branch may still start; asked in the branch's own process."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout.branch_tasks import nearest_mapped_group
from airflow_fanout.exceptions import DeclarationValueError
from airflow_fanout.hooks import RECORD_KEY, STOPPED, identity, in_front
from airflow_fanout.names import listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import BaseOperator, Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.declaration import DeclaredGroup

    AnyOperator = BaseOperator | MappedOperator

__all__ = ["add_stop", "stop", "stop_if_enough_failed", "why_item_stopped", "why_stopped"]


def add_stop(owner: str, tasks: Sequence[AnyOperator], group: DeclaredGroup) -> None:
    """
    Make a branch ask, before it starts, whether too many others have failed.

    :param owner: What declares it, for error messages.
    :param tasks: The branch's tasks, in order.
    :param group: The group, with its ``stop_after_failures``.
    :raises DeclarationValueError: If it has several first tasks: one might be stopped while another runs.
    """
    ids = {each.task_id for each in tasks}
    first, *others = [each for each in tasks if not ids & each.upstream_task_ids]
    around, of_last = (nearest_mapped_group(each.task_group) for each in (first, tasks[-1]))
    if others or (first.is_mapped and group.mode == "static") or around != of_last:
        found = listing(each.task_id for each in (first, *others)) + ("" if others else ", which is mapped")
        problem = (
            f"expected branches with one first task, which is run or stopped as a whole, found {found}; "
            "let one task come before the others"
        )
        raise DeclarationValueError(owner, "stop_after_failures", problem)
    task: Any = first
    ours = functools.partial(stop_if_enough_failed, group=group)
    if first.is_mapped:
        theirs = task.partial_kwargs.get("pre_execute")
        task.partial_kwargs = {**task.partial_kwargs, "pre_execute": in_front(ours, theirs)}
    else:
        task._pre_execute_hook = in_front(ours, task._pre_execute_hook)  # noqa: SLF001 - no public way


def stop_if_enough_failed(context: Context, group: DeclaredGroup) -> None:
    """Skip the branch if too many others have failed; Airflow stores this source for each branch."""
    stop(context, group)


def stop(context: Context, group: DeclaredGroup) -> None:
    """
    Skip the branch, with the reason in its record, if as many others have failed as its group allows.

    One request; one more to record the reason. What is retried or cleared, or goes on after a deferral or a
    reschedule, is not asked.

    :param context: Context of the branch's first task.
    :param group: The group.
    :raises AirflowSkipException: If enough have failed.
    """
    from airflow_fanout.instance_states import failed_names
    from airflow_fanout.xcom import RunReader, resumes

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
