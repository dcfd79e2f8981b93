"""Random groups for the truth test: what each is declared to be, and what its branches are told to do."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

__all__ = ["Plan", "plan_of", "seeds"]

VALUES: list[Any] = [None, 0, "", False, [], {}, 1, "text", [1, None], {"a": 1}, 0.5]
PHASES = (1, 2)
"""Before some tasks are cleared, and after."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    One group of the truth test.

    :param at_run_time: Whether a task says how many, or over what.
    :param names: Names of the branches, by phase.
    :param fates: What each branch does, by phase and name; ``{"does": …, "value": …}``.
    """

    seed: int
    mode: str
    kind: str
    origin: str
    at_run_time: bool
    names: dict[int, list[str]]
    fates: dict[int, dict[str, dict[str, Any]]]
    items_per_task: int
    item_concurrency: int
    policy: dict[str, Any]

    @property
    def group_id(self) -> str:
        """Id of its group."""
        return f"g{self.seed}"


def seeds(*, default: str = "0:25") -> range:
    """The seeds of this run: what FANOUT_TRUTH_SEEDS says, the first and how many."""
    first, count = os.environ.get("FANOUT_TRUTH_SEEDS", default).split(":")
    return range(int(first), int(first) + int(count))


def plan_of(seed: int) -> Plan:
    """Make a plan of a seed; always the same."""
    dice = random.Random(seed)
    mode = ("static", "mapped", "batched")[seed % 3]
    kinds = ["function", "task", "pipe", *([] if mode == "batched" else ["operator", "task_group"])]
    kind = dice.choice(kinds)
    origin = dice.choice(["count", "list", "mapping"])
    if kind == "operator" and origin == "count":
        origin = "list"
    at_run_time = mode != "static" and dice.random() < 0.7
    sizes = {phase: dice.choice([0, 1, 2, 3, 4, 5, 6, 7]) for phase in PHASES}
    if not at_run_time:
        sizes[2] = sizes[1]
    label = f"g{seed}"
    names = {
        phase: [f"{label}_{n}" if origin != "mapping" else f"key-{n}" for n in range(size)]
        for phase, size in sizes.items()
    }
    can_be_killed = dice.random() < 0.5
    doings = (
        ["value"] * 6 + ["raise"] * 2 + ["recover"] * 2 + ["skip"] + ["give up"] + ["die"] * can_be_killed
    )
    fates = {
        phase: {name: {"does": dice.choice(doings), "value": dice.choice(VALUES)} for name in names[phase]}
        for phase in PHASES
    }
    policy: dict[str, Any] = dice.choice(
        [{}, {"min_success": 1}, {"min_success_ratio": 0.5}, {"min_success_ratio": 0.28, "min_success": 1}]
    )
    if policy:
        policy = {**policy, "count_skipped": dice.choice(["exclude", "success", "failure"])}
    if not at_run_time and policy.get("min_success", 0) > len(names[1]) > 0:
        policy = {}
    items_per_task = dice.choice([1, 2, 3, 10])
    return Plan(
        seed=seed,
        mode=mode,
        kind=kind,
        origin=origin,
        at_run_time=at_run_time,
        names=names,
        fates=fates,
        items_per_task=items_per_task,
        item_concurrency=min(dice.choice([1, 1, 4]), items_per_task),
        policy=policy,
    )
