"""The hooks that each task of a branch gets when it is made."""

from __future__ import annotations

import functools
import inspect
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, XComArg

from airflow_fanout.exceptions import DeclarationValueError
from airflow_fanout.execution_time.arguments import is_run_time
from airflow_fanout.execution_time.recording import on_execute, record_failure, record_skip, record_success
from airflow_fanout.operators.fan_in_checks import check_stop
from airflow_fanout.rules.wording import listing
from airflow_fanout.serialization.tasks import nearest_mapped_group

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.serialization.declaration import DeclaredGroup

    AnyOperator = BaseOperator | MappedOperator


class Hook:
    """
    A function as a hook, of which Airflow stores a line.

    Of a function, and of its partial, it would look up and store the source, for each task again, which takes
    it nearly as long as all else of the task.
    """

    def __init__(self, function: Callable[..., Any], **arguments: Any) -> None:
        self._call = functools.partial(function, **arguments)

    @property
    def __call__(self) -> Callable[..., Any]:
        """Call the function; a partial, for a method has a source."""
        return self._call


AFTER = Hook(record_success)


def add_hooks(operator: AnyOperator) -> None:
    """
    Put the hooks in front of the author's own on a task of a branch; all still run.

    In ``default_args`` a hook would silence the author's own, or be silenced by it.
    """
    if record_failure in _as_list(operator.on_failure_callback):
        return  # a group within a branch has its hooks already
    add_failure_hook(operator)
    operator.on_execute_callback = [on_execute, *_as_list(operator.on_execute_callback)]
    operator.on_skipped_callback = [record_skip, *_as_list(operator.on_skipped_callback)]
    # An on_success_callback would come too late: SUCCESS reaches the server before it runs.
    _put_in_front(AFTER, operator, "post_execute")


def add_failure_hook(operator: AnyOperator) -> None:
    """Record the error of a task in front of the author's own callbacks."""
    operator.on_failure_callback = [record_failure, *_as_list(operator.on_failure_callback)]


def add_stop(owner: str, tasks: Sequence[AnyOperator], group: DeclaredGroup, limit: Any) -> None:
    """
    Make the first task of a branch ask, before it runs, whether too many other branches have failed.

    :param limit: How many are too many, or what tells it in a run.
    """
    ids = {task.task_id for task in tasks}
    first, *others = [task for task in tasks if not ids & task.upstream_task_ids]
    around_first, around_last = (nearest_mapped_group(task.task_group) for task in (first, tasks[-1]))
    is_mapped = (first.is_mapped and group.mode == "static") or around_first != around_last
    # Of several, one might be stopped while another runs.
    if others or is_mapped:
        names = listing(task.task_id for task in (first, *others))
        problem = (
            "expected branches with one first task, so that a branch is run or stopped as a whole, found "
            f"{names}{'' if others else ', which is mapped'}; let one task come before the others"
        )
        raise DeclarationValueError(owner, "stop_after_failures", problem)
    _put_in_front(Hook(stop_if_enough_failed, group=group, limit=limit), first, "pre_execute")
    XComArg.apply_upstream_relationship(first, limit)


def stop_if_enough_failed(context: Context, group: DeclaredGroup, limit: Any) -> None:
    """Skip the branch if too many others have failed."""
    from airflow_fanout.execution_time.stopping import stop  # not needed when a Dag is parsed

    if is_run_time(limit):
        from airflow_fanout.operators.settings import number_of_run, refused_in_run

        owner = f"FanOutGroup {group.group_id!r}"
        limit = number_of_run(owner, "stop_after_failures", limit.resolve(context))
        with refused_in_run():
            check_stop(owner, limit, group.known_count)
    stop(context, group._replace(stop_after_failures=limit))


def _put_in_front(hook: Callable[..., Any], operator: AnyOperator, argument: str) -> None:
    """Put a hook in front of the author's own, if there is one; Airflow has no public way after the init."""
    if isinstance(operator, BaseOperator):
        hooks, name = vars(operator), f"_{argument}_hook"
    else:
        hooks, name = operator.partial_kwargs, argument
    author_hook = hooks.get(name)
    hooks[name] = hook if author_hook is None else Hook(_run_hooks, hooks=(hook, author_hook))


def _run_hooks(*arguments: Any, hooks: Sequence[Callable[..., Any]]) -> None:
    for hook in hooks:
        result = hook(*arguments)
        if inspect.isgenerator(result):  # Airflow takes such hooks too
            deque(result, maxlen=0)


def _as_list(callbacks: Any) -> list[Any]:
    return list(callbacks) if isinstance(callbacks, Collection) else [callbacks]
