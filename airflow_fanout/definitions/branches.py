"""What the author gave as ``branch``, as one of the kinds of branch."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk import BaseOperator, TaskGroup, XComArg

from airflow_fanout.definitions.function_branches import function_branch, pipe_branch
from airflow_fanout.exceptions import DeclarationTypeError
from airflow_fanout.execution_time.arguments import is_function, is_task_function
from airflow_fanout.rules.wording import typed

if TYPE_CHECKING:
    from airflow_fanout.definitions.function_branches import FunctionBranch
    from airflow_fanout.definitions.operator_branches import OperatorBranch
    from airflow_fanout.definitions.task_group_branches import TaskGroupBranch

    Branch = FunctionBranch | OperatorBranch | TaskGroupBranch  # what one branch runs, whatever its kind


class ItemFor(NamedTuple):
    """A function, plain or decorated, as a branch whose item goes to the parameter that the author named."""

    branch: Any
    parameter: str


def as_branch(owner: str, argument: str, branch: object, *, spreads_items: bool = False) -> Branch:
    """
    Take what the author gave as a branch; ``DeclarationTypeError`` if it can't be one.

    :param spreads_items: Whether items are dicts of arguments, of functions too.
    """
    branch, item_for = branch if isinstance(branch, ItemFor) else (branch, None)
    if isinstance(branch, list | tuple):
        return pipe_branch(owner, argument, branch, spreads_items=spreads_items)
    innermost = branch
    while isinstance(innermost, functools.partial):
        innermost = innermost.func
    # Only those branches need what they import.
    if isinstance(innermost, type) and issubclass(innermost, BaseOperator):
        from airflow_fanout.definitions.operator_branches import operator_branch

        return operator_branch(owner, argument, branch)
    if is_task_function(innermost) or is_function(innermost):
        return function_branch(owner, argument, branch, item_for, spreads_items=spreads_items)
    if getattr(innermost, "tg_class", None) is TaskGroup:
        from airflow_fanout.definitions.task_group_branches import task_group_branch

        return task_group_branch(owner, argument, branch, item_for, spreads_items=spreads_items)
    problem = (
        "expected a @task or @task_group function, a plain function or a list of them, an operator class, "
        f"or functools.partial of one of these; found {_found(innermost)}"
    )
    raise DeclarationTypeError(owner, argument, problem)


def _found(value: object) -> str:
    if isinstance(value, XComArg | BaseOperator) or hasattr(value, "operator_class"):
        return _found_task(value)
    if isinstance(value, TaskGroup):
        return f"the task group {value.group_id!r}, which is made already; hand over the function itself"
    if decorator := getattr(value, "fan_decorator", None):
        return f"a {decorator} function, which makes a group itself; call it, or hand over the plain function"
    return typed(value) + ("; wrap it in a function (def or lambda)" if callable(value) else "")


def _found_task(value: Any) -> str:
    task = next(value.iter_references())[0] if isinstance(value, XComArg) else value
    if isinstance(value, XComArg) and hasattr(task, "python_callable"):
        return (
            "the result of calling one; hand over the function itself, with items=… for what it is expanded "
            "over, and partial={…} for its other arguments"
        )
    operator_class = getattr(task, "operator_class", type(task))
    way_out = f"hand over functools.partial({operator_class.__name__}, …)"
    if isinstance(task, BaseOperator):
        return f"the task {task.task_id!r}, but each branch needs a task of its own; {way_out}"
    return (
        f"{operator_class.__name__}.partial(…), which has frozen the default_args of where it was called, so "
        f"that those of the group can't reach it; {way_out}, and items= for what it is expanded over"
    )
