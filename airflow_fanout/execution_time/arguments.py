"""Arguments of a branch's function: which it takes, and which it is given; runs when the Dag is parsed."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from inspect import Parameter
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS
from airflow.sdk.definitions.xcom_arg import ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.exceptions import DeclarationTypeError
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from airflow.sdk.bases.decorator import _TaskDecorator


__all__ = [
    "NO_ITEM",
    "CallingBranch",
    "FunctionArguments",
    "ItemFor",
    "is_function",
    "is_run_time",
    "is_task_function",
    "unwrap_partial",
]

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)

_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)

NO_ITEM: Any = object()
"""Stands where a branch gets no item; None is an item."""


def is_task_function(value: object) -> TypeGuard[_TaskDecorator[Any, Any, Any]]:
    """Whether a value is a function under a ``@task`` decorator; ``is_decorated_task`` of Airflow 3.3."""
    return getattr(value, "_airflow_is_task_decorator", False) is True


def is_function(value: object) -> TypeGuard[Callable[..., Any]]:
    """Whether a value is a plain function or method, which Airflow can run as a Python task."""
    return inspect.isfunction(value) or inspect.ismethod(value)


@dataclass(frozen=True, kw_only=True)
class FunctionArguments:
    """
    The arguments of a function that each branch calls.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in, such as ``branch`` or ``branch['topics']``.
    :param function: The function.
    :param bound: Arguments that the author has bound with ``.partial()`` or ``functools.partial``.
    :param given_by_airflow: Names of parameters that Airflow fills itself when the task runs.
    :param item_for: Name of the parameter that the item goes to; None for the first that is not bound.
    """

    owner: str
    argument: str
    function: Callable[..., Any]
    bound: Mapping[str, Any]
    given_by_airflow: frozenset[str] = frozenset(KNOWN_CONTEXT_KEYS)
    item_for: str | None = None

    @property
    def title(self) -> str:
        """How messages and the group's documentation name the function."""
        return getattr(self.function, "__name__", "function")

    @functools.cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """The function's parameters."""
        return inspect.signature(self.function).parameters

    @property
    def signature(self) -> str:
        """The function with its parameters' names, for messages."""
        stars: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
        names = (f"{stars.get(parameter.kind, '')}{name}" for name, parameter in self.parameters.items())
        return f"{self.title}({', '.join(names)})"

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
        if reserved := sorted(given.intersection(self.given_by_airflow)):
            self._refuse("partial", f"binds {listing(reserved)}, which Airflow gives to every task itself")
        if takes_item:
            item = self.item_parameter(given)
            if item is None:
                self._refuse(
                    self.argument,
                    f"{self.signature} has no free parameter for its item: give it one, "
                    "or bind fewer in partial (Airflow's context names, such as ti and ds, don't count)",
                )
            given.add(item.name)
        if unbound := sorted(self.required - given - {*default_args}):
            self._refuse(
                self.argument,
                f"{self.signature} needs {listing(unbound)}, which no branch is given; "
                f"bind it in every branch with partial={{{unbound[0]!r}: …}}, or give it a default",
            )

    @property
    def required(self) -> set[str]:
        """Names of the parameters that neither a default nor Airflow fills."""
        return {
            name
            for name, parameter in self.parameters.items()
            if parameter.default is Parameter.empty
            and parameter.kind in {*_BY_POSITION, *_BY_NAME}
            and name not in self.given_by_airflow
        }

    @property
    def takes_context(self) -> bool:
        """Whether the function asks for anything that Airflow gives."""
        return any(
            name in self.given_by_airflow or parameter.kind is Parameter.VAR_KEYWORD
            for name, parameter in self.parameters.items()
        )

    def bind(self, partial: Mapping[str, Any], item: Any = NO_ITEM) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """
        Put the arguments of one branch together.

        :param partial: Arguments that the group binds in every branch.
        :param item: What this branch gets as its first free parameter.
        :returns: Those by position, and those by name.
        """
        arguments = {**self.bound, **partial}
        if item is NO_ITEM:
            return (), arguments
        parameter = self.item_parameter(arguments)
        if parameter is None or parameter.kind not in _BY_NAME:
            return (item,), arguments
        return (), {**arguments, parameter.name: item}

    def item_name(self, bound: Collection[str], *, because: str) -> str:
        """
        Name of the parameter that an item goes to, where it has to be given by name.

        :param bound: Names of the parameters that are bound.
        :param because: What can't give it by position.
        :raises DeclarationTypeError: If it takes its item by position only.
        """
        parameter = self.item_parameter(bound)
        if parameter is None or parameter.kind not in _BY_NAME:
            self._refuse(
                self.argument,
                f"{self.signature} takes its item by position only, and {because} gives it by name: "
                "give the parameter a plain name",
            )
        return parameter.name

    def item_parameter(self, bound: Collection[str]) -> Parameter | None:
        """Parameter that an item goes to: the one named, or the first not bound; None if there is none."""
        if self.item_for is not None:
            return self.parameters.get(self.item_for) or Parameter(self.item_for, Parameter.KEYWORD_ONLY)
        by_name = False
        for name, parameter in self.parameters.items():
            if parameter.kind is Parameter.VAR_KEYWORD or (
                by_name and parameter.kind is Parameter.VAR_POSITIONAL
            ):
                return None
            if name not in bound and name not in self.given_by_airflow:
                return parameter
            if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
                by_name = True  # it is given by name, so nothing can be given by position after it
        return None

    def _refuse_positional_only(self, given: Collection[str]) -> None:
        by_name = {*given, *self.given_by_airflow}
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

    def _refuse(self, argument: str, problem: str) -> NoReturn:
        raise DeclarationTypeError(self.owner, argument, problem)


