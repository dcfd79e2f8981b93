"""Items that are known only at run time: how each instance of a mapped task finds its own; on the worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, overload

import attrs
from airflow.sdk import literal
from airflow.sdk.definitions.xcom_arg import MapXComArg

from airflow_fanout.execution_time.items import has_templates, names_and_items

__all__ = ["BranchArguments", "data"]


@attrs.define(eq=False)
class BranchArguments(MapXComArg):
    """
    What each instance of a mapped task is given, made of a list or mapping that another task returned.

    Airflow serializes it as the ``MapXComArg`` that it is, without callables, and the scheduler counts the
    list or the mapping itself. (Expanded over a mapping, Airflow would hand ``(key, value)`` to an instance,
    which can't be told from an item that is a pair.)

    :param arg: The output of the other task.
    :param owner: The group, for error messages.
    :param noted_names: Told the name of each instance that is asked for, by map index; None in a list.
    :param shape: Makes of an item what Airflow is to be given for it.
    """

    # Airflow stores what repr() says of the arguments of a task in a mapped task group.
    owner: str = attrs.field(kw_only=True, repr=False)
    noted_names: dict[int, str | None] = attrs.field(kw_only=True, repr=False)
    shape: Callable[[Any], Any] = attrs.field(kw_only=True, repr=False)

    def resolve(self, context: Mapping[str, Any]) -> Sequence[Any]:
        """Return a sequence of what the instances are given."""
        return _Arguments(self.owner, self.noted_names, self.arg.resolve(context), self.shape)


class _Arguments(Sequence[Any]):
    """What each instance is given; notes the name of the one that is asked for."""

    def __init__(
        self,
        owner: str,
        noted_names: dict[int, str | None],
        found: object,
        shape: Callable[[Any], Any],
    ) -> None:
        self._noted_names, self._shape = noted_names, shape
        self._names, self._items = names_and_items(owner, found)

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        self._noted_names[index] = None if self._names is None else self._names[index]
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
