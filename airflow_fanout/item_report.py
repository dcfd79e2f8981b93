"""What became of a batch's items -> plain values that JSON can hold; for the UI."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from airflow_fanout.run_facts import GroupRun

__all__ = ["ItemPage", "ItemReport", "item_page"]


class ItemReport(TypedDict):
    """An item; ``work_seconds`` are those inside its code, None if they were not recorded."""

    name: str
    state: str
    error: str | None
    is_stopped: bool
    work_seconds: float | None


class ItemPage(TypedDict):
    """Some items of a batch; ``start`` is the place of the first among the batch's ``total``."""

    start: int
    total: int
    items: list[ItemReport]


def item_page(run: GroupRun, map_index: int, *, start: int, size: int) -> ItemPage:
    """
    Take some items of one batch, in declared order.

    :param run: The group.
    :param map_index: Number of the batch.
    :param start: Place of the first one.
    :param size: How many, at most.
    """
    its = [item for item in run.branches if item.task_runs and item.task_runs[0].map_index == map_index]
    if run.batches is None:
        its = []
    return ItemPage(
        start=start,
        total=len(its),
        items=[
            ItemReport(
                name=item.name,
                state=item.state,
                error=item.error,
                is_stopped=item.is_stopped,
                work_seconds=item.timing.work_seconds,
            )
            for item in its[start : start + size]
        ],
    )
