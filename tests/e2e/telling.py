"""A fan-in that tells what it was given; runs in the tasks of the test Dags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from airflow_fanout import FanInOperator
from tests.e2e.dump import dump

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

__all__ = ["TellingFanIn"]


class TellingFanIn(FanInOperator):
    """A fan-in that pushes an XCom ``given``, what its function is or would be given, whatever it decides."""

    def _pass_on(self, verdict: Any, report: Any, results: FanInResults) -> None:
        get_current_context()["ti"].xcom_push("given", dump(results))
        super()._pass_on(verdict, report, results)
