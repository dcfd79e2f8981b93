"""Errors reach the fan-in without secrets, and without an exception where the process died."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.run import Run

DAG_ID = "secrets_and_signals"

SECRET = "open-sesame-4711"


@pytest.mark.parametrize("fan_in", ["tolerate", "refuse"])
def test_a_secret_is_masked_in_log_and_report(run: Run, fan_in: str) -> None:
    log, report = run.log(fan_in), json.dumps(run.report(fan_in))
    assert "leak: failed: ConnectionError: login with *** refused" in log
    assert "login with *** refused" in report
    assert SECRET not in log + report


def test_a_secret_is_masked_in_the_branchs_error(run: Run) -> None:
    assert run.collected("tolerate").outcomes["leak"]["error"] == "ConnectionError: login with *** refused"


def test_a_branch_whose_process_dies_has_failed_without_an_exception(run: Run) -> None:
    outcome = run.collected("tolerate").outcomes["die"]
    assert outcome["state"] == "failed"
    assert "no exception was recorded" in outcome["error"]
