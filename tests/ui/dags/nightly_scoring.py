"""A pipeline as it might be: a region for each branch, of which some are slow and some go wrong."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, task

from airflow_fanout import FanInOperator, FanOutGroup

SECONDS = {
    "austria": 2.2,
    "belgium": 3.1,
    "croatia": 1.6,
    "denmark": 2.7,
    "estonia": 1.2,
    "finland": 2.4,
    "france": 9.5,
    "germany": 7.8,
    "hungary": 1.9,
    "ireland": 2.1,
    "italy": 4.4,
    "latvia": 1.4,
}


@task(retries=1, retry_delay=timedelta(seconds=1))
def score(region: str, ti: Any = None, params: Any = None) -> float:
    seconds: float = SECONDS[region] * params["pace"]
    time.sleep(seconds / 2)
    if region == "croatia":
        message = "no prices for 3 of 41 stores: Split, Zadar, Osijek"
        raise ValueError(message)
    if region == "latvia":
        message = "[Errno 111] Connection refused: warehouse.example.com:5432"
        raise ConnectionError(message)
    if region in {"denmark", "italy"} and ti.try_number == 1:
        message = "read timed out"
        raise TimeoutError(message)
    time.sleep(seconds / 2)
    return seconds


with DAG("nightly_scoring", schedule=None, params={"pace": Param(0.5, type="number")}):
    scored = FanOutGroup("score", branch=score, items={name: name for name in SECONDS})
    FanInOperator(task_id="combine", fan_out=scored, min_success_ratio=0.8)
