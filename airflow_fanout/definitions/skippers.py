"""Tasks that would skip the fan-in: refused as part of a branch."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import DeclarationValueError

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    AnyOperator = BaseOperator | MappedOperator

__all__ = ["refuse_far_skipper", "refuse_skipper"]


def refuse_skipper(owner: str, argument: str, title: str, operator_class: type[Any]) -> None:
    """
    Refuse a last task that can skip what comes after it.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param title: How the message names it.
    :param operator_class: The class of the last task.
    :raises DeclarationValueError: If it is a branching, short-circuit or latest-only operator.
    """
    # The class attribute, which is no property where it is true.
    if getattr(operator_class, "inherits_from_skipmixin", False) is True:
        kind = operator_class.__name__
        said = f"{title} skips" if title == kind else f"{title} is a {kind}, which skips"
        problem = (
            f"{said} the tasks after it: the fan-in would never run; "
            "raise AirflowSkipException in a plain @task to skip the one branch"
        )
        raise DeclarationValueError(owner, argument, problem)


def refuse_far_skipper(owner: str, argument: str, task: AnyOperator) -> None:
    """
    Refuse a short-circuit that skips all that comes after it, whatever its place in the branch.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param task: A task of the branch.
    :raises DeclarationValueError: If it ignores the trigger rules of the tasks after it.
    """
    if _ignores_trigger_rules(task):
        problem = (
            f"{task.task_id!r} is a short-circuit that skips everything after it, the fan-in too; "
            "give it ignore_downstream_trigger_rules=False, so that it skips the rest of its branch"
        )
        raise DeclarationValueError(owner, argument, problem)


def _ignores_trigger_rules(task: AnyOperator) -> bool:
    name = "ignore_downstream_trigger_rules"
    if not task.is_mapped:
        return getattr(task, name, False) is True
    mapped: Any = task
    if name in mapped.partial_kwargs:
        return mapped.partial_kwargs[name] is True
    inits = (
        inspect.signature(vars(each)["__init__"])
        for each in mapped.operator_class.__mro__
        if "__init__" in vars(each)
    )
    defaults = (init.parameters[name].default for init in inits if name in init.parameters)
    return next(defaults, False) is True
