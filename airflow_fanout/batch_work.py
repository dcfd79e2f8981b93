"""What a batch's items run, declared at parse time; called item by item on the worker."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from airflow.sdk import task
from airflow.sdk.bases.operator import BaseOperator

from airflow_fanout.arguments import NO_ITEM
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.function_branches import FunctionBranch
from airflow_fanout.names import listing
from airflow_fanout.own_copies import OwnCopies

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_fanout.arguments import FunctionArguments
    from airflow_fanout.branches import Branch

__all__ = ["BatchWork", "Unmade", "batch_work"]


@dataclass(frozen=True)
class Unmade:
    """
    Stands for an item that can't be rendered, or that its ``.map()`` has refused.

    :param error: Why.
    """

    error: Exception


@dataclass(frozen=True, kw_only=True)
class BatchWork:
    """
    What the items of a batched group run.

    :param functions: The function by name, for a mapping of functions; else one, under the name "".
    :param known_items: Item of each branch, if they are known when the Dag is parsed; NO_ITEM for none.
    :param gives_index: Whether each is given its place as ``index``.
    """

    functions: Mapping[str, FunctionArguments]
    known_items: Mapping[str, Any] | None
    gives_index: bool

    def is_async(self, names: Sequence[str]) -> Callable[[int], bool] | None:
        """
        Make what tells of an item, by its place, whether it is ``async def``; None if none is.

        :param names: Names of the batch's items.
        """
        among = {name for name, each in self.functions.items() if inspect.iscoroutinefunction(each.function)}
        if among.isdisjoint({"", *names}):
            return None
        return lambda place: "" in among or names[place] in among

    def calls(
        self,
        names: Sequence[str],
        items: Sequence[Any],
        *,
        start: int,
        bound: Mapping[str, Mapping[str, Any]],
        context: Mapping[str, Any],
    ) -> Callable[[int], Any]:
        """
        Make what runs one item of a batch, by its place in it.

        :param names: Names of the batch's items.
        :param items: The items; NO_ITEM where there is none.
        :param start: Place of the first of them among all.
        :param bound: Bound arguments by the function's name, as resolved in this try.
        :param context: Airflow's context, of which a function is given what it names.
        """
        prepared = {
            name: _prepare(arguments, bound[name], context) for name, arguments in self.functions.items()
        }
        lone = prepared.get("")

        def call(place: int) -> Any:
            item = items[place]
            if isinstance(item, Unmade):
                raise item.error
            run = lone or prepared[names[place]]
            return run(item, start + place if self.gives_index else None)

        return call


def _prepare(
    arguments: FunctionArguments, bound: Mapping[str, Any], context: Mapping[str, Any]
) -> Callable[[Any, int | None], Any]:
    """Find out once what each call of a function needs."""
    parameters = arguments.parameters
    given = {*bound}
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        from_context = {name: context[name] for name in arguments.given_by_airflow if name in context}
    else:
        from_context = {
            name: context[name]
            for name in parameters
            if name in arguments.given_by_airflow and name in context and name not in bound
        }
    own = OwnCopies(bound)
    parameter = arguments.item_parameter(given)
    by_name = parameter.name if parameter is not None and parameter.kind in _BY_NAME else None
    function = arguments.function

    def run(item: Any, index: int | None) -> Any:
        named = {**from_context, **own()}
        if index is not None:
            named["index"] = index
        if item is NO_ITEM:
            return function(**named)
        if by_name is None:
            return function(item, **named)
        named[by_name] = item
        return function(**named)

    return run


_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


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
