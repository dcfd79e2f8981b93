"""Items that an earlier run has done; what changes from run to run comes with its conf, and from a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.storage import Reuse
from tests.e2e.dump import dump

SCRATCH = Path(os.environ.get("FANOUT_E2E_SCRATCH", "."))
VERSION = SCRATCH / "reuse-version"


@task
def load(dag_run: Any = None) -> dict[str, Any]:
    numbers = {f"number_{index}": index for index in range(20)}
    return {**numbers, **dag_run.conf.get("items", {})}


def score(item: int, lang: str) -> dict[str, Any]:
    with (SCRATCH / "reuse-calls").open("a") as calls:
        calls.write(f"{item}\n")
    return {"item": item, "lang": lang}


with DAG("reuse", schedule=None):
    items = FanOutGroup(
        "score",
        branch=score,
        items=load(),
        items_per_task=5,
        partial={"lang": "{{ dag_run.conf.get('lang', 'en') }}"},
        reuse=Reuse(
            str(SCRATCH / "{{ dag.dag_id }}-store"),
            version=VERSION.read_text() if VERSION.exists() else "1",
        ),
    )
    FanInOperator(task_id="collect", fan_out=items, python_callable=dump)
