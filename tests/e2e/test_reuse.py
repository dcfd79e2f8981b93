"""Only what is new, run after run, on a real scheduler."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.airflow import ControlledAirflow

pytestmark = pytest.mark.slow

DAG_ID = "reuse"


@dataclass(kw_only=True)
class Seen:
    """What a run called the function with, what its fan-in got, and what the report says."""

    calls: list[int]
    values: dict[str, Any]
    reused: list[str]
    fan_in_report: dict[str, Any]
    report: dict[str, Any]
    batches: list[str]


@pytest.fixture(scope="module")
def seen(airflow: ControlledAirflow, scratch: Path) -> dict[str, Seen]:
    """Runs after each other, and what each of them did."""
    calls = scratch / "reuse-calls"

    def look(run: Run) -> Seen:
        collected = run.collected("collect")
        called = [int(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        calls.unlink(missing_ok=True)
        ended = airflow.command("fanout", "report", DAG_ID, run.run_id, "--output", "json")
        (group,) = json.loads(ended.stdout)["groups"]
        return Seen(
            calls=sorted(called),
            values=dict(collected.items),
            reused=[name for name, outcome in collected.outcomes.items() if outcome["reused"]],
            fan_in_report=run.report("collect"),
            report=group,
            batches=[each.state for (task_id, _), each in run.instances.items() if task_id == "score.each"],
        )

    def run_with(**conf: Any) -> Run:
        run = Run.start(airflow, DAG_ID, **conf)
        run.wait()
        return run

    runs = {"first": look(run_with())}
    runs["one item changed"] = look(run_with(items={"number_7": 70}))
    runs["nothing changed"] = look(last := run_with(items={"number_7": 70}))
    ended = airflow.command("fanout", "rerun", DAG_ID, last.run_id, "--no-reuse", "--yes")
    assert ended.returncode == 0, ended.stderr
    last.wait()
    runs["rerun --no-reuse"] = look(last)
    runs["one argument changed"] = look(run_with(items={"number_7": 70}, lang="de"))
    (scratch / "reuse-version").write_text("2")
    runs["the version changed"] = look(run_with(items={"number_7": 70}, lang="de"))
    return runs


ALL = sorted([*range(7), *range(8, 20), 70])
CALLS = {
    "first": list(range(20)),
    "one item changed": [70],
    "nothing changed": [],
    "rerun --no-reuse": ALL,
    "one argument changed": ALL,
    "the version changed": ALL,
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_new_runs_and_nothing_else(seen: dict[str, Seen], name: str) -> None:
    assert seen[name].calls == CALLS[name]


@pytest.mark.parametrize("name", CALLS)
def test_the_results_are_those_of_a_run_without_reuse(seen: dict[str, Seen], name: str) -> None:
    lang = "de" if name in {"one argument changed", "the version changed"} else "en"
    items = {f"number_{index}": index for index in range(20)}
    if name != "first":
        items["number_7"] = 70

    assert seen[name].values == {key: {"item": item, "lang": lang} for key, item in items.items()}
    assert [*seen[name].values] == [*items]


@pytest.mark.parametrize("name", CALLS)
def test_report_and_fan_in_say_how_many_were_reused(seen: dict[str, Seen], name: str) -> None:
    reused = 20 - len(CALLS[name])

    assert len(seen[name].reused) == seen[name].fan_in_report["reused"] == reused
    assert seen[name].fan_in_report["succeeded"] == 20
    assert seen[name].report["items"]["reused"] == reused
    assert seen[name].report["items"]["states"] == {"success": 20}
    assert ("reused" in seen[name].report["headline"]) == bool(reused)


def test_if_nothing_changed_there_is_no_batch(seen: dict[str, Seen]) -> None:
    assert seen["nothing changed"].batches == ["skipped"]
    assert seen["rerun --no-reuse"].batches == ["success"] * 4
