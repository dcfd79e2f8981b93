"""The function calls that a batch is made of."""

from __future__ import annotations

import copy
import functools
import inspect
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_fanout.execution_time.arguments import BY_NAME, NO_ITEM
from airflow_fanout.rules.items import BrokenItem
from airflow_fanout.rules.wording import listing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow_fanout.execution_time.arguments import FunctionArguments

log = logging.getLogger(__name__)


class BatchWork(NamedTuple):
    """
    What the items of a batched group run.

    :param functions: The function by name, for a mapping of functions; else one, under the name "".
    :param known_items: Item of each branch by name, if known at parse time; NO_ITEM for none.
    """

    functions: Mapping[str, FunctionArguments]
    known_items: Mapping[str, Any] | None
    gives_index: bool

    def is_async(self, names: Sequence[str]) -> Callable[[int], bool] | None:
        """Test whether an item of a batch, by its index there, is ``async def``; None if none is."""
        functions = {name: arguments.function for name, arguments in self.functions.items()}
        async_names = {name for name in functions if inspect.iscoroutinefunction(functions[name])}
        if async_names.isdisjoint({"", *names}):
            return None
        return lambda index: "" in async_names or names[index] in async_names

    def calls(
        self,
        names: Sequence[str],
        items: Sequence[Any],
        *,
        indexes: Sequence[int],
        bound: Mapping[str, Mapping[str, Any]],
        context: Mapping[str, Any],
        copies_items: bool = False,
    ) -> Callable[[int], Any]:
        """
        Make the function that runs one item of a batch, by its index there.

        :param indexes: Of the batch's items among all items.
        :param bound: Bound arguments by the function's name, as resolved in this try.
        :param copies_items: Whether each call gets a copy of its item, as far as that can be copied.
        """
        runs = {name: _prepare(self.functions[name], bound[name], context) for name in self.functions}

        def call(index: int) -> Any:
            item = items[index]
            if isinstance(item, BrokenItem):
                raise item.error
            if copies_items:
                item = _copied(item)
            run = runs.get("") or runs[names[index]]
            return run(item, indexes[index] if self.gives_index else None)

        return call


def _prepare(
    arguments: FunctionArguments, bound: Mapping[str, Any], context: Mapping[str, Any]
) -> Callable[[Any, int | None], Any]:
    """Find out, once for all calls of a function, what each of them is given."""
    names = arguments.given_by_airflow & context.keys()
    if not arguments.takes_any:
        names = names & (arguments.parameters.keys() - bound.keys())
    from_context = {name: context[name] for name in names}
    if shared := shared_arguments(bound):
        it = "it" if len(shared) == 1 else "them"
        log.warning(
            "%s: %s can't be copied, so all items of this task share %s", arguments.title, listing(shared), it
        )
    copies = per_call_copies(bound, lambda: shared)
    spreads = arguments.spreads_items
    parameter = None if spreads else arguments.item_parameter(bound)
    by_name = parameter.name if parameter is not None and parameter.kind in BY_NAME else None

    def run(item: Any, index: int | None) -> Any:
        positional = () if item is NO_ITEM or by_name is not None or spreads else (item,)
        named = {**from_context, **copies()}
        if index is not None:
            named["index"] = index
        if item is not NO_ITEM and by_name is not None:
            named[by_name] = item
        if spreads:
            named |= arguments.spread(item, bound)
        return arguments.function(*positional, **named)

    return run


def shared_arguments(bound: Mapping[str, Any]) -> set[str]:
    """Names of the bound arguments that can't be copied."""
    return {name for name, value in bound.items() if not _can_be_copied(value)}


def per_call_copies(
    bound: Mapping[str, Any], shared: Callable[[], set[str]] | None = None
) -> Callable[[], dict[str, Any]]:
    """
    Make deep copies of bound arguments for each call.

    :param shared: Says which can't be copied, and are shared by all; None to find out at the first call, on
        the worker, for copying may take long.
    """
    shared = shared or functools.cache(functools.partial(shared_arguments, bound))
    return lambda: {
        name: value if name in shared() else copy.deepcopy(value) for name, value in bound.items()
    }


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except Exception:  # such as of a lock
        return value


def _can_be_copied(value: object) -> bool:
    try:
        copy.deepcopy(value)
    except Exception:
        return False
    return True
