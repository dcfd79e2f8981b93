"""What may run as the items of one task, and the settings that such a task takes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from airflow.sdk import task
from airflow.sdk.bases.operator import BaseOperator

from airflow_fanout.definitions.function_branches import FunctionBranch
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.execution_time.batch_work import BatchWork
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_fanout.definitions.branches import Branch
    from airflow_fanout.execution_time.arguments import FunctionArguments


__all__ = ["batch_work"]


def batch_work(
    owner: str, branches: Mapping[str, Branch], known_items: Mapping[str, Any] | None, *, gives_index: bool
) -> tuple[BatchWork, dict[str, Any]]:
    """
    Check that branches can be items of one task, and take the settings of their decorators.

    :param owner: The group, for error messages.
    :param branches: The branch by name, for a mapping; else one, under the name "".
    :param known_items: Item of each branch, if they are known when the Dag is parsed.
    :param gives_index: Whether each is given its place as ``index``.
    :returns: The work, and the settings of the task.
    :raises DeclarationTypeError: If one of them is no plain Python function.
    :raises DeclarationValueError: If their settings differ, or one is not a task's own.
    """
    functions: dict[str, FunctionArguments] = {}
    settings: dict[str, Any] | None = None
    for name, branch in branches.items():
        argument = f"branch[{name!r}]" if name else "branch"
        if not isinstance(branch, FunctionBranch) or branch.decorator.operator_class is not _PYTHON:
            kind = (
                f"@{branch.decorator.operator_class.custom_operator_name.lstrip('@')}"
                if isinstance(branch, FunctionBranch)
                else "an operator class"
                if not branch.is_group
                else "a @task_group"
            )
            problem = (
                f"{branch.title} is {kind}, and the items of one task are calls of a plain Python function; "
                "leave items_per_task out, or give a function"
            )
            raise DeclarationTypeError(owner, argument, problem)
        functions[name] = branch.arguments_of_items
        own = {
            setting: value
            for setting, value in branch.decorator.kwargs.items()
            if setting not in {"task_id", "op_kwargs"}
        }
        if odd := sorted(own.keys() - _SETTINGS):
            problem = f"{branch.title} sets {listing(odd)}, which a batch can't take; leave it out"
            raise DeclarationValueError(owner, argument, problem)
        if branch.decorator.multiple_outputs and not task(branch.decorator.function).multiple_outputs:  # type: ignore[attr-defined]
            problem = f"{branch.title} sets multiple_outputs, and an item's value is kept whole; leave it out"
            raise DeclarationValueError(owner, argument, problem)
        if settings is not None and own != settings:
            problem = (
                f"{branch.title} has other settings than the functions before it, and all are items of one "
                "task; give them as default_args of the group"
            )
            raise DeclarationValueError(owner, argument, problem)
        settings = own
    work = BatchWork(functions=functions, known_items=known_items, gives_index=gives_index)
    return work, settings or {}


def _nothing() -> None: ...


_PYTHON: Any = task(_nothing).operator_class  # type: ignore[attr-defined]

_SETTINGS = frozenset(inspect.signature(BaseOperator.__init__).parameters) - {
    "self",
    "kwargs",
    "do_xcom_push",
}