@dataclass(frozen=True, kw_only=True)
class CallingBranch:
    """
    What all kinds of branch that call a function have in common.

    :param arguments: The arguments of the function.
    """

    arguments: FunctionArguments

    @property
    def title(self) -> str:
        """How messages and the group's documentation name it."""
        return self.arguments.title

    @property
    def bound(self) -> Mapping[str, Any]:
        """Arguments that the author has bound already."""
        return self.arguments.bound

    @property
    def takes_index(self) -> bool:
        """Whether it can be given its place."""
        return "index" in self.arguments.parameters

    @property
    def signature(self) -> str:
        """The function with its parameters' names, for messages."""
        return self.arguments.signature


@dataclass(frozen=True, kw_only=True)
class ItemFor:
    """
    A branch whose item goes to the parameter that the author has named, whatever its place.

    :param branch: A function, plain or decorated.
    :param parameter: Name of the parameter, which the function takes by name.
    """

    branch: Any
    parameter: str


def unwrap_partial(
    owner: str, argument: str, branch: object, function_of: Callable[[Any], Any]
) -> tuple[object, dict[str, Any]]:
    """
    Take ``functools.partial`` apart, arguments by position included.

    :param owner: What declares it, for error messages.
    :param argument: Which of the owner's arguments it came in.
    :param branch: A function, a decorated one, or ``functools.partial`` of either.
    :param function_of: Finds the function whose parameters count.
    :returns: What was wrapped, and the arguments that are bound, by name.
    :raises DeclarationTypeError: If the arguments don't fit, or fill ``*args``.
    """
    if not isinstance(branch, functools.partial):
        return branch, {}
    target, bound = unwrap_partial(owner, argument, branch.func, function_of)
    function = function_of(target)
    try:
        by_position = inspect.signature(function).bind_partial(*branch.args).arguments
    except (TypeError, ValueError) as unfit:
        raise DeclarationTypeError(owner, argument, f"functools.partial does not fit: {unfit}") from unfit
    kinds = inspect.signature(function).parameters
    stars = [name for name in by_position if kinds[name].kind is Parameter.VAR_POSITIONAL]
    if stars:
        problem = f"functools.partial binds {by_position[stars[0]]!r} for *{stars[0]}; bind arguments by name"
        raise DeclarationTypeError(owner, argument, problem)
    return target, {**bound, **by_position, **branch.keywords}


def is_run_time(value: object) -> bool:
    """Whether a value is known only when the Dag runs: the output of a task, or a Dag param."""
    return isinstance(value, ResolveMixin)
