"""Groups whose XComs lie in object storage, of which some are taken away before the fan-ins read them."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import httpx
from airflow.sdk import DAG, ObjectStoragePath, task
from airflow.sdk.execution_time.xcom import XCom

from airflow_fanout import FanInOperator, FanInResults, FanOutGroup
from tests.e2e.counting import CountingFanIn
from tests.e2e.telling import TellingFanIn

if TYPE_CHECKING:
    from airflow.sdk import Context

BRANCHES = 64
BODIES_AT_ONCE = 16
ARTIFACT_SIZE = 1_000_000
TEMPLATE = "{{ 7 * 7 }}"
NO_DELAY: dict[str, Any] = {"retry_delay": timedelta(0)}


def artifact(index: int) -> str:
    """A megabyte that nobody else has."""
    return random.Random(index).randbytes(ARTIFACT_SIZE // 2).hex()


def make_artifact(index: int) -> dict[str, Any]:
    return {"index": index, "text": artifact(index)}


class MeasuringFanIn(CountingFanIn):
    """A fan-in that reads bodies only as many at once as should be, and pushes an XCom ``bodies``."""

    def execute(self, context: Context) -> Any:
        """Let none of 16 go on before all are there."""
        together, lock = threading.Barrier(BODIES_AT_ONCE), threading.Lock()
        read, now, peak = 0, 0, 0
        deserialize = XCom.deserialize_value

        def measured(row: Any) -> Any:
            nonlocal read, now, peak
            with lock:
                read, now = read + 1, now + 1
                peak = max(peak, now)
            try:
                together.wait(timeout=60)
                return deserialize(row)
            finally:
                with lock:
                    now -= 1

        try:
            with patch.object(XCom, "deserialize_value", measured):
                return super().execute(context)
        finally:
            context["ti"].xcom_push("bodies", {"read": read, "peak": peak})


@task
def say_template() -> str:
    return TEMPLATE


def checksums(results: FanInResults) -> list[Any]:
    return [
        [name, value["index"], hashlib.sha256(value["text"].encode()).hexdigest()]
        for name, value in results.items()
    ]


with DAG("storage_artifacts", schedule=None):
    process = FanOutGroup("process", branch=make_artifact, count=BRANCHES)
    MeasuringFanIn(task_id="combine", fan_out=process, python_callable=checksums)
    FanInOperator(
        task_id="said",
        fan_out=FanOutGroup("echo", branch=lambda item: item, items=[1]),
        python_callable=lambda results, said: said,
        op_kwargs={"said": say_template()},
    )


def reference(ti: Any, task_id: str, key: str = "return_value", map_index: int = -1) -> ObjectStoragePath:
    """Where the body of an XCom of this run lies."""
    found = XCom._get_xcom_db_ref(
        key=key, dag_id=ti.dag_id, task_id=task_id, run_id=ti.run_id, map_index=map_index
    )
    return ObjectStoragePath(found.value)


@task
def numbers() -> list[int]:
    return [0, 1, 2, 3]


@task
def letters() -> dict[str, str]:
    return dict.fromkeys("abcd", TEMPLATE)


def tell_try(item: str, ti: Any) -> list[Any]:
    return [item, ti.try_number]


def fail_once(name: str, ti: Any) -> int:
    if name == "c" and ti.try_number == 1:
        message = "not yet"
        raise ValueError(message)
    return int(ti.try_number)


@task
def names() -> dict[str, str]:
    return {name: name for name in "abcd"}


def speak(number: int) -> str | None:
    """Return nothing, return something, fail."""
    if number % 3 == 2:
        message = "broken"
        raise ValueError(message)
    return "said" if number % 3 else None


@task(trigger_rule="all_done")
def take_away(ti: Any = None) -> None:
    """Do what a lifecycle rule, or somebody with a browser, may do to a bucket."""
    record = "fan_out_branch"
    for gone in (
        reference(ti, "kept.kept_1"),
        reference(ti, "each.each", map_index=2),
        reference(ti, "many.each", map_index=0),
        *(reference(ti, f"silent.silent_{number}", record) for number in range(3)),
        *(reference(ti, "silent_each.each", record, number) for number in (0, 2)),
        reference(ti, "silent_many.each", record, 0),
        reference(ti, "lost.split"),
    ):
        gone.unlink()
    reference(ti, "damaged.damaged_1").write_bytes(b'{"n": ')


with DAG("storage_gone", schedule=None, default_args=NO_DELAY):
    once: Any = {"retries": 1}
    groups = [
        FanOutGroup("kept", branch=lambda index: index, count=3),
        FanOutGroup("each", branch=tell_try, items=letters()),
        FanOutGroup("many", branch=fail_once, items=names(), items_per_task=2, default_args=once),
        FanOutGroup("silent", branch=speak, items=[0, 1, 2]),
        FanOutGroup("silent_each", branch=speak, items=numbers()),
        FanOutGroup("silent_many", branch=lambda index: index, count=4, items_per_task=2),
        FanOutGroup("lost", branch=lambda index: index, count=2, items_per_task=1),
        FanOutGroup("damaged", branch=lambda index: index, count=2),
    ]
    taken = take_away()
    for group in groups:
        group >> taken >> TellingFanIn(task_id=f"tell_{group.group_id}", fan_out=group)


@task.python(do_xcom_push=False)
def deny() -> None:
    """Let the storage refuse everything from now on."""
    httpx.post(os.environ["FANOUT_STORAGE_ADMIN"], content=b"0").raise_for_status()


with DAG("storage_denied", schedule=None, default_args=NO_DELAY):
    allowed = FanOutGroup("allowed", branch=lambda index: index, count=2)
    allowed >> deny() >> FanInOperator(task_id="combine", fan_out=allowed)
