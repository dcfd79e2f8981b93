"""The link from a fan-in to the tab of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


TAB = "fan-out"
"""The tab's name in the address of a run's page."""


class FanOutLink(BaseOperatorLink):
    """A button on the fan-in that opens the tab."""

    name = "Fan-out"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return an address below Airflow's own, which a worker need not know."""
        return f"dags/{quote(ti_key.dag_id, safe='')}/runs/{quote(ti_key.run_id, safe='')}/plugin/{TAB}"
