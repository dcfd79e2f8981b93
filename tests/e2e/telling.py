"""A fan-in that tells what it was given; runs in the tasks of the test Dags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow_fanout import FanInOperator
from airflow_fanout.accounting import pass_on
from tests.e2e.dump import dump

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

__all__ = ["TellingFanIn"]


class TellingFanIn(FanInOperator):
    """A fan-in that pushes an XCom ``given``, what its function is or would be given, whatever it decides."""

    def execute(self, context: Any) -> Any:
        """Tell, where the fan-in passes on its verdict."""

        def tell(fan_in: FanInOperator, verdict: Any, report: Any, results: FanInResults) -> None:
            context["ti"].xcom_push("given", dump(results))
            pass_on(fan_in, verdict, report, results)

        with patch("airflow_fanout.accounting.pass_on", tell):
            return super().execute(context)
