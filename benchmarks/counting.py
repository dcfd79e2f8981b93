"""Counts what a task's ``execute`` asks of the API server; runs in the task's process."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["REQUESTS_KEY", "push_requests", "start_counting"]

REQUESTS_KEY = "requests"
"""XCom key of the requests, by type of message."""

_sent: Counter[str] = Counter()


def start_counting(context: Context) -> None:  # noqa: ARG001 - Airflow's signature
    """Count, from now on, at the one door through which a task's process reaches its supervisor."""
    from airflow.sdk.execution_time.comms import CommsDecoder

    send = CommsDecoder.send

    def counted(comms: CommsDecoder[Any, Any], msg: Any) -> Any:  # Airflow gives it by name here and there
        _sent[type(msg).__name__] += 1
        return send(comms, msg)

    CommsDecoder.send = counted  # type: ignore[assignment, method-assign]  # the process ends with the task


def push_requests(context: Context, result: Any) -> None:  # noqa: ARG001 - Airflow's signature
    """Push what was counted; Airflow pushes the returned value after this."""
    context["ti"].xcom_push(REQUESTS_KEY, dict(_sent))
