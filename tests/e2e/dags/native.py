"""Tasks that this package did not make, collected by prefix: what that takes, leaves out and refuses."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task

from airflow_fanout import FanInOperator
from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump
from tests.e2e.fates import act, do

MANY = 300
RETRIES = {"retries": 2, "retry_delay": timedelta(milliseconds=100)}


class Unit(EmptyOperator):
    """Succeeds without a process of its own, so that hundreds of instances cost nothing."""

    def __init__(self, *, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number


@task
def double(number: int) -> int:
    return 2 * number


@task
def push_values(ti: Any = None) -> None:
    """Give each instance of `many` a value, in an order that is not theirs."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import SetXCom

    run: Any = {"dag_id": ti.dag_id, "run_id": ti.run_id, "task_id": "many"}
    for index in reversed(range(MANY)):
        pushed = SetXCom(key="return_value", value=2 * index, map_index=index, **run)
        task_runner.SUPERVISOR_COMMS.send(pushed)


@task
def list_items(fate: str, ti: Any = None) -> list[int]:
    act(fate, ti)
    return []


def texts(prefix: str, *names: Any) -> list[Any]:
    """Tasks that return the rest of their ids."""
    return [do.override(task_id=f"{prefix}_{name}")(str(name)) for name in names]


with DAG("native", schedule=None, params={"prefix": "part_1"}):
    combine = FanInOperator(task_id="process_combine", task_id_prefix="process_")
    texts("process", "b", "a") >> combine
    combine >> texts("process", "report")

    stray = texts("stray", "a", "b")
    texts("stray", "other")  # not wired
    stray >> CountingFanIn(task_id="collect_stray", task_id_prefix="stray_", default_args=RETRIES)
    stray >> CountingFanIn(task_id="collect_nothing", task_id_prefix="nothing_", default_args=RETRIES)

    parts = texts("part", 10, 2, 1)
    parts[0] >> FanInOperator(task_id="collect_parts", task_id_prefix="{{ params.prefix }}") << parts[2]

    fates = ["succeeds", "pushes and fails", None, "is skipped", "succeeds too"]
    do.override(task_id="fate").expand(fate=fates) >> CountingFanIn(
        task_id="collect_fates", task_id_prefix="fate", min_success=3, python_callable=dump
    )
    double.override(task_id="once").expand(number=[21]) >> FanInOperator(
        task_id="collect_once", task_id_prefix="once"
    )
    double.override(task_id="few").expand(number=list(range(3))) >> CountingFanIn(
        task_id="collect_few", task_id_prefix="few"
    )
    collect_many = CountingFanIn(task_id="collect_many", task_id_prefix="many")
    many = Unit.partial(task_id="many").expand(number=list(range(MANY)))
    many >> push_values() >> collect_many
    many >> collect_many

    none = double.override(task_id="none").expand(number=list_items.override(task_id="list_none")("is empty"))
    none >> FanInOperator(task_id="collect_none", task_id_prefix="none")
    none >> FanInOperator(task_id="collect_none_tolerantly", task_id_prefix="none", min_success=1)
    for name, fate in (("unlisted", "fails"), ("unasked", "is skipped")):
        items = list_items.override(task_id=f"list_{name}")(fate)
        double.override(task_id=name).expand(number=items) >> FanInOperator(
            task_id=f"collect_{name}", task_id_prefix=name, min_success=1, on_empty="succeed"
        )
