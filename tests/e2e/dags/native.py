"""Mapped tasks that this package did not make, collected by prefix."""

from __future__ import annotations

from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_fanout import FanInOperator
from tests.e2e.counting import CountingFanIn
from tests.e2e.dump import dump

MANY = 300


class Unit(EmptyOperator):
    """Succeeds without a process of its own, so that hundreds of instances cost nothing."""

    def __init__(self, *, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number


@task
def double(number: int) -> int:
    return 2 * number


@task
def mixed(fate: str, ti: Any = None) -> str | None:
    match fate:
        case "fails after pushing":
            ti.xcom_push("return_value", "too early")
            message = "too late"
            raise ValueError(message)
        case "returns None":
            return None
        case "is skipped":
            raise AirflowSkipException
    return fate


@task
def push_values(ti: Any = None) -> None:
    """Give each instance of `many` a value, in an order that is not theirs."""
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import SetXCom

    for index in reversed(range(MANY)):
        task_runner.SUPERVISOR_COMMS.send(
            SetXCom(
                key="return_value",
                value=2 * index,
                dag_id=ti.dag_id,
                run_id=ti.run_id,
                task_id="many",
                map_index=index,
            )
        )


@task
def list_items(fate: str) -> list[int]:
    match fate:
        case "fails":
            message = "no list today"
            raise ValueError(message)
        case "is skipped":
            raise AirflowSkipException
    return []


with DAG("native", schedule=None):
    fates = ["succeeds", "fails after pushing", "returns None", "is skipped", "succeeds too"]
    mixed.override(task_id="mixed")(fate="plain") >> FanInOperator(
        task_id="collect_plain", task_id_prefix="mixed", python_callable=dump
    )
    mixed.override(task_id="fate").expand(fate=fates) >> CountingFanIn(
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

    double.override(task_id="literally_none").expand(number=[]) >> FanInOperator(
        task_id="collect_literally_none", task_id_prefix="literally_none"
    )
    none = double.override(task_id="none").expand(number=list_items.override(task_id="list_none")("is empty"))
    none >> FanInOperator(task_id="collect_none", task_id_prefix="none")
    none >> FanInOperator(task_id="collect_none_tolerantly", task_id_prefix="none", min_success=1)
    for name, fate in (("unlisted", "fails"), ("unasked", "is skipped")):
        items = list_items.override(task_id=f"list_{name}")(fate)
        double.override(task_id=name).expand(number=items) >> FanInOperator(
            task_id=f"collect_{name}", task_id_prefix=name, min_success=1, on_empty="succeed"
        )
