"""Arguments of a mapped task, which Airflow has to store alike at every parse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import XComArg
from airflow.sdk.definitions.param import DagParam
from airflow.sdk.definitions.xcom_arg import ResolveMixin  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping


PLAIN = (str, int, float, bytes, type(None))  # Airflow stores them alike anyway


class StoredArgument(ResolveMixin):
    """
    Stands for an argument of a mapped task, and has Airflow store a text that is the same at each parse.

    The text of an object may hold its address, that of a set the order of its hashes: each parse would make a
    new version of the Dag. The task gets the value, rendered as if it stood there itself.
    """

    def __init__(self, value: Any, text: str) -> None:
        self.value = value
        self.text = text

    def __repr__(self) -> str:
        """Return the same text in every process."""
        return self.text

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """Yield the tasks whose output is in the value."""
        return XComArg.iter_xcom_references(self.value)

    def resolve(self, context: Any) -> Any:
        """Return what the task gets."""
        return context["task"].render_template(self.value, context)


class StorableItems(list[Any]):
    """Items of a mapped task group: Airflow stores each with the group, and all as a text with each task."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = list(items)
        super().__init__(map(storable, self._items))

    def __getitem__(self, index: Any) -> Any:
        """Return an item as it was given."""
        return self._items[index]

    def __repr__(self) -> str:
        """Return the same text in every process, and a short one."""
        return f"<{len(self)} items>"


def storable(value: Any) -> Any:
    """Replace what Airflow would store differently at each parse, in a value that it renders."""
    return _replace_leaves(value, _storable_leaf)


def storable_arguments(arguments: Mapping[str, Any], template_fields: Collection[str]) -> dict[str, Any]:
    """Do so for the arguments of an operator that it renders; of the others only Dag params are replaced."""
    return {
        name: _replace_leaves(value, _storable_leaf if name in template_fields else _storable_param)
        for name, value in arguments.items()
    }


def holds_run_time_values(value: Any) -> bool:
    """Whether a value, or what is in it, is known only when the Dag runs."""
    if isinstance(value, dict | list | tuple | set | frozenset):
        return any(map(holds_run_time_values, value.values() if isinstance(value, dict) else value))
    return isinstance(value, ResolveMixin)


def _replace_leaves(value: Any, replace: Callable[[Any], Any]) -> Any:
    """Replace what is in lists, tuples and dicts; what needs no replacement stays the same object."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, dict):
        new = {name: _replace_leaves(old, replace) for name, old in value.items()}
        return value if all(new[name] is old for name, old in value.items()) else new
    if isinstance(value, list | tuple):
        elements = [_replace_leaves(old, replace) for old in value]
        if all(new is old for new, old in zip(elements, value, strict=True)):
            return value
        if isinstance(value, list):
            return elements
        return type(value)(*elements) if hasattr(value, "_fields") else tuple(elements)
    return replace(value)


def _storable_leaf(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        # Airflow sorts a set whose elements can be compared.
        if isinstance(value, set) and any(all(isinstance(each, kind) for each in value) for kind in PLAIN):
            return value
        return StoredArgument(value, f"{{{', '.join(sorted(repr(storable(each)) for each in value))}}}")
    if isinstance(value, XComArg) or callable(value):  # a reference; the source of a function
        return value
    if isinstance(value, DagParam) or not _shows_an_address(value):
        return _storable_param(value)
    kind = type(value)
    return StoredArgument(value, f"<{kind.__module__}.{kind.__qualname__} object>")


def _storable_param(value: Any) -> Any:
    if isinstance(value, DagParam):
        return StoredArgument(value, f"DagParam({value._name!r})")  # noqa: SLF001 - there is no public way
    return value


def _shows_an_address(value: object) -> bool:
    try:
        return " at 0x" in str(value)
    except Exception:  # whatever a class of the author's raises
        return True
