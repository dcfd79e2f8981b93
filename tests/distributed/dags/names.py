"""Runs whose branches are declared anew: the Dag file is another, or the task of the items runs again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump

if TYPE_CHECKING:
    from collections.abc import Callable

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
RAN = SCRATCH / "ran.jsonl"
"""What ran: a line for each call of a branch."""


def act(text: str, ti: Any) -> str:
    """Note that this ran; ``fr`` fails until its run is mended."""
    group, _, _ = ti.task_id.partition(".")
    event = {"run": ti.run_id, "group": group, "map_index": ti.map_index, "text": text}
    with RAN.open("a") as file:
        file.write(json.dumps(event) + "\n")
    if text == "fr" and not (SCRATCH / f"{ti.run_id}.mended").exists():
        message = f"{text} is broken"
        raise ValueError(message)
    return text.upper()


def upper(text: str, ti: Any = None) -> str:
    return act(text, ti)


def function_of(text: str) -> Callable[..., str]:
    def function(ti: Any = None) -> str:
        return act(text, ti)

    return function


def collect(group: FanOutGroup) -> None:
    fan_in = f"collect_{group.group_id}"
    FanInOperator(task_id=fan_in, fan_out=group, min_success=0, python_callable=dump)


DECLARED = {
    "gained_mapped": ["de", "fr", "us"],
    "dropped_mapped": ["at", "de", "fr", "us"],
    "reordered_mapped": ["de", "fr", "us"],
    "renamed_mapped": ["de", "fr", "us"],
    "gained_listed": ["de", "fr", "us"],
    "dropped_listed": ["at", "de", "fr", "us"],
    "gained_batched": ["de", "fr", "us"],
    "renamed_batched": ["de", "fr", "us"],
    "dropped_functions": ["at", "de", "fr", "us"],
    "reordered_functions": ["de", "fr", "us"],
    "shrunk_static": ["shard_0", "shard_1", "shard_2"],
    "shrunk_mapped": ["shard_0", "shard_1", "shard_2"],
    "shrunk_batched": ["shard_0", "shard_1", "shard_2"],
}  # The test changes these lines.


def declare(group_id: str, names: list[str]) -> FanOutGroup:
    change, _, mode = group_id.partition("_")
    items = {name: name for name in names}
    if mode == "functions":
        functions = {name: function_of(name) for name in names}
        return FanOutGroup(group_id, branch=functions, items_per_task=2)
    arguments: dict[str, dict[str, Any]] = {
        "static": {"items": items},
        "mapped": {"items": items, "mapped": True},
        "listed": {"items": names, "mapped": True},
        "batched": {"items": items, "items_per_task": 1 if change == "shrunk" else 2},
    }
    return FanOutGroup(group_id, branch=upper, **arguments[mode])


with DAG("names_declared", schedule=None):
    for declared_id, names in DECLARED.items():
        collect(declare(declared_id, names))


@task
def letters(text: str) -> list[str]:
    return list(text)


@task
def joined(texts: list[str]) -> str:
    return "".join(texts).upper()


@task_group
def steps(text: str) -> Any:
    return joined(letters(text))


def number(index: int) -> int:
    return index


def capitals(text: str) -> str:
    return text.upper()


AT_FIRST = ["de", "fr", "us"]
YIELDED = {
    "longer": ["at", "de", "fr", "us", "xx"],
    "shorter": ["us"],
    "other": ["at", "us", "xx"],
}
"""What the items' task yields from its second try on: sorted, as PostgreSQL keeps a mapping."""
SOURCES = {
    "longer_mapped_list": ("longer", "mapped", "list"),
    "shorter_mapped_mapping": ("shorter", "mapped", "mapping"),
    "other_mapped_mapping": ("other", "mapped", "mapping"),
    "longer_mapped_count": ("longer", "mapped", "count"),
    "shorter_batched_list": ("shorter", "batched", "list"),
    "longer_batched_mapping": ("longer", "batched", "mapping"),
    "other_batched_mapping": ("other", "batched", "mapping"),
    "shorter_batched_count": ("shorter", "batched", "count"),
    "other_steps_mapping": ("other", "steps", "mapping"),
    "longer_steps_mapping": ("longer", "steps", "mapping"),
}
"""How what is yielded changes, how it is run, and what is yielded, by group."""


def tell(change: str, origin: str, ti: Any = None) -> Any:
    texts = AT_FIRST if ti.try_number == 1 else YIELDED[change]
    return {"list": texts, "mapping": {text: text for text in texts}, "count": len(texts)}[origin]


with DAG("names_yielded", schedule=None):
    for yielded_id, (change, mode, origin) in SOURCES.items():
        source: Any = task(task_id=f"tell_{yielded_id}")(tell)(change, origin)
        branch: Any = steps if mode == "steps" else number if origin == "count" else capitals
        declared: Any = {"count" if origin == "count" else "items": source}
        declared |= {"items_per_task": 2} if mode == "batched" else {}
        collect(FanOutGroup(yielded_id, branch=branch, **declared))
