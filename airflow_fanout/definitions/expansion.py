"""What a mapped task is expanded over: items, indexes or a mere number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from airflow_fanout.definitions.group_checks import check_limit
from airflow_fanout.definitions.stored_arguments import storable
from airflow_fanout.operators.expand_input import BranchArguments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airflow.sdk import XComArg


class Expansion(NamedTuple):
    """
    What the instances of a mapped task are made of.

    :param items: One for each instance; or the output of the task that returns them at run time.
    :param noted_names: Gets their names by map index.
    :param shows_names: Whether the group names its instances; not where ``default_args`` do.
    :param is_stoppable: Whether instances may be stopped, by a hook that an item can't replace.
    """

    owner: str
    group_id: str
    items: Sequence[Any]
    output: XComArg | None
    gives: Literal["item", "index", "nothing"]
    noted_names: dict[int, str | None]
    max_concurrency: int | None
    shows_names: bool
    is_stoppable: bool

    def over(
        self,
        shape: Callable[[Any], Any],
        *,
        as_storable: Callable[[Any], Any] = storable,
        as_literal: Callable[[Any], Any] = lambda shaped: shaped,
    ) -> Any:
        """
        Make what Airflow is to expand over: the arguments of each instance.

        :param as_storable: Has Airflow store arguments alike at every parse, if they are known then.
        :param as_literal: Keeps Airflow from rendering arguments, if they come at run time.
        """
        if self.output is None:
            return [as_storable(shape(item)) for item in self.items]
        names: dict[str, Any] = {"owner": self.owner, "noted_names": self.noted_names}
        return BranchArguments(self.output, [], **names, shape=lambda item: as_literal(shape(item)))

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a mapped task, without those that its author has set."""
        check_limit(self.owner, self.max_concurrency, "branch", given)
        ours: dict[str, Any] = {"max_active_tis_per_dagrun": self.max_concurrency}
        if self.shows_names:
            # Rendered in the task's own process, which has parsed the Dag file.
            group = f"dag.task_group_dict[{self.group_id!r}]"
            ours["map_index_template"] = f"{{{{ {group}.branch_name(ti.map_index) }}}}"
        return {name: value for name, value in ours.items() if value is not None and given.get(name) is None}
