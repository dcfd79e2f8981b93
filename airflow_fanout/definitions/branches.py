"""What the author gave as ``branch`` -> one of the kinds of branch; runs when the Dag is parsed."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk import BaseOperator, TaskGroup, XComArg

from airflow_fanout.definitions.function_branches import function_branch, pipe_branch
from airflow_fanout.definitions.operator_branches import is_operator_class, operator_branch
from airflow_fanout.definitions.task_group_branches import is_task_group_function, task_group_branch
from airflow_fanout.exceptions import DeclarationTypeError
from airflow_fanout.execution_time.arguments import (
    NO_ITEM,
    ItemFor,
    is_function,
    is_task_function,
    unwrap_partial,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from airflow.sdk.definitions.mappedoperator import MappedOperator

    from airflow_fanout.definitions.expansion import Expansion


__all__ = ["Branch", "as_branch", "titles"]


class Branch(Protocol):
    """What one branch runs, whatever its kind."""

    @property
    def title(self) -> str:
        """How messages and the group's documentation name it."""

    @property
    def signature(self) -> str:
        """The same with the names of its parameters."""

    @property
    def bound(self) -> Mapping[str, Any]:
        """Arguments that the author has bound in it already."""

    @property
    def takes_index(self) -> bool:
        """Whether ``count=`` gives it its place as ``index``."""

    @property
    def is_group(self) -> bool:
        """Whether it is a task group of its own, whose id is the branch's."""

    def check(
        self, partial: Mapping[str, Any], items: Collection[Any] | None, *, default_args: Collection[str]
    ) -> None:
        """
        Check that what every branch is given fits.

        :param partial: Arguments that the group binds in every branch.
        :param items: Item of each branch; None if branches get none.
        :param default_args: Names that Airflow fills parameters from, if they are left open.
        :raises DeclarationTypeError: If it does not.
        """

    def create(
        self, name: str, partial: Mapping[str, Any], item: Any = NO_ITEM, *, task_group: TaskGroup
    ) -> Sequence[BaseOperator | MappedOperator]:
        """
        Make the tasks of one branch.

        :param name: The branch's name, which becomes the last part of the id of its task or task group.
        :param partial: Arguments that the group binds in every branch.
        :param item: What this branch is given; NO_ITEM for nothing.
        :param task_group: The group that it stands in.
        :returns: Its tasks in the order in which they run; the last one's value is the branch's.
        """

    def expand(
        self, partial: Mapping[str, Any], expansion: Expansion, *, task_group: TaskGroup
    ) -> Sequence[BaseOperator | MappedOperator]:
        """
        Make the mapped task, or the tasks of the mapped task group, that all branches are instances of.

        :param partial: Arguments that the group binds in every branch.
        :param expansion: What it is expanded over.
        :param task_group: The group that it stands in.
        :returns: Its tasks in the order in which they run; the last one's value is the branch's.
        :raises DeclarationTypeError: If Airflow can't map it.
        """


def as_branch(owner: str, argument: str, branch: object) -> Branch:
    """
    Take what the author gave as a branch.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param branch: A ``@task`` function or a plain one, a ``@task_group`` function, an operator class, any of
        these in ``functools.partial``, or a list of functions.
    :raises DeclarationTypeError: If it is anything else.
    """
    if isinstance(branch, ItemFor):
        made: Any = as_branch(owner, argument, branch.branch)
        return replace(made, arguments=replace(made.arguments, item_for=branch.parameter))  # type: ignore[no-any-return]
    if isinstance(branch, list | tuple):
        return pipe_branch(owner, argument, branch)
    innermost = branch
    while isinstance(innermost, functools.partial):
        innermost = innermost.func
    if is_operator_class(innermost):
        return operator_branch(owner, argument, branch)
    if is_task_function(innermost) or is_function(innermost):
        return function_branch(
            owner,
            argument,
            *unwrap_partial(owner, argument, branch, lambda target: getattr(target, "function", target)),
        )
    if is_task_group_function(innermost):
        return task_group_branch(
            owner, argument, *unwrap_partial(owner, argument, branch, lambda target: target.function)
        )
    problem = (
        "expected a @task or @task_group function, a plain function or a list of them, an operator class, "
        f"or functools.partial of one of these; found {_found(innermost)}"
    )
    raise DeclarationTypeError(owner, argument, problem)


def titles(branches: Iterable[Branch]) -> str:
    """Name what some branches run, once each, in order."""
    return ", ".join(dict.fromkeys(f"`{branch.title}`" for branch in branches))


CALLED = "the result of calling one; hand over the function itself, and its arguments as partial={…}"


def _found(branch: object) -> str:
    """What is wrong with a branch that is none, and the way out."""
    if isinstance(branch, XComArg):
        made, _ = next(branch.iter_references())
        return _found_mapped(made) if made.is_mapped else CALLED
    if isinstance(branch, TaskGroup):
        return f"the task group {branch.group_id!r}, which is made already; hand over the function itself"
    if isinstance(branch, BaseOperator):
        return (
            f"the task {branch.task_id!r}; a branch is made once for each name: hand over "
            f"{type(branch).__name__}, with its arguments in functools.partial"
        )
    if decorator := getattr(branch, "fan_decorator", None):
        return f"a {decorator} function, which makes a group itself; call it, or hand over the plain function"
    if isinstance(operator_class := getattr(branch, "operator_class", None), type):
        name = operator_class.__name__
        items = ", and items=[{…}, …] for what it is expanded over" if hasattr(branch, "is_mapped") else ""
        return (
            f"{name}.partial(…), which has frozen the default_args of where it was called, so that the "
            f"group's can't reach it; use functools.partial({name}, …){items}"
        )
    way_out = "; wrap it in a function (def or lambda)" if callable(branch) else ""
    return f"{branch!r} of type {type(branch).__name__}{way_out}"


def _found_mapped(made: Any) -> str:
    """What to write for a task that was mapped already."""
    if not hasattr(made, "op_kwargs_expand_input"):  # the output of an operator
        return _found(made)
    bound = dict(made.partial_kwargs.get("op_kwargs") or {})
    name, expanded = made.python_callable.__name__, made.op_kwargs_expand_input.value
    over = expanded if isinstance(expanded, Mapping) else {}
    items = _written(*over.values()) if len(over) == 1 else "…"
    partial = f", partial={{{', '.join(f'{each!r}: …' for each in bound)}}}" if bound else ""
    said = ", ".join(f"{each}=…" for each in over) or "…"
    return (
        f"the result of {name}.expand({said}); hand over the function, and what it is expanded over: "
        f"branch={name}, items={items}{partial}"
    )


def _written(value: object) -> str:
    """How an author has written what a task is expanded over, as far as that can be said."""
    function = getattr(getattr(value, "operator", None), "python_callable", None)
    return f"{function.__name__}()" if is_function(function) else "…"
