"""Verdicts as the scheduler sees them; each fan-in has two retries that it must not use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Run

DAG_ID = "policy"
NAMES = [f"document_{(number * 7) % 300}_of_the_archive_that_was_scanned_last_year" for number in range(300)]


@pytest.mark.parametrize(
    ("fan_in", "state", "logged"),
    [
        ("mixed_2", "success", "Degraded: 2 of 4 branches succeeded, 2 needed"),
        ("mixed_all", "failed", "leak: failed: ConnectionError: login with *** refused"),
        ("skips", "skipped", ""),
        ("zero_default", "success", ""),
        ("zero_by_prefix", "skipped", ""),
        ("zero_before_fails", "failed", "'before_zero_fails'"),
        ("zero_before_is_skipped", "skipped", ""),
        ("collect_beside_fails", "failed", "'beside_fails'"),
        ("collect_beside_is_skipped", "skipped", "'beside_is_skipped'"),
    ],
)
def test_a_verdict_is_reached_in_one_try(run: Run, fan_in: str, state: str, logged: str) -> None:
    assert (run.instance(fan_in).state, run.instance(fan_in).try_number) == (state, 1)
    assert logged in run.log(fan_in)


@pytest.mark.parametrize(
    ("fan_in", "counts"),
    [("mixed_2", (5, 4, 2, 2, 1)), ("mixed_all", (5, 4, 2, 2, 1)), ("skips", (2, 0, 0, 0, 2))],
)
def test_the_report_is_pushed_whatever_the_verdict(run: Run, fan_in: str, counts: tuple[int, ...]) -> None:
    report = run.report(fan_in)
    assert tuple(report[name] for name in ("expected", "counted", "succeeded", "failed", "skipped")) == counts


def test_zero_branches_are_an_empty_mapping_and_keep_the_order_from_upstream_to_fan_in(run: Run) -> None:
    assert run.xcom("zero_default") == {}
    assert run.instance("zero_default").start >= run.instance("prepare").end


def test_a_secret_is_masked_wherever_an_error_is_told(run: Run) -> None:
    assert run.collected("mixed_2").outcomes["leak"]["error"] == "ConnectionError: login with *** refused"
    for fan_in in ("mixed_2", "mixed_all"):
        log, report = run.log(fan_in), json.dumps(run.report(fan_in))
        assert "login with *** refused" in log
        assert "login with *** refused" in report
        assert "open-sesame-4711" not in log + report


def test_a_branch_whose_process_dies_has_failed_without_an_exception(run: Run) -> None:
    outcome = run.collected("mixed_2").outcomes["die"]
    assert outcome["state"] == "failed"
    assert "no exception was recorded" in outcome["error"]


def test_a_process_without_the_dag_file_knows_every_branch_in_declared_order(
    airflow: ControlledAirflow, run: Run
) -> None:
    ended = airflow.command("fanout", "report", "policy", run.run_id, "--output", "json")

    assert ended.returncode == 0, ended.stderr
    (group,) = [g for g in json.loads(ended.stdout)["groups"] if g["title"] == "documents"]
    collected = run.collected("tolerate_many")
    assert [branch["name"] for branch in group["branches"]] == list(collected.outcomes) == NAMES
    assert {branch["name"]: branch["state"] for branch in group["branches"]} == collected.states


def test_a_failure_names_20_branches_and_counts_the_rest(run: Run) -> None:
    log = run.log("refuse_many")
    assert log.count(": upstream_failed") == 19
    assert "and 276 more" in log
    assert len(run.report("refuse_many")["problems"]) == 20
