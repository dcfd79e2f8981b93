"""Arguments of a branch's function: those it takes, and those it is given."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard

from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS
from airflow.sdk.definitions.xcom_arg import ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.exceptions import DeclarationTypeError, ItemsError
from airflow_fanout.rules.policy import AT_RUN_TIME
from airflow_fanout.rules.wording import close_to, listing, typed
from airflow_fanout.storage.stored_items import StoredItems

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from airflow.sdk.bases.decorator import _TaskDecorator


BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
STARS: dict[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}

NO_ITEM: Any = object()
"""Stands where a branch gets no item; None is an item."""


def is_task_function(value: object) -> TypeGuard[_TaskDecorator[Any, Any, Any]]:
    """Whether a value is a function under a ``@task`` decorator; ``is_decorated_task`` of Airflow 3.3."""
    return getattr(value, "_airflow_is_task_decorator", False) is True


def is_function(value: object) -> TypeGuard[Callable[..., Any]]:
    """Whether a value is a plain function or method, which Airflow can run as a Python task."""
    return inspect.isfunction(value) or inspect.ismethod(value)


def is_run_time(value: object) -> bool:
    """Whether a value is known only when the Dag runs: an output of a task, a Dag param, stored items."""
    return isinstance(value, ResolveMixin | StoredItems)


def as_declared(setting: Any) -> Any:
    """Return a setting as the serialized Dag holds it."""
    return AT_RUN_TIME if is_run_time(setting) else setting


def names_of_run(**settings: Any) -> tuple[str, ...]:
    """Names of the settings that only a run knows."""
    return tuple(name for name, value in settings.items() if is_run_time(value))


def undecorated(value: Any) -> Any:
    """Return the function under a ``@task`` or ``@task_group`` decorator; any other value as it is."""
    return getattr(value, "function", value)


class FunctionArguments:
    """
    The arguments of a function that each branch calls.

    :param argument: The group's argument with the function, such as ``branch`` or ``branch['topics']``.
    :param item_for: Name of the parameter that gets the item; None for the first that is not bound.
    :param spreads_items: Whether an item is a dict of arguments, each of which goes to its own parameter.
    """

    def __init__(
        self,
        *,
        owner: str,
        argument: str,
        function: Callable[..., Any],
        bound: Mapping[str, Any],
        given_by_airflow: frozenset[str] = frozenset(KNOWN_CONTEXT_KEYS),
        item_for: str | None = None,
        spreads_items: bool = False,
    ) -> None:
        self.owner, self.argument, self.function, self.bound = owner, argument, function, bound
        self.given_by_airflow, self.item_for = given_by_airflow, item_for
        self.spreads_items = spreads_items

    @property
    def title(self) -> str:
        """The function's name, for messages and the group's documentation."""
        return getattr(self.function, "__name__", "function")

    @functools.cached_property
    def parameters(self) -> Mapping[str, Parameter]:
        """The function's parameters."""
        return inspect.signature(self.function).parameters

    @property
    def signature(self) -> str:
        """The function with its parameters, for messages."""
        names = (f"{STARS.get(parameter.kind, '')}{name}" for name, parameter in self.parameters.items())
        return f"{self.title}({', '.join(names)})"

    @property
    def takes_any(self) -> bool:
        """Whether the function has ``**kwargs``, under whatever name."""
        return any(parameter.kind is Parameter.VAR_KEYWORD for parameter in self.parameters.values())

    @property
    def required(self) -> set[str]:
        """Names of the parameters that neither a default nor Airflow fills."""
        parameters = [each for each in self.parameters.values() if each.kind not in STARS]
        open_names = {each.name for each in parameters if each.default is Parameter.empty}
        return open_names - self.given_by_airflow

    def check(self, partial: Mapping[str, Any], *, takes_item: bool, default_args: Collection[str]) -> None:
        """Check that bound arguments and item fit; Airflow fills open parameters from ``default_args``."""
        names = {*partial, *self.bound}
        kinds = {name: parameter.kind for name, parameter in self.parameters.items()}
        only = [
            name for name in names | self.given_by_airflow if kinds.get(name) is Parameter.POSITIONAL_ONLY
        ]
        if only:
            self._refuse(
                f"{self.signature} takes {listing(only)} by position, but gets it by name; leave out '/'"
            )
        self._check_partial(partial)
        if takes_item and self.spreads_items:
            return  # each item says for itself which parameters are filled
        if takes_item:
            item = self.item_parameter(names)
            if item is None:
                way_out = (
                    "give it one, or bind fewer in partial (context names, such as ti and ds, don't count)"
                )
                self._refuse(f"{self.signature} has no free parameter for its item: {way_out}")
            names.add(item.name)
        if unbound := sorted(self.required - names - {*default_args}):
            way_out = f"bind it in every branch with partial={{{unbound[0]!r}: …}}, or give it a default"
            self._refuse(f"{self.signature} needs {listing(unbound)}; {way_out}")

    def _check_partial(self, partial: Mapping[str, Any]) -> None:
        by_name = {name for name, parameter in self.parameters.items() if parameter.kind in BY_NAME}
        if not self.takes_any and (unknown := partial.keys() - by_name):
            self._refuse(f"binds {listing(unknown)}, which {self.signature} does not take", "partial")
        if repeated := partial.keys() & self.bound.keys():
            problem = f"binds {listing(repeated)}, which {self.argument} has bound already; bind it once"
            self._refuse(problem, "partial")
        for argument, bound in (("partial", partial), (self.argument, self.bound)):
            if reserved := self.given_by_airflow & bound.keys():
                problem = f"binds {listing(reserved)}, which Airflow gives to every task; leave it out"
                self._refuse(problem, argument)

    def item_problem(self, item: object, bound: Collection[str]) -> str:
        """Say why an item can't be spread into the parameters that are not bound; '' if it can."""
        if problem := kwargs_problem(item, self.signature, bound):
            return problem
        given: Any = item
        if reserved := self.given_by_airflow & given.keys():
            return f"gives {listing(reserved)}, which Airflow gives to every task; rename it"
        by_name = {name for name, parameter in self.parameters.items() if parameter.kind in BY_NAME}
        if not self.takes_any and (unknown := given.keys() - by_name):
            way_out = close_to(min(unknown), by_name - {*bound} - self.given_by_airflow)
            return f"gives {listing(unknown)}, which {self.signature} does not take; {way_out}"
        return ""

    def spread(self, item: Any, bound: Collection[str]) -> Mapping[str, Any]:
        """Return the arguments that an item of run time gives; ``ItemsError`` if it can't be spread."""
        if problem := self.item_problem(item, bound):
            message = f"{self.owner}: items: an item {problem}"
            raise ItemsError(message)
        return item  # type: ignore[no-any-return]

    def _refuse(self, problem: str, argument: str | None = None) -> NoReturn:
        raise DeclarationTypeError(self.owner, argument or self.argument, problem)

    def bind(self, partial: Mapping[str, Any], item: Any = NO_ITEM) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put the arguments of one branch together: those by position, and those by name."""
        arguments = {**self.bound, **partial}
        if item is NO_ITEM:
            return (), arguments
        if self.spreads_items:
            return (), {**arguments, **item}
        parameter = self.item_parameter(arguments)
        if parameter is None or parameter.kind not in BY_NAME:
            return (item,), arguments
        return (), {**arguments, parameter.name: item}

    def item_name(self, bound: Collection[str]) -> str:
        """Name of the parameter that gets the item in a mapped task, which gives it by name."""
        parameter = self.item_parameter(bound)
        if parameter is None or parameter.kind not in BY_NAME:
            fault = f"{self.signature} takes its item by position only, but a mapped task gives it by name"
            self._refuse(f"{fault}; give the parameter a plain name")
        return parameter.name

    def item_parameter(self, bound: Collection[str]) -> Parameter | None:
        """Parameter that gets the item: the one named, or the first not bound; None if there is none."""
        if self.item_for is not None:
            return self.parameters.get(self.item_for) or Parameter(self.item_for, Parameter.KEYWORD_ONLY)
        closed: set[Any] = {Parameter.VAR_KEYWORD}
        for name, parameter in self.parameters.items():
            if parameter.kind in closed:
                return None
            if name not in bound and name not in self.given_by_airflow:
                return parameter
            if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
                # Nothing can be given by position after an argument that is given by name.
                closed.add(Parameter.VAR_POSITIONAL)
        return None


def kwargs_problem(item: object, takes: str, bound: Collection[str]) -> str:
    """Say why an item is no dict of arguments that are given once; '' if it is one."""
    if is_run_time(item) or not isinstance(item, Mapping):
        found = "a value known only at run time" if is_run_time(item) else typed(item)
        return f"is {found}; expected a dict of arguments of {takes}"
    if wrong_names := [name for name in item if not isinstance(name, str)]:
        return f"has {wrong_names[0]!r} as the name of an argument of {takes}"
    if repeated := item.keys() & set(bound):
        return f"gives {listing(repeated)}, which is bound in every branch already; give it once"
    return ""


def unwrap_partial(owner: str, argument: str, branch: object) -> tuple[object, dict[str, Any]]:
    """Take ``functools.partial`` of a function apart: the function, and the bound arguments by name."""
    if not isinstance(branch, functools.partial):
        return branch, {}
    target, bound = unwrap_partial(owner, argument, branch.func)
    try:
        signature = inspect.signature(undecorated(target))
        by_position = signature.bind_partial(*branch.args).arguments
    except (TypeError, ValueError) as error:
        raise DeclarationTypeError(owner, argument, f"functools.partial does not fit: {error}") from error
    for name, value in by_position.items():
        if signature.parameters[name].kind is Parameter.VAR_POSITIONAL:
            problem = f"functools.partial binds {value!r} for *{name}; bind arguments by name"
            raise DeclarationTypeError(owner, argument, problem)
    return target, {**bound, **by_position, **branch.keywords}
