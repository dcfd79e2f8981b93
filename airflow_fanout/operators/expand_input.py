"""Items that are known only at run time: each instance of a mapped task finds its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import attrs
from airflow.sdk.definitions._internal.expandinput import ListOfDictsExpandInput
from airflow.sdk.definitions.xcom_arg import MapXComArg

from airflow_fanout.execution_time.items import has_templates, names_and_items


@attrs.define(eq=False)
class BranchArguments(MapXComArg):
    """
    Arguments of each instance of a mapped task, made from a list or mapping that another task returned.

    Airflow serializes it as a ``MapXComArg`` without callables. (Expanded over a mapping itself, an instance
    would get ``(key, value)``, which can't be told from an item that is a pair.)

    :param noted_names: Gets the name of each instance that asks, by map index; None in a list.
    :param shape: Makes the arguments of an instance from its item.
    """

    # Airflow stores what repr() says of the arguments of a task in a mapped task group.
    owner: str = attrs.field(kw_only=True, repr=False)
    noted_names: dict[int, str | None] = attrs.field(kw_only=True, repr=False)
    shape: Callable[[Any], Any] = attrs.field(kw_only=True, repr=False)

    def resolve(self, context: Mapping[str, Any]) -> Sequence[Any]:
        """Return the arguments of all instances, each made when it is asked for."""
        names, items = names_and_items(self.owner, self.arg.resolve(context))
        return _InstanceArguments(self, names, items)


@attrs.define(eq=False)
class _InstanceArguments(Sequence[Any]):
    """The arguments of each instance; notes the name of the one that is asked for."""

    _source: BranchArguments
    _names: Sequence[str] | None
    _items: Sequence[Any]

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        item = self._items[index]  # which ends an iteration over all
        self._source.noted_names[index] = None if self._names is None else self._names[index]
        return self._source.shape(item)


class DataExpandInput(ListOfDictsExpandInput):
    """
    Arguments that a task returned: an operator gets them as they are, where Airflow takes them for templates.

    Airflow renders what a template field holds, but for the objects that the expansion names. What an
    operator's ``__init__`` makes of an argument is another object, and is rendered.
    """

    def resolve(self, context: Mapping[str, Any]) -> tuple[Mapping[str, Any], set[int]]:
        """Return the arguments of an instance, and which objects in them not to render."""
        arguments, resolved = super().resolve(context)
        return arguments, resolved | {id(value) for value in _with_templates(arguments.values())}


def _with_templates(values: Iterable[Any]) -> Iterator[Any]:
    for value in filter(has_templates, values):
        yield value
        if isinstance(value, dict | list | tuple | set):
            yield from _with_templates(value.values() if isinstance(value, dict) else value)
