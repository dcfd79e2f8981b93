from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
import structlog
from structlog.testing import capture_logs

from airflow_fanout.execution_time.batch import Verdict
from airflow_fanout.execution_time.item_retries import LOGGED, ItemRetries

airflow = pytest.importorskip("airflow.sdk.definitions.retry_policy", reason="Airflow has it from 3.3 on")
NO, BUSY, GONE = ValueError("no"), ConnectionError("429"), LookupError("404")

POLICY = airflow.ExceptionRetryPolicy(
    rules=[
        airflow.RetryRule(ConnectionError, airflow.RetryAction.RETRY, retry_delay=timedelta(seconds=7)),
        airflow.RetryRule(LookupError, airflow.RetryAction.FAIL),
        airflow.RetryRule(OSError, airflow.RetryAction.RETRY),
    ]
)


def retries(most: int = 2, policy: Any = None) -> ItemRetries:
    """Two more tries, after 1 s and 2 s for the first item."""
    return ItemRetries(
        ["a", "b"],
        most=most,
        delay=lambda name, tries: tries * (1 if name == "a" else 10),
        policy=policy,
        context={"ti": "the task's"},
        log=structlog.get_logger(),
    )


def test_an_item_is_tried_again_so_many_times_after_its_own_delay() -> None:
    judge = retries()

    assert [judge(0, NO, tries).delay for tries in (1, 2, 3)] == [1, 2, None]
    assert [judge(1, NO, tries).delay for tries in (1, 2, 3)] == [10, 20, None]


@pytest.mark.parametrize(
    ("exception", "tries", "verdict"),
    [
        pytest.param(BUSY, 1, Verdict(delay=7), id="retry with its delay"),
        pytest.param(BUSY, 3, Verdict(), id="retry after the last try"),
        pytest.param(GONE, 1, Verdict(is_final=True), id="fail"),
        pytest.param(GONE, 3, Verdict(is_final=True), id="fail after the last try"),
        pytest.param(OSError(), 2, Verdict(delay=2), id="retry with the group's delay"),
        pytest.param(NO, 2, Verdict(delay=2), id="default"),
        pytest.param(NO, 3, Verdict(), id="default after the last try"),
    ],
)
def test_a_policy_decides_by_the_items_own_exception(
    exception: Exception, tries: int, verdict: Verdict
) -> None:
    assert retries(policy=POLICY)(0, exception, tries) == verdict


def test_a_policy_is_told_of_the_tries_of_the_item() -> None:
    policy = mock.Mock(spec=airflow.RetryPolicy)
    policy.evaluate.return_value = airflow.RetryDecision.default()
    retries(5, policy)(0, NO, 3)

    policy.evaluate.assert_called_once_with(
        exception=NO, try_number=3, max_tries=5, context={"ti": "the task's"}
    )


@pytest.mark.parametrize("answer", [ZeroDivisionError(), None, "RETRY"], ids=repr)
def test_a_policy_that_fails_decides_nothing(answer: Any) -> None:
    policy = mock.Mock(spec=airflow.RetryPolicy)
    policy.evaluate.side_effect = [answer]
    with capture_logs() as logs:
        assert retries(policy=policy)(0, NO, 1) == Verdict(delay=1)
    assert "The retry policy failed" in str(logs[0])


def test_the_first_tries_again_are_in_the_log() -> None:
    judge = retries(2 * LOGGED)
    with capture_logs() as logs:
        for tries in range(1, 2 * LOGGED):
            judge(0, NO, tries)

    assert len(logs) == LOGGED
    assert logs[1]["event"] == "a failed in try 2, the next comes after 2.0 s: ValueError: no"
