"""What a mapped task is expanded over: items, indexes or a mere number; runs when the Dag is parsed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from airflow_fanout.definitions.group_checks import GroupChecks
from airflow_fanout.definitions.stored_arguments import storable
from airflow_fanout.operators.expand_input import BranchArguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import XComArg


__all__ = ["Expansion"]


@dataclass(frozen=True, kw_only=True)
class Expansion:
    """
    What the instances of a mapped task are made of.

    :param group: The group.
    :param items: One for each instance, if they are known when the Dag is parsed.
    :param output: Else the output of the task that returns them.
    :param gives: Whether an instance is given its item, its index, or nothing.
    """

    group: Any
    items: Sequence[Any] | None
    output: XComArg | None
    gives: Literal["item", "index", "nothing"]

    def over(
        self,
        shape: Callable[[Any], Any],
        *,
        as_stored: Callable[[Any], Any] = storable,
        as_data: Callable[[Any], Any] = lambda shaped: shaped,
    ) -> Any:
        """
        Make what Airflow is told to expand over.

        :param shape: Makes of an item what an instance is to be given for it.
        :param as_stored: Has Airflow store that alike at every parse, where it is known then.
        :param as_data: Keeps Airflow from rendering that, where it came at run time and so is no template.
        """
        if self.output is None:
            return [as_stored(shape(item)) for item in self.items or ()]
        return BranchArguments(
            self.output,
            [],
            owner=self.group.owner,
            noted_names=self.group.noted_names,
            shape=lambda item: as_data(shape(item)),
        )

    def settings(self, given: Mapping[str, Any], *, depth: int = 0) -> dict[str, Any]:
        """
        Settings of a mapped task, but those that its author gave it.

        :param given: What the author gave it.
        :param depth: Number of groups between the task and the group.
        """
        upward = ".parent_group" * depth
        ours: dict[str, Any] = {
            # Rendered in the task's own process, which has parsed the Dag file.
            "map_index_template": f"{{{{ task.task_group{upward}.branch_name(ti.map_index) }}}}"
        }
        GroupChecks(self.group).check_settings(given)
        if self.group.max_concurrency is not None:
            ours["max_active_tis_per_dagrun"] = self.group.max_concurrency
        around = {**(self.group.dag.default_args or {}), **self.group.default_args}
        if around.get("map_index_template") is not None:
            del ours["map_index_template"]
        return {name: value for name, value in ours.items() if given.get(name) is None}
