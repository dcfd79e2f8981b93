"""Items that are known only at run time: how each instance of a mapped task finds its own; on the worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import attrs
from airflow.sdk import literal
from airflow.sdk.definitions.xcom_arg import MapXComArg, ResolveMixin  # type: ignore[attr-defined]

from airflow_fanout.exceptions import ItemsError

if TYPE_CHECKING:
    from airflow_fanout.task_group import FanOutGroup

__all__ = ["BranchArguments", "data", "has_templates", "names_and_items", "source_and_functions"]


@attrs.define(eq=False)
class BranchArguments(MapXComArg):
    """
    What each instance of a mapped task is given, made of a list or mapping that another task returned.

    Airflow serializes it as the ``MapXComArg`` that it is, without callables, and the scheduler counts the
    list or the mapping itself. (Expanded over a mapping, Airflow would hand ``(key, value)`` to an instance,
    which can't be told from an item that is a pair.)

    :param arg: The output of the other task.
    :param group: The group, which is told the names.
    :param shape: Makes of an item what Airflow is to be given for it.
    """

    # Airflow stores what repr() says of the arguments of a task in a mapped task group.
    group: FanOutGroup = attrs.field(kw_only=True, repr=False)
    shape: Callable[[Any], Any] = attrs.field(kw_only=True, repr=False)

    def resolve(self, context: Mapping[str, Any]) -> Sequence[Any]:
        """Return a sequence of what the instances are given."""
        return _Arguments(self.group, self.arg.resolve(context), self.shape)


class _Arguments(Sequence[Any]):
    """What each instance is given; tells the group the name of the one that is asked for."""

    def __init__(self, group: FanOutGroup, found: object, shape: Callable[[Any], Any]) -> None:
        self._group, self._shape = group, shape
        self._names, self._items = names_and_items(group.owner, found)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        self._group.noted_names[index] = None if self._names is None else self._names[index]
        return self._shape(self._items[index])

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))


def data(arguments: Mapping[str, Any], template_fields: Collection[str]) -> Mapping[str, Any]:
    """
    Keep Airflow from taking data for templates: ``expand_kwargs`` renders whatever a task has returned.

    :param arguments: Arguments of an operator, as they came at run time.
    :param template_fields: Those of the operator's that are rendered.
    """
    return {
        name: literal(value) if name in template_fields and has_templates(value) else value
        for name, value in arguments.items()
    }


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
