"""Items that are dicts of arguments: ``product``, and what it makes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk import XComArg

from airflow_fanout.definitions.group_checks import check_sequence
from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError, ItemsError
from airflow_fanout.execution_time.items import KwargsItems, names_and_items, read_at_once
from airflow_fanout.rules.names import DuplicateNameError, product_items
from airflow_fanout.rules.wording import typed

if TYPE_CHECKING:
    from collections.abc import Iterator

    Part = Sequence[Any] | Mapping[str, Any] | XComArg

OWNER = "product"


@attrs.define(eq=False)
class ProductOfOutputs(XComArg):
    """A product of which a part is known only at run time; its task resolves it to a mapping by name."""

    parts: Mapping[str, Part]

    def iter_references(self) -> Iterator[tuple[Any, str]]:
        """Yield the tasks whose output is in the parts."""
        for part in self.parts.values():
            yield from XComArg.iter_xcom_references(_values(part))

    def resolve(self, context: Mapping[str, Any]) -> dict[str, dict[str, Any]] | None:
        """Return the items by name; None if a part has no value, for its task may have been skipped."""
        resolved: dict[str, tuple[Sequence[str] | None, Sequence[Any]]] = {}
        for argument, part in self.parts.items():
            if isinstance(part, XComArg):
                value = read_at_once(part.resolve(context))
            else:
                value = context["task"].render_template(part, context)
            if value is None:
                return None
            resolved[argument] = names_and_items(f"{OWNER}({argument}=…)", value)
        try:
            return product_items(resolved)
        except DuplicateNameError as error:
            message = f"{OWNER}: {error}"
            raise ItemsError(message) from None


def product(**parts: Part) -> KwargsItems:
    """
    Make a cross product, for ``FanOutGroup(items=…)``: a branch for each combination of the values.

    .. code-block:: python

        FanOutGroup("load", branch=load, items=product(region=["emea", "apac"], day=list_days()))

    Each item is a dict of the values, which go to the arguments of these names of the branch's function, or
    operator. A branch's name is made of its values, ``emea-2026-01-01``, with ``_`` for what a task id can't
    have; what has no short text (a dict, an object) is named by its place, ``model_0``, and in a mapping its
    key is its name. The last argument changes fastest. No values of an argument are no branches.

    :param parts: Values for each argument: a list, a mapping ``{name: value}``, or the output of a task that
        returns either. With such an output the group is mapped or batched, and its task ``split`` makes the
        combinations.
    :raises DeclarationTypeError: If there are no arguments, or one is neither; a ``TypeError``.
    :raises DeclarationValueError: If two combinations would have one name; a ``ValueError``.
    """
    if not parts:
        problem = "expected the values of at least one argument: product(region=[…], day=[…])"
        raise DeclarationTypeError(OWNER, "arguments", problem)
    for argument, part in parts.items():
        for _ in XComArg.iter_xcom_references(part):
            pass  # a group among them says that a fan-in collects it
        if isinstance(part, XComArg):
            continue
        check_sequence(OWNER, argument, part)
        wrong_names = [name for name in part if not name or not isinstance(name, str)]
        if isinstance(part, Mapping) and wrong_names:
            problem = f"expected texts as names, found {typed(wrong_names[0])}"
            raise DeclarationTypeError(OWNER, argument, problem)
    if any(isinstance(part, XComArg) for part in parts.values()):
        return KwargsItems(ProductOfOutputs(parts), arguments=tuple(parts))
    try:
        return KwargsItems(product_items({name: names_and_items(OWNER, parts[name]) for name in parts}))
    except DuplicateNameError as error:
        raise DeclarationValueError(OWNER, error.argument, str(error)) from None


def _values(part: Part) -> Any:
    return list(part.values()) if isinstance(part, Mapping) else part
