"""Items that came at run time, taken apart into names and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk.definitions.xcom_arg import MapXComArg, ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.exceptions import ItemsError
from airflow_fanout.rules.wording import typed

if TYPE_CHECKING:
    from airflow.sdk import XComArg


@dataclass(frozen=True)
class KwargsItems:
    """
    Items, as ``FanOutGroup(items=…)`` takes them, each of which is a dict of arguments of a branch.

    A function gets the values of each as parameters of their own, in place of the dict as one.

    :param items: A list of dicts, or a mapping by name, or what returns either at run time.
    :param arguments: Names of the arguments, if it is a product that only the task ``split`` can make.
    """

    items: Sequence[Mapping[str, Any]] | Mapping[str, Mapping[str, Any]] | XComArg
    arguments: tuple[str, ...] | None = None


def read_at_once(value: Any, read: Callable[[Any], Sequence[Any]] = lambda values: values[:]) -> Any:
    """
    Read what a task returned as a list with one request, not with one for each element.

    :param read: Reads what the instances of a mapped task returned.
    """
    from airflow.sdk.definitions.xcom_arg import _ConcatResult, _MapResult, _ZipResult
    from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

    match value:
        case LazyXComSequence():
            return read(value)
        # .map(), .zip() and .concat() take no slice, so their sources are read.
        case _MapResult(value=source):
            result: Any = attrs.evolve(value, value=read_at_once(source, read))
        case _ZipResult() | _ConcatResult():
            result = attrs.evolve(value, values=[read_at_once(source, read) for source in value.values])
        case _:
            return value
    return [result[index] for index in range(len(result))]


def whole_count(owner: str, count: object) -> int:
    """Return a number of branches that came at run time; ``ItemsError`` if it is none."""
    if isinstance(count, str) and count.strip().isdecimal():
        count = int(count)  # a template renders texts
    if isinstance(count, bool) or not isinstance(count, int):
        message = f"{owner}: count: expected a whole number of branches, found {typed(count)}"
        raise ItemsError(message)
    if count < 0:
        message = f"{owner}: count: expected 0 or more branches, found {count}"
        raise ItemsError(message)
    return count


def has_templates(value: object) -> bool:
    """Whether Airflow's rendering could change a value."""
    if isinstance(value, str):
        return "{" in value
    if isinstance(value, Mapping | list | tuple | set):
        return any(map(has_templates, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, ResolveMixin)


def source_and_functions(items: object) -> tuple[Any, Sequence[Callable[[Any], Any]]]:
    """Take ``.map()`` off: its functions run with each item, and what one raises is that item's error."""
    return (items.arg, items.callables) if isinstance(items, MapXComArg) else (items, ())


def names_and_items(owner: str, value: object) -> tuple[Sequence[str] | None, Sequence[Any]]:
    """Take apart what a task returned: names, None for a list, and items; ``ItemsError`` if it is neither."""
    if isinstance(value, Mapping):
        if wrong_names := [name for name in value if not isinstance(name, str) or not name]:
            message = f"{owner}: items: expected texts as names, found {typed(wrong_names[0])}"
            raise ItemsError(message)
        return list(value), list(value.values())
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Sequence):
        kind = "nothing (None)" if value is None else f"a value of type {type(value).__name__}"
        message = f"{owner}: items: expected a list, or a mapping by name, from the task, found {kind}"
        raise ItemsError(message)
    return None, value
