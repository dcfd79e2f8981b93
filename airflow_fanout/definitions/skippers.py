"""Tasks that would skip the fan-in: refused as part of a branch."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from airflow_fanout.exceptions import DeclarationValueError

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    AnyOperator = BaseOperator | MappedOperator

SETTING = "ignore_downstream_trigger_rules"


def refuse_skipper(owner: str, argument: str, title: str, operator_class: type[Any]) -> None:
    """Refuse a last task whose class can skip the tasks after it: branching, short-circuit, latest-only."""
    if getattr(operator_class, "inherits_from_skipmixin", False) is True:  # a property where it is not
        kind = operator_class.__name__
        subject = f"{title} skips" if title == kind else f"{title} is a {kind}, which skips"
        way_out = "to skip one branch, raise AirflowSkipException in a plain @task"
        problem = f"{subject} the tasks after it, so that the fan-in would never run; {way_out}"
        raise DeclarationValueError(owner, argument, problem)


def refuse_far_skipper(owner: str, argument: str, task: AnyOperator) -> None:
    """Refuse a short-circuit that skips all tasks after it, wherever it stands in the branch."""
    if _ignores_trigger_rules(task):
        fault = f"{task.task_id!r} is a short-circuit that skips all tasks after it, the fan-in too"
        problem = f"{fault}; give it {SETTING}=False, so that it skips the rest of its branch"
        raise DeclarationValueError(owner, argument, problem)


def _ignores_trigger_rules(task: AnyOperator) -> bool:
    if not task.is_mapped:
        return getattr(task, SETTING, False) is True
    mapped: Any = task
    if SETTING in mapped.partial_kwargs:
        return mapped.partial_kwargs[SETTING] is True
    inits = [vars(cls)["__init__"] for cls in mapped.operator_class.__mro__ if "__init__" in vars(cls)]
    defaults = (inspect.signature(init).parameters.get(SETTING) for init in inits)
    return next((parameter.default is True for parameter in defaults if parameter is not None), False)
