"""Random groups for the truth test: what each is declared to be, and what its branches are told to do."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

__all__ = ["Plan", "plan_of", "seeds"]

VALUES: list[Any] = [None, 0, "", False, [], {}, 1, "text", [1, None], {"a": 1}, 0.5]
HOSTILE = ("nan", "infinity", "minus infinity", "large", "surrogate", "object", "key")
"""Values that an XCom would change or refuse; the Dag file has them."""
PHASES = (1, 2)
"""Before some tasks are cleared, and after."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    One group of the truth test.

    :param at_run_time: Whether a task says how many, or over what.
    :param names: Names of the branches, by phase.
    :param fates: What each branch does, by phase and name; ``{"does": …, "value": …}``.
    :param again: What is cleared between the phases: ``branches``, with all that comes after them, those of
        ``source``, the task of the items, alone, of ``source and split``, or the ``fan-in`` alone. After the
        second and the third the fan-in alone runs.
    :param item_retries: How often an item of a batch is tried again within its task.
    :param is_combined: Whether each item returns a list with its name and value, and these are joined.
    :param is_edited: Whether the Dag file declares other branches in the second phase.
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
    item_retries: int
    policy: dict[str, Any]
    again: str
    is_edited: bool
    is_combined: bool

    @property
    def group_id(self) -> str:
        """Id of its group."""
        return f"g{self.seed}"

    @property
    def is_split(self) -> bool:
        """Whether a task of the package counts the branches, or cuts their items, in between."""
        return self.mode == "batched" or (self.at_run_time and self.origin == "count")


def seeds(*, default: str = "0:25") -> range:
    """The seeds of this run: what FANOUT_TRUTH_SEEDS says, the first and how many."""
    first, count = os.environ.get("FANOUT_TRUTH_SEEDS", default).split(":")
    return range(int(first), int(first) + int(count))


def plan_of(seed: int) -> Plan:
    """Make a plan of a seed; always the same."""
    dice = random.Random(seed)
    mode = ("static", "mapped", "batched")[seed % 3]
    kinds = ["function", "task", "pipe", *([] if mode == "batched" else ["operator", "ending", "task_group"])]
    kind = dice.choice(kinds)
    origin = dice.choice(["count", "list", "mapping"])
    if kind in {"operator", "ending"} and origin == "count":
        origin = "list"
    at_run_time = mode != "static" and dice.random() < 0.6
    size = dice.choice([0, 1, 2, 3, 4, 5, 6, 7])
    is_edited = not at_run_time and size > 0 and dice.random() < 0.6
    label = f"g{seed}"
    first = [f"{label}_{n}" if origin != "mapping" else f"key-{n}" for n in range(size)]
    names = {1: first, 2: first}
    if at_run_time or is_edited:
        names[2] = _changed(dice, first, label if origin != "mapping" else None, is_edited=is_edited)
    is_split = mode == "batched" or (at_run_time and origin == "count")
    agains = ["branches"]
    if at_run_time:
        agains += ["source", *(["source and split"] if is_split else [])]
    elif is_edited:
        agains += ["fan-in"]
    again = dice.choice(agains)
    items_per_task = dice.choice([1, 2, 3, 10])
    item_concurrency = min(dice.choice([1, 1, 4]), items_per_task)
    can_be_killed = dice.random() < 0.5
    doings = (
        ["value"] * 6 + ["raise"] * 2 + ["recover"] * 2 + ["skip"] + ["give up"] + ["die"] * can_be_killed
    )
    if kind != "ending":
        doings += ["hostile"] * 2
        doings += ["share"] if mode != "batched" or item_concurrency == 1 else []
    fates: dict[int, dict[str, dict[str, Any]]] = {}
    for phase in PHASES:
        fates[phase] = {}
        for name in names[phase]:
            does, value = dice.choice(doings), None if kind == "ending" else dice.choice(VALUES)
            if does == "hostile":
                value = dice.choice(HOSTILE)
            elif does == "share":
                value = [name]
            fates[phase][name] = {"does": does, "value": value}
    policy: dict[str, Any] = dice.choice(
        [{}, {"min_success": 1}, {"min_success_ratio": 0.5}, {"min_success_ratio": 0.28, "min_success": 1}]
    )
    if policy:
        policy = {**policy, "count_skipped": dice.choice(["exclude", "success", "failure"])}
    is_combined = mode == "batched" and dice.random() < 0.5
    for fate in [fate for of_phase in fates.values() for fate in of_phase.values() if is_combined]:
        if fate["does"] == "hostile":  # its error would say where in the list
            fate.update(does="value", value=1)
    return Plan(
        seed=seed,
        mode=mode,
        kind=kind,
        origin=origin,
        at_run_time=at_run_time,
        names=names,
        fates=fates,
        items_per_task=items_per_task,
        item_concurrency=item_concurrency,
        item_retries=seed // 3 % 3 if mode == "batched" else 0,
        policy=policy,
        again=again,
        is_edited=is_edited,
        is_combined=is_combined,
    )


def _changed(dice: random.Random, names: list[str], label: str | None, *, is_edited: bool) -> list[str]:
    """
    Change names: those after a label in their number, others in front, within and in their order.

    :param is_edited: Whether some have to be left, and something has to change.
    """
    if label is not None:
        sizes = [size for size in range(8) if not is_edited or (size > 0 and size != len(names))]
        return [f"{label}_{n}" for n in range(dice.choice(sizes))]
    changed = list(names)
    for _ in range(dice.choice([1, 1, 2])):
        at = dice.randrange(len(changed)) if changed else 0
        match dice.choice(["front", "drop", "turn", "rename"]):
            case "front":
                changed.insert(0, f"add-{len(changed)}")
            case "drop" if len(changed) > 1:
                del changed[at]
            case "turn" if len(changed) > 1:
                changed = changed[at:] + changed[:at] if at else changed[::-1]
            case "rename" if changed:
                changed[at] = f"renamed-{at}"
    if not is_edited:
        return sorted(changed, key=lambda name: (len(name), name))  # as PostgreSQL keeps a mapping
    return changed if changed != names else [*changed, "last"]
