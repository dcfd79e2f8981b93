"""
### Fan-out, fan-in.

One step splits into parallel branches, and one step combines what they return: the pattern itself, scheduled
as a production Dag is. `load_step` hands one text to `process_0 … process_7`, which run at the same time;
`combine` gets `{"process_0": …, …, "process_7": …}`, every branch under its name and in order, whichever
finished first.

`fan_out_fan_in_chosen_count` is the same with the number of branches chosen for each run, in the trigger
form: `count` is a Dag param, so `process.each` is one mapped task, of which the scheduler makes as many
instances as the run asks for. For the fan-in nothing changes, the names least of all.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pendulum
from airflow.sdk import Param, dag, task

from airflow_fanout import FanInOperator, FanOutGroup

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

# `airflow fanout demo` sets these two; a Dag of your own needs neither.
PARALLEL_COUNT = int(os.environ.get("AIRFLOW_FANOUT_DEMO_COUNT", "8"))
WORK_SECONDS = float(os.environ.get("AIRFLOW_FANOUT_DEMO_WORK_SECONDS", "0"))


# [START howto_fan_out_fan_in]
@dag(
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    tags=["airflow-fanout", "example"],
    doc_md=__doc__,
)
def fan_out_fan_in_pipeline() -> None:
    @task
    def load_step() -> str:
        return "Hello from Airflow!"

    @task
    def process_step(input_data: str, index: int) -> str:
        time.sleep(WORK_SECONDS)  # stands for a call to a service
        return f"{input_data} (part {index})"

    def combine_step(results: FanInResults) -> str:
        return ", ".join(f"{name}: {value}" for name, value in results.items())

    process = FanOutGroup(
        "process",
        branch=process_step,
        count=PARALLEL_COUNT,
        partial={"input_data": load_step()},
        prefix_group_id=False,
    )
    FanInOperator(task_id="combine", fan_out=process, python_callable=combine_step)


fan_out_fan_in_pipeline()
# [END howto_fan_out_fan_in]


# [START howto_count_as_a_param]
@dag(
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=30)},
    # What the trigger form shows and accepts; a scheduled run takes the default of the function's parameter.
    params={
        "parallel_count": Param(
            PARALLEL_COUNT,
            type="integer",
            minimum=1,
            maximum=200,
            title="Branches",
            description="Parts that are processed at the same time, as far as Airflow has slots for them.",
        )
    },
    tags=["airflow-fanout", "example"],
    doc_md=__doc__,
)
def fan_out_fan_in_chosen_count(parallel_count: int = PARALLEL_COUNT) -> None:
    @task
    def load_step() -> str:
        return "Hello from Airflow!"

    @task
    def process_step(input_data: str, index: int) -> str:
        time.sleep(WORK_SECONDS)  # stands for a call to a service
        return f"{input_data} (part {index})"

    def combine_step(results: FanInResults) -> str:
        return ", ".join(f"{name}: {value}" for name, value in results.items())

    process = FanOutGroup(
        "process", branch=process_step, count=parallel_count, partial={"input_data": load_step()}
    )
    FanInOperator(task_id="combine", fan_out=process, python_callable=combine_step)


fan_out_fan_in_chosen_count()
# [END howto_count_as_a_param]
