"""A fan-in that counts what it asks of the API server; runs in the tasks of the test Dags."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow.sdk.execution_time.comms import CommsDecoder

from airflow_fanout import FanInOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

__all__ = ["CountingFanIn"]


class CountingFanIn(FanInOperator):
    """A fan-in that pushes an XCom ``requests``: the messages that ``execute`` sent, by type."""

    def execute(self, context: Context) -> Any:
        """Count at the one door through which a task's process can reach its supervisor."""
        sent: Counter[str] = Counter()
        send = CommsDecoder.send

        def counted(comms: CommsDecoder[Any, Any], msg: Any) -> Any:
            sent[type(msg).__name__] += 1
            return send(comms, msg)

        try:
            with patch.object(CommsDecoder, "send", counted):
                return super().execute(context)
        finally:
            context["ti"].xcom_push("requests", dict(sent))
