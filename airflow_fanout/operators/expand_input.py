"""Items that are known only at run time: each instance of a mapped task finds its own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs
from airflow.sdk import literal
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


def literal_arguments(arguments: Mapping[str, Any], template_fields: Collection[str]) -> Mapping[str, Any]:
    """Keep Airflow from rendering values that a task returned: ``expand_kwargs`` takes them for templates."""
    names = [name for name in arguments if name in template_fields and has_templates(arguments[name])]
    return {**arguments, **{name: literal(arguments[name]) for name in names}}
