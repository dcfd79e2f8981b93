"""``airflow fanout report --runs`` and the time left, on runs one of which is on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.airflow import ControlledAirflow

pytestmark = pytest.mark.slow

DAG_ID = "repeated"
SECONDS = 600.0


def asked(airflow: ControlledAirflow, *arguments: str) -> dict[str, Any]:
    ended = airflow.command("fanout", "report", DAG_ID, *arguments, "--output", "json")
    assert (ended.returncode, ended.stderr) == (0, "")
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


@pytest.fixture(scope="module")
def run_ids(airflow: ControlledAirflow) -> list[str]:
    """Three runs that have ended, in two of which a branch failed, and one that is on; the latest first."""
    airflow.wait_for_dag(DAG_ID)
    run_ids = []
    for broken in (1, -1, 1):
        run_ids.append(airflow.trigger(DAG_ID, conf={"broken": broken}))
        assert airflow.wait_for_run(DAG_ID, run_ids[-1]) == "success"
    run_ids.append(airflow.trigger(DAG_ID, conf={"seconds": SECONDS}))

    def probe() -> bool | None:
        return "running" in [ti["state"] for ti in airflow.task_instances(DAG_ID, run_ids[-1])] or None

    airflow.poll(probe, timeout=120, condition=lambda: "no branch runs")
    return run_ids[::-1]


def test_runs_are_compared(airflow: ControlledAirflow, run_ids: list[str]) -> None:
    (group,) = asked(airflow, "--runs", "30")["groups"]

    assert [run["run_id"] for run in group["runs"]] == run_ids
    assert [(run["state"], run["failed"], run["degraded"]) for run in group["runs"]] == [
        ("running", 0, False),
        ("success", 1, True),
        ("success", 0, False),
        ("success", 1, True),
    ]
    (failed,) = group["failures"]
    assert (failed["name"], failed["failed"], failed["runs"]) == ("repeats_1", 2, 3)
    assert failed["error"] == "TimeoutError: no answer on attempt 1"
    walls = sorted(run["wall_seconds"] for run in group["runs"][1:])
    assert group["median_wall_seconds"] == walls[1]
    assert group["expected_left_seconds"] is not None
    alone = asked(airflow, run_ids[1])["groups"][0]
    assert alone["wall_seconds"] == group["runs"][1]["wall_seconds"]
    assert alone["expected_left_seconds"] is None


def test_a_run_that_is_on_says_how_long_it_is_expected_to_take(
    airflow: ControlledAirflow, run_ids: list[str]
) -> None:
    history, (group,) = asked(airflow, "--runs", "30"), asked(airflow)["groups"]

    assert group["usual_wall_seconds"] == history["groups"][0]["median_wall_seconds"]
    assert 0 <= group["expected_left_seconds"] <= group["usual_wall_seconds"]
    assert "Left" in [figure["name"] for figure in group["figures"]]


def test_runs_are_shown_in_a_pipe(airflow: ControlledAirflow, run_ids: list[str]) -> None:
    ended = airflow.command("fanout", "report", DAG_ID, "--runs", "2")

    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[0] == "repeated: the last 2 runs"
    assert [line.split()[0] for line in lines if "__" in line] == run_ids[:2]
    assert lines[-1] == "  repeats_1: 1 of 1 run, last with TimeoutError: no answer on attempt 1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(
            [DAG_ID, "--runs", "9", "--group", "no"], "Dag 'repeated' has no fan-out group 'no' in its last"
        ),
        pytest.param([DAG_ID, "a run", "--runs", "9"], "expected either RUN_ID or --runs, found both"),
        pytest.param(["unfanned_yet", "--runs", "9"], "There is no Dag 'unfanned_yet'"),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_2(
    airflow: ControlledAirflow, run_ids: list[str], arguments: list[str], message: str
) -> None:
    ended = airflow.command("fanout", "report", *arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"airflow fanout report: {message}")
    assert ended.stderr.count("\n") == 1
