"""The hooks that each task of a branch gets when it is made."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_fanout.exceptions import DeclarationValueError
from airflow_fanout.execution_time.recording import (
    on_execute,
    record_failure,
    record_skip,
    record_success,
)
from airflow_fanout.execution_time.stopping import stop
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.tasks import nearest_mapped_group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.serialization.declaration import DeclaredGroup

    AnyOperator = BaseOperator | MappedOperator

__all__ = ["add_hooks", "add_stop", "in_front", "stop_if_enough_failed"]


def _after(context: Context, result: Any) -> None:
    record_success(context, result)


def in_order(*arguments: Any, hooks: Sequence[Callable[..., Any]]) -> None:
    """Run hooks one after another."""
    for hook in hooks:
        done = hook(*arguments)
        if inspect.isgenerator(done):  # Airflow takes such hooks too
            deque(done, maxlen=0)


def add_hooks(operator: BaseOperator | MappedOperator) -> None:
    """
    Put the hooks in front of the author's own, which all still run.

    In ``default_args`` a hook would silence the author's own, or be silenced by it, so they are added to the
    task. Airflow puts the source of :func:`_after` into the serialized Dag, once for each task: hence
    its size.

    :param operator: A task of a branch, after it was made; a mapped one too.
    """
    if record_failure in _listed(operator.on_failure_callback):
        return  # a group within a branch has its hooks already
    if isinstance(operator, BaseOperator):
        operator.on_execute_callback = [on_execute, *operator.on_execute_callback]
        operator.on_failure_callback = [record_failure, *operator.on_failure_callback]
        operator.on_skipped_callback = [record_skip, *operator.on_skipped_callback]
        # An on_success_callback would come too late: SUCCESS reaches the server before it runs.
        theirs = operator._post_execute_hook  # noqa: SLF001 - there is no public way
        operator._post_execute_hook = in_front(_after, theirs)  # noqa: SLF001
        return
    given = operator.partial_kwargs
    operator.partial_kwargs = {
        **given,
        "on_execute_callback": [on_execute, *_listed(given.get("on_execute_callback"))],
        "on_failure_callback": [record_failure, *_listed(given.get("on_failure_callback"))],
        "on_skipped_callback": [record_skip, *_listed(given.get("on_skipped_callback"))],
        "post_execute": in_front(_after, given.get("post_execute")),
    }


def in_front(ours: Callable[..., Any], theirs: Callable[..., Any] | None) -> Callable[..., Any]:
    """Put a hook of this package in front of the author's own, if there is one."""
    return ours if theirs is None else functools.partial(in_order, hooks=(ours, theirs))


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, Collection) else [callbacks]


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
