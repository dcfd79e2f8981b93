"""Groups and fan-ins for the test of ``simulate``: what each is declared to be, and what becomes of it."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from typing import Any

__all__ = ["DAG_IDS", "KEY", "PLANS", "Case", "Plan", "plans_of"]

DAG_COUNT = 4
DAG_IDS = [f"simulated_{number}" for number in range(DAG_COUNT)]
KEY = "rows"
SEED = os.environ.get("FANOUT_SIMULATED_SEED", "0")

SHAPES = {
    "static": ["plain", "chain", "blocked", "zero", "stop", "keyed", "foreign"],
    "mapped": ["literal", "list", "mapping", "items failed", "items skipped", "zero", "stop", "keyed"],
    "batched": ["literal", "count", "mapping", "items failed", "items skipped", "zero", "stop"],
}
FATES = {
    "keyed": ["value"] * 4 + ["missing"] * 2 + ["raise", "skip"],
    "blocked": ["value"] * 5 + ["none", "raise", "give up", "skip", "die"] + ["blocked"] * 5,
}
VALUES: list[Any] = [0, "", False, [], {}, 1, "text", [1, None], {"a": 1}, 0.5]
RATIOS = [0.2, 0.28, 0.5, 0.67, 1]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fan-in: its tolerance, the name of its function, and what comes before it."""

    task_id: str
    policy: dict[str, Any]
    function: str | None
    by_prefix: bool
    after_other: bool


@dataclass(frozen=True, kw_only=True)
class Plan:
    """
    One group, with its fan-ins.

    :param shape: What is special about it.
    :param fates: What becomes of each branch, by name.
    :param values: What it returns if its fate is ``value``.
    :param other: What becomes of a task that is no branch: ``failed`` or ``skipped``.
    """

    group_id: str
    mode: str
    shape: str
    names: list[str]
    fates: dict[str, str]
    values: dict[str, Any]
    other: str
    items_per_task: int
    cases: list[Case]

    @property
    def at_run_time(self) -> bool:
        """Whether a task says how many, or over what."""
        return self.mode != "static" and self.shape not in {"literal", "stop", "keyed"}

    @property
    def never_expands(self) -> bool:
        """Whether the task that says so fails, or is skipped."""
        return self.shape.startswith("items ")


def fates_of(mode: str, shape: str, names: list[str], dice: random.Random) -> dict[str, str]:
    if shape == "stop":
        failing = dice.randrange(len(names) - 1)
        before = {name: dice.choice(["value", "none", "skip"]) for name in names[:failing]}
        return {**before, names[failing]: "raise", **dict.fromkeys(names[failing + 1 :], "stopped")}
    usual = ["value"] * 5 + ["none"] * 2 + ["raise", "raise", "give up", "skip", "skip"]
    fates = FATES.get(shape, usual if mode == "batched" else [*usual, "die"])
    return {name: dice.choice(fates) for name in names}


def policy_of(size: int, dice: random.Random) -> dict[str, Any]:
    policy: dict[str, Any] = {}
    if dice.random() < 0.5:
        policy["min_success"] = dice.randint(1, max(size, 1))
    if dice.random() < 0.4:
        policy["min_success_ratio"] = dice.choice(RATIOS)
    if policy:
        policy["count_skipped"] = dice.choice(["exclude", "success", "failure"])
    policy["on_empty"] = dice.choice([None, "succeed", "fail", "skip"])
    return policy


def plan_of(mode: str, shape: str) -> Plan:
    """Make a plan; always the same."""
    dice = random.Random(f"{SEED} {mode} {shape}")
    group_id = f"{mode}_{shape.replace(' ', '_')}"
    size = 0 if shape == "zero" else dice.randint(3, 5)
    names = [f"key-{n}" if shape == "mapping" else f"{group_id}_{n}" for n in range(size)]
    cases = [
        Case(
            task_id=f"collect_{group_id}_{number}",
            policy=policy_of(size, dice),
            function=dice.choice([None, None, None, "say_all", "say_ds", "refuse", "give_way"]),
            by_prefix=shape == "foreign" or dice.random() < 0.25,
            after_other=dice.random() < 0.15,
        )
        for number in range(5 if shape.startswith("items ") else 10)
    ]
    return Plan(
        group_id=group_id,
        mode=mode,
        shape=shape,
        names=names,
        fates=fates_of(mode, shape, names, dice),
        values={name: dice.choice(VALUES) for name in names},
        other=dice.choice(["failed", "skipped"]),
        items_per_task=10 if shape == "stop" else 2,
        cases=cases,
    )


PLANS = [plan_of(mode, shape) for mode, shapes in SHAPES.items() for shape in shapes]


def plans_of(dag_id: str) -> list[Plan]:
    """The plans of one Dag."""
    return PLANS[DAG_IDS.index(dag_id) :: DAG_COUNT]
