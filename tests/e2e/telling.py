"""A fan-in that tells what it was given; runs in the tasks of the test Dags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from airflow_fanout import FanInOperator
from airflow_fanout.execution_time.accounting import settle
from tests.e2e.dump import dump

if TYPE_CHECKING:
    from airflow_fanout import FanInResults
    from airflow_fanout.execution_time.accounting import Judgement
    from airflow_fanout.rules.policy import Policy

__all__ = ["TellingFanIn"]


class TellingFanIn(FanInOperator):
    """A fan-in that pushes an XCom ``given``, what its function is or would be given, whatever it decides."""

    def execute(self, context: Any) -> Any:
        """Tell, where the fan-in passes on its verdict."""

        def tell(policy: Policy, results: FanInResults, judgement: Judgement) -> None:
            if judgement.upstream_failure is None:
                context["ti"].xcom_push("given", dump(results))
            settle(policy, results, judgement)

        with patch("airflow_fanout.execution_time.accounting.settle", tell):
            return super().execute(context)
