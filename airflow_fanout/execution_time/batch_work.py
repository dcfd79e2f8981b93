"""The function calls that a batch is made of."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass
from functools import cached_property
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from airflow_fanout.execution_time.arguments import NO_ITEM

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_fanout.execution_time.arguments import FunctionArguments


__all__ = ["BatchWork", "OwnCopies", "Unmade", "mutable"]


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


class OwnCopies:
    """
    Bound arguments, of which each call gets a deep copy of those that it could change under another's hands.

    What can't be copied, such as a client or a lock, is for all of them.

    :param bound: The arguments by name.
    """

    def __init__(self, bound: Mapping[str, Any]) -> None:
        self._bound = bound

    def __call__(self) -> dict[str, Any]:
        """Return the arguments of one call."""
        given = dict(self._bound)
        for name in self._own:
            given[name] = copy.deepcopy(given[name])
        return given

    @cached_property
    def _own(self) -> list[str]:
        return [name for name, value in self._bound.items() if mutable(value) and _can_be_copied(value)]


def mutable(value: object) -> bool:
    """Whether one item could change a value under another's hands."""
    if isinstance(value, tuple):
        return any(map(mutable, value))
    return not isinstance(value, str | int | float | complex | bytes | bool | None)


def _can_be_copied(value: object) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
