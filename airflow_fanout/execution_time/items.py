"""Items that came at run time, taken apart into names and values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from airflow.sdk.definitions.xcom_arg import MapXComArg, ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.exceptions import ItemsError

__all__ = ["has_templates", "names_and_items", "source_and_functions", "whole"]


def whole(value: Any) -> Any:
    """
    Read what tasks returned as a list in one request for each of them, instead of one for each element.

    :param value: What an argument was resolved to; also what Airflow makes of ``.map()``, ``.zip()`` and
        ``.concat()``, none of which takes a slice.
    """
    from airflow.sdk.definitions.xcom_arg import _ConcatResult, _MapResult, _ZipResult
    from airflow.sdk.execution_time.lazy_sequence import LazyXComSequence

    match value:
        case LazyXComSequence():
            return value[:]
        case _MapResult(value=inner):
            made: Any = attrs.evolve(value, value=whole(inner))
        case _ZipResult() | _ConcatResult():
            made = attrs.evolve(value, values=[whole(each) for each in value.values])
        case _:
            return value
    return [made[place] for place in range(len(made))]


def has_templates(value: object) -> bool:
    """
    Whether Airflow's rendering could change a value.

    :param value: The value.
    """
    if isinstance(value, str):
        return "{" in value
    if isinstance(value, Mapping):
        return any(map(has_templates, value.values()))
    if isinstance(value, list | tuple | set):
        return any(map(has_templates, value))
    return isinstance(value, ResolveMixin)


def source_and_functions(items: object) -> tuple[Any, Sequence[Callable[[Any], Any]]]:
    """
    Take ``.map()`` off what gives the items, for whoever runs an item to apply.

    An exception of its functions, ``AirflowSkipException`` included, is then that one item's, as it is where
    Airflow maps.

    :param items: The output of a task, or what Airflow's ``.map()``, ``.zip()`` or ``.concat()`` make of it.
    :returns: What gives the items as they come, and the functions that make each what the branch gets.
    """
    return (items.arg, items.callables) if isinstance(items, MapXComArg) else (items, ())


def names_and_items(owner: str, found: object) -> tuple[Sequence[str] | None, Sequence[Any]]:
    """
    Take apart what a task returned as items.

    :param owner: The group, for error messages.
    :param found: A list, or a mapping by name.
    :returns: The names, None for a list; and the items.
    :raises ItemsError: If it is neither, or a name is not a text.
    """
    if isinstance(found, Mapping):
        if odd := [name for name in found if not isinstance(name, str) or not name]:
            message = (
                f"{owner}: items: expected texts as names, found {odd[0]!r} of type {type(odd[0]).__name__}"
            )
            raise ItemsError(message)
        return list(found), list(found.values())
    if isinstance(found, str | bytes | bytearray) or not isinstance(found, Sequence):
        kind = "nothing (None)" if found is None else f"{type(found).__name__}"
        message = f"{owner}: items: expected a list or a mapping by name from the task before, found {kind}"
        raise ItemsError(message)
    return None, found
