"""Groups that fail until something is mended, for ``airflow fanout rerun``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task, task_group

from airflow_fanout import FanInOperator, FanOutGroup

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))


def act(what: str, *, fails: bool) -> str:
    """Note that it ran, and fail unless it was mended."""
    with (SCRATCH / "rerun-ran").open("a") as file:
        file.write(f"{what}\n")
    if fails and not (SCRATCH / "rerun-mended").exists():
        message = f"{what} is broken"
        raise ValueError(message)
    return what


@task
def extract(index: int) -> int:
    return index


@task
def load(index: int) -> str:
    return act(f"chain {index}", fails=index == 1)


@task_group
def chain(index: int) -> Any:
    return load(extract(index))


@task
def item(index: int) -> str:
    return act(f"item {index}", fails=index in {5, 6})


@task
def list_texts() -> list[str]:
    act("list", fails=True)
    return ["a", "b"]


@task
def upper(text: str) -> str:
    return text.upper()


@task
def stoppable(index: int) -> str:
    return act(f"stoppable {index}", fails=index == 0)


@task
def make() -> None: ...


@task
def drop() -> None: ...


@task
def work(index: int) -> str:
    return act(f"work {index}", fails=index == 1)


@task_group
def on_cluster(index: int) -> Any:
    made, worked = make().as_setup(), work(index)
    made >> worked >> drop().as_teardown(setups=made)
    return worked


@task
def publish(names: list[str]) -> str:
    return ", ".join(names)


with DAG("rerun", schedule=None):
    chains = FanOutGroup("chains", branch=chain, count=3)
    publish(FanInOperator(task_id="collect_chains", fan_out=chains, python_callable=list).output)

    items = FanOutGroup("items", branch=item, count=12, items_per_task=4)
    FanInOperator(task_id="collect_items", fan_out=items)

    texts = FanOutGroup("texts", branch=upper, items=list_texts())
    FanInOperator(task_id="collect_texts", fan_out=texts)

    stops = FanOutGroup(
        "stops", branch=stoppable, count=4, mapped=True, max_concurrency=1, stop_after_failures=1
    )
    FanInOperator(task_id="collect_stops", fan_out=stops)

    clusters = FanOutGroup("clusters", branch=on_cluster, count=2)
    FanInOperator(task_id="collect_clusters", fan_out=clusters)
