from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.run import Collected, Run

pytestmark = pytest.mark.e2e

SECRET = "open-sesame-4711"


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("secrets_and_signals")


@pytest.fixture(scope="module")
def tolerated(run: Run) -> Collected:
    return run.collected("tolerate")


def test_a_secret_is_masked_in_the_branchs_error(tolerated: Collected) -> None:
    assert tolerated.outcomes["leak"]["error"] == "ConnectionError: login with *** refused"


@pytest.mark.parametrize("fan_in", ["tolerate", "refuse"])
def test_a_secret_is_masked_in_the_fan_ins_log(run: Run, fan_in: str) -> None:
    log = run.log(fan_in)
    assert "leak: failed: ConnectionError: login with *** refused" in log
    assert SECRET not in log


@pytest.mark.parametrize("fan_in", ["tolerate", "refuse"])
def test_a_secret_is_masked_in_the_report(run: Run, fan_in: str) -> None:
    report = json.dumps(run.report(fan_in))
    assert "login with *** refused" in report
    assert SECRET not in report


def test_a_branch_whose_process_dies_has_failed_without_an_exception(tolerated: Collected) -> None:
    outcome = tolerated.outcomes["die"]
    assert outcome["state"] == "failed"
    assert "no exception was recorded" in outcome["error"]
