"""A group whose 300 names are too long for a template field, and in no order that could be guessed."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator, FanOutGroup
from tests.e2e.dump import dump

NAMES = [f"document_{(number * 7) % 300}_of_the_archive_that_was_scanned_last_year" for number in range(300)]
FATES = {0: "fails", 1: "is skipped", 150: "150", 298: "298", 299: "299"}


@task
def refuse() -> str:
    message = "closed"
    raise ValueError(message)


@task
def read(fate: str) -> str:
    match fate:
        case "fails":
            message = "unreadable"
            raise ValueError(message)
        case "is skipped":
            raise AirflowSkipException
    return fate


with DAG("many_names", schedule=None):
    # All but five wait for a task that fails: they end without a process of their own.
    closed = refuse()
    items: dict[str, Any] = {name: FATES.get(place, closed) for place, name in enumerate(NAMES)}
    documents = FanOutGroup("documents", branch=read, items=items)
    FanInOperator(task_id="tolerate", fan_out=documents, min_success=3, python_callable=dump)
    FanInOperator(task_id="refuse_all", fan_out=documents)
