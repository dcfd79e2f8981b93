"""One branch -> Airflow tasks; runs when the Dag is parsed."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from airflow.sdk import BaseOperator, XComArg, task
from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.hooks import add_hooks
from airflow_fanout.names import listing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from airflow.sdk import TaskGroup
    from airflow.sdk.bases.decorator import _TaskDecorator

__all__ = ["NO_ITEM", "FunctionBranch", "function_branch", "is_task_function"]

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)

NO_ITEM: Any = object()
"""Stands where a branch gets no item; None is an item."""


def is_task_function(value: object) -> TypeGuard[_TaskDecorator[Any, Any, Any]]:
    """Whether a value is a function under a ``@task`` decorator; ``is_decorated_task`` of Airflow 3.3."""
    return getattr(value, "_airflow_is_task_decorator", False) is True


@dataclass(frozen=True, kw_only=True)
class FunctionBranch:
    """
    A function as a branch: one Python task (or whatever task its decorator makes).

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in, such as ``branch`` or ``branch['topics']``.
    :param decorator: The ``@task`` that wraps it.
    :param bound: Arguments that the author has bound with ``.partial()`` or ``functools.partial``.
    """

    owner: str
    argument: str
    decorator: _TaskDecorator[Any, Any, Any]
    bound: Mapping[str, Any]

    @property
    def title(self) -> str:
        """How messages and the group's documentation name it."""
        return getattr(self.decorator.function, "__name__", "function")

    @functools.cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """The function's parameters."""
        return inspect.signature(self.decorator.function).parameters

    def check(self, partial: Mapping[str, Any], *, takes_item: bool, default_args: Collection[str]) -> None:
        """
        Check that the arguments of every branch fit the function.

        :param partial: Arguments that the group binds in every branch.
        :param takes_item: Whether each branch also gets an item.
        :param default_args: Names that Airflow fills parameters from, if they are left open.
        :raises DeclarationTypeError: If they don't.
        """
        self._refuse_positional_only({*partial, *self.bound})
        taken = {name for name, parameter in self.parameters.items() if parameter.kind in _BY_NAME}
        any_name = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in self.parameters.values())
        if not any_name and (unknown := sorted(partial.keys() - taken)):
            self._refuse("partial", f"binds {listing(unknown)}, which {self.signature} does not take")
        if twice := sorted(partial.keys() & self.bound.keys()):
            self._refuse(
                "partial", f"binds {listing(twice)}, which {self.argument} has bound already; bind it once"
            )
        given = {*partial, *self.bound}
        if reserved := sorted(given & KNOWN_CONTEXT_KEYS):
            self._refuse("partial", f"binds {listing(reserved)}, which Airflow gives to every task itself")
        if takes_item:
            item = self._item_parameter(given)
            if item is None:
                self._refuse(
                    self.argument,
                    f"{self.signature} has no free parameter for its item: give it one, "
                    "or bind fewer in partial (Airflow's context names, such as ti and ds, don't count)",
                )
            given.add(item.name)
        required = {
            name
            for name, parameter in self.parameters.items()
            if parameter.default is Parameter.empty
            and parameter.kind in {*_BY_POSITION, *_BY_NAME}
            and name not in KNOWN_CONTEXT_KEYS
        }
        if unbound := sorted(
            required - given - {*default_args, *(self.decorator.kwargs.get("default_args") or {})}
        ):
            self._refuse(
                self.argument,
                f"{self.signature} needs {listing(unbound)}, which no branch is given; "
                f"bind it in every branch with partial={{{unbound[0]!r}: …}}, or give it a default",
            )

    def create(
        self, name: str, partial: Mapping[str, Any], item: Any = NO_ITEM, *, task_group: TaskGroup
    ) -> BaseOperator:
        """
        Make the task of one branch.

        :param name: The branch's name, which becomes the last part of the task id.
        :param partial: Arguments that the group binds in every branch.
        :param item: What this branch gets as its first free parameter.
        :param task_group: The group that it stands in.
        """
        arguments = {**self.bound, **partial}
        positional: tuple[Any, ...] = ()
        if item is not NO_ITEM:
            parameter = self._item_parameter(arguments)
            if parameter is not None and parameter.kind in _BY_NAME:
                arguments[parameter.name] = item
            else:
                positional = (item,)
        decorator = self.decorator.override(task_id=name, task_group=task_group, dag=task_group.dag)
        decorator.kwargs.pop("op_kwargs", None)  # they are in `bound`; Airflow would pass them twice
        operator: BaseOperator = decorator(*positional, **arguments).operator  # type: ignore[attr-defined]
        add_hooks(operator)
        return operator

    @property
    def signature(self) -> str:
        """The function with its parameters' names, for messages."""
        stars: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
        names = (f"{stars.get(parameter.kind, '')}{name}" for name, parameter in self.parameters.items())
        return f"{self.title}({', '.join(names)})"

    def _refuse_positional_only(self, given: Collection[str]) -> None:
        by_name = {*given, *KNOWN_CONTEXT_KEYS}
        only = [
            name
            for name, parameter in self.parameters.items()
            if parameter.kind is Parameter.POSITIONAL_ONLY and name in by_name
        ]
        if only:
            self._refuse(
                self.argument,
                f"{self.signature} takes {listing(only)} by position only, but is given names; leave out '/'",
            )

    def _item_parameter(self, bound: Collection[str]) -> Parameter | None:
        by_name = False
        for name, parameter in self.parameters.items():
            if parameter.kind is Parameter.VAR_KEYWORD or (
                by_name and parameter.kind is Parameter.VAR_POSITIONAL
            ):
                return None
            if name not in bound and name not in KNOWN_CONTEXT_KEYS:
                return parameter
            if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
                by_name = True  # it is given by name, so nothing can be given by position after it
        return None

    def _refuse(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationTypeError(self.owner, argument, problem)


def function_branch(owner: str, argument: str, branch: object) -> FunctionBranch:
    """
    Take what the author gave as a branch.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param branch: A ``@task`` function or a plain one, perhaps with arguments bound.
    :raises DeclarationTypeError: If it is anything else.
    """
    bound: dict[str, Any] = {}
    target = branch
    while isinstance(target, functools.partial):
        if isinstance(target.func, type):
            break
        inner = target.func.function if is_task_function(target.func) else target.func
        try:
            by_position = inspect.signature(inner).bind_partial(*target.args).arguments
        except (TypeError, ValueError) as unfit:
            raise DeclarationTypeError(owner, argument, f"functools.partial does not fit: {unfit}") from unfit
        stars = [name for name in by_position if _kind(inner, name) is Parameter.VAR_POSITIONAL]
        if stars:
            problem = (
                f"functools.partial binds {by_position[stars[0]]!r} for *{stars[0]}; bind arguments by name"
            )
            raise DeclarationTypeError(owner, argument, problem)
        bound = {**by_position, **target.keywords, **bound}
        target = target.func
    if is_task_function(target):
        _refuse_helpers_and_skippers(owner, argument, target)
        decorated_bound = target.kwargs.get("op_kwargs") or {}
        return FunctionBranch(
            owner=owner, argument=argument, decorator=target, bound={**decorated_bound, **bound}
        )
    if inspect.isfunction(target) or inspect.ismethod(target):
        # multiple_outputs: Airflow would push each key of a dict apart because of `-> dict`, one request for
        # each.
        decorator: Any = task(multiple_outputs=False)(target)
        return FunctionBranch(owner=owner, argument=argument, decorator=decorator, bound=bound)
    raise DeclarationTypeError(
        owner, argument, f"expected a @task function or a plain one, found {_found(target)}"
    )


def _kind(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].kind


def _found(branch: object) -> str:  # noqa: PLR0911 - one way out for each mistake
    """What is wrong with a branch that is no function, and the way out."""
    if isinstance(branch, XComArg):
        return "the result of calling one; hand over the function itself, and its arguments as partial={…}"
    if isinstance(branch, functools.partial):
        branch = branch.func
    not_built = "; branches other than functions are not built yet"
    if isinstance(branch, type) and issubclass(branch, BaseOperator):
        return f"the operator class {branch.__name__}{not_built}"
    if isinstance(branch, list):
        return f"a list{not_built}"
    if isinstance(branch, BaseOperator):
        return f"the task {branch.task_id!r}; a branch is made from a function, once for each name"
    if isinstance(operator_class := getattr(branch, "operator_class", None), type):
        return (
            f"{operator_class.__name__}.partial(…), which has frozen the default_args of where it was "
            f"called, so that the group's can't reach it{not_built}"
        )
    if hasattr(branch, "expand") and hasattr(branch, "partial"):
        return f"{type(branch).__name__}{not_built}"
    way_out = "; wrap it in a function (def or lambda)" if callable(branch) else ""
    return f"{branch!r} of type {type(branch).__name__}{way_out}"


def _refuse_helpers_and_skippers(owner: str, argument: str, decorated: _TaskDecorator[Any, Any, Any]) -> None:
    title = getattr(decorated.function, "__name__", "function")
    if decorated.is_setup or decorated.is_teardown:
        kind = "setup" if decorated.is_setup else "teardown"
        problem = (
            f"{title} is a @{kind}, which prepares or clears up for others and is no work of its own; "
            f"make the branch a @task, and wire the {kind} around the group"
        )
        raise DeclarationValueError(owner, argument, problem)
    # The class attribute, which is no property where it is true.
    if getattr(decorated.operator_class, "inherits_from_skipmixin", False) is True:
        problem = (
            f"{title} is a {decorated.operator_class.__name__}, which skips the tasks after it: the fan-in "
            "would never run; raise AirflowSkipException in a plain @task to skip the one branch"
        )
        raise DeclarationValueError(owner, argument, problem)


def titles(branches: Iterable[FunctionBranch]) -> str:
    """Name the functions of some branches once each, in order."""
    return ", ".join(dict.fromkeys(f"`{branch.title}`" for branch in branches))
