"""How many items there are, and in how many tasks: for the benchmarks' Dags and for what runs them."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = [
    "FIXED_LOOPS",
    "INSTANCES",
    "LOOPS",
    "SIZES",
    "ItemSize",
    "as_text",
    "expected_sum",
    "item_sizes",
    "items_dag_id",
    "ranges",
]

SIZES = "FANOUT_BENCHMARK_ITEMS"
"""Environment variable: ``count:items_per_task`` of each size, with commas between."""

LOOPS = "in_loops_by_hand"
"""End of the id of a Dag whose tasks each loop over a range of items, whose number is known at run time."""

FIXED_LOOPS = "in_fixed_loops_by_hand"
"""The same, with ranges that stand in the Dag file."""

INSTANCES = "in_instances_by_hand"
"""End of the id of a Dag that gives each item an instance of a mapped task."""


@dataclass(frozen=True, kw_only=True)
class ItemSize:
    """
    So many items, in so many tasks.

    :param count: Number of items.
    :param items_per_task: Items of one task.
    """

    count: int
    items_per_task: int

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return -(-self.count // self.items_per_task)


def as_text(sizes: list[ItemSize]) -> str:
    """Put sizes into the environment variable's form."""
    return ",".join(f"{size.count}:{size.items_per_task}" for size in sizes)


def item_sizes() -> list[ItemSize]:
    """Sizes that the environment variable tells."""
    told = (each.split(":") for each in os.environ[SIZES].split(","))
    return [ItemSize(count=int(count), items_per_task=int(items)) for count, items in told]


def items_dag_id(count: int, ending: str) -> str:
    """Id of the Dag that runs so many items."""
    return f"items_{count}_{ending}"


def ranges(size: ItemSize) -> list[list[int]]:
    """Cut the items' places into one range for each task: ``[[start, stop], …]``."""
    return [
        [start, min(start + size.items_per_task, size.count)]
        for start in range(0, size.count, size.items_per_task)
    ]


def expected_sum(count: int) -> int:
    """What the items' doubled places add up to."""
    return count * (count - 1)
