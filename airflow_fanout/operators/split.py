"""The task before a mapped one: it counts the instances, or cuts items into batches; on the worker."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator, XComArg
from airflow.sdk.configuration import conf

from airflow_fanout.exceptions import ItemsError
from airflow_fanout.execution_time.items import names_and_items, source_and_functions
from airflow_fanout.rules.records import SPLIT_KEY, batch_key
from airflow_fanout.rules.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context, TaskGroup


__all__ = ["SplitOperator", "settings_of_its_own"]

NOT_OF_BRANCHES = (
    "queue",
    "pool",
    "pool_slots",
    "executor",
    "executor_config",
    "resources",
    "execution_timeout",
    "max_active_tis_per_dag",
    "max_active_tis_per_dagrun",
    "pre_execute",
    "post_execute",
)
"""What a group's ``default_args`` say of the branches and not of this task."""


def settings_of_its_own(group: TaskGroup) -> dict[str, Any]:
    """
    Settings that the task takes from around its group, and not from the group.

    :param group: The group, whose ``default_args`` Airflow has merged with those of its parents.
    """
    around = {**(group.dag.default_args or {}), **(getattr(group.parent_group, "default_args", None) or {})}
    usual = inspect.signature(BaseOperator.__init__).parameters
    return {
        name: around[name] if name in around else usual[name].default
        for name in NOT_OF_BRANCHES
        if name in group.default_args
    }


class SplitOperator(BaseOperator):
    """
    Return what a mapped task is expanded over, so that each instance gets no more than its own.

    Without ``items_per_task``: ``[0, 1, …]``, an index for each instance. With it: ``[[0, 500], [500, 1000],
    …]``, the places of each batch's items; items known only at run time are pushed batch by batch, as XComs
    ``batch_0``, ``batch_1``, …: ``{"names": [name, …] or None, "items": [item, …]}``, as they are before a
    ``.map()``, which each batch applies to its own. The XCom ``fan_out_split`` differs each time: it tells
    batches that this task has run again since they saved results.

    :param count: How many there are; a number, a Dag param or the output of a task. (templated)
    :param items: Or the output of a task that returns them.
    :param items_per_task: Items of one batch.
    """

    template_fields: Sequence[str] = ("count",)
    ui_color = "#e1e8f0"

    def __init__(
        self,
        *,
        count: Any = None,
        items: XComArg | None = None,
        items_per_task: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**kwargs, "do_xcom_push": True})  # whatever default_args say of the branches
        self.count = count
        self.items = items
        self.items_per_task = items_per_task
        if items is not None:  # no template field: Airflow would show all of them in the UI
            XComArg.apply_upstream_relationship(self, items)

    def execute(self, context: Context) -> Any:
        """Count, and cut."""
        from airflow_fanout.execution_time.items import whole

        owner = f"FanOutGroup {getattr(self.task_group, 'group_id', None)!r}"
        ti: Any = context["ti"]
        if self.items is None:
            total = self._checked_count(owner)
            if self.items_per_task is None:
                return list(range(total))
            places = self._places(owner, total)
        else:
            source, _ = source_and_functions(self.items)
            found: Any = whole(source.resolve(context))
            names, items = names_and_items(owner, found)
            places = self._places(owner, len(items))
            for number, (start, stop) in enumerate(places):
                payload: Mapping[str, Any] = {
                    "names": None if names is None else list(names[start:stop]),
                    "items": list(items[start:stop]),
                }
                ti.xcom_push(batch_key(number), payload)
        ti.xcom_push(SPLIT_KEY, str(ti.id))
        return places

    def _checked_count(self, owner: str) -> int:
        count: object = self.count
        if isinstance(count, str) and count.strip().isdecimal():
            count = int(count)  # a template renders texts
        if isinstance(count, bool) or not isinstance(count, int):
            message = (
                f"{owner}: count: expected a whole number of branches, found {count!r} of type "
                f"{type(count).__name__}"
            )
            raise ItemsError(message)
        if count < 0:
            message = f"{owner}: count: expected 0 or more branches, found {count}"
            raise ItemsError(message)
        if self.items_per_task is None:
            self._refuse_too_many(
                owner, count, "branches, an instance of a mapped task each", "give items_per_task="
            )
        return count

    def _places(self, owner: str, total: int) -> list[list[int]]:
        size = self.items_per_task or 1
        places = [[start, min(start + size, total)] for start in range(0, total, size)]
        batches = counted(len(places), "batch", "batches")
        self.log.info("%s in %s of up to %s", counted(total, "item", "items"), batches, size)
        self._refuse_too_many(owner, len(places), f"batches of {size} items", "raise items_per_task=")
        return places

    @staticmethod
    def _refuse_too_many(owner: str, number: int, what: str, way_out: str) -> None:
        most = conf.getint("core", "max_map_length")
        if number > most:
            message = (
                f"{owner}: {number} {what}, are more than the {most} that [core] max_map_length allows; "
                f"{way_out} or raise that"
            )
            raise ItemsError(message)
