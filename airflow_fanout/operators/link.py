"""The link from a fan-in to the tab of its run; made on the worker when the fan-in has run."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


__all__ = ["TAB", "FanOutLink"]

TAB = "fan-out"
"""The tab's place in the address of a run's page."""


class FanOutLink(BaseOperatorLink):
    """A button on the fan-in that opens the tab."""

    name = "Fan-out"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        Give the address below Airflow's own, whatever that is: a worker need not know it.

        :param operator: The fan-in.
        :param ti_key: Its task instance.
        """
        return f"dags/{quote(ti_key.dag_id, safe='')}/runs/{quote(ti_key.run_id, safe='')}/plugin/{TAB}"
