"""``airflow fanout report`` beside what the metadata database says, asked and reckoned by other means."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Run

pytestmark = [pytest.mark.e2e, pytest.mark.commands]

INSTANCES = """
SELECT task_id, map_index, state, queued_dttm, start_date, end_date, try_number
FROM task_instance WHERE dag_id = 'reported' AND run_id = :run_id
"""
RECORDS = """
SELECT task_id, map_index, value FROM xcom
WHERE dag_id = 'reported' AND run_id = :run_id AND key = 'fan_out_branch'
"""

NAMES = {
    "waits": [[(f"waits.waits_{n}", -1)] for n in range(3)],
    "retries": [[(f"retries.retries_{n}", -1)] for n in range(2)],
    "parts": [[(f"parts.parts_{n}", -1)] for n in range(4)],
    "steps": [[(f"steps.steps_{n}.{step}", -1) for step in ("read", "write")] for n in range(2)],
    "loads": [[("loads.each", n)] for n in range(3)],
    "visits": [[("visits.each", n)] for n in range(3)],
    "owned": [[(f"own_{each}", -1)] for each in "xy"],
}
"""Task instances that each group's branches are made of, as the Dag file has them."""

LETTERS = {"S": "success", "F": "failed", "K": "skipped", "X": "skipped"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A branch, as its rows in the database say."""

    state: str
    queued: datetime
    started: datetime
    ended: datetime
    tries: int
    work: float | None
    cpu: float | None
    memory: int | None


@pytest.fixture(scope="module")
def run(finished_run: Callable[[str], Run]) -> Run:
    return finished_run("reported")


@pytest.fixture(scope="module")
def report(airflow: ControlledAirflow, run: Run) -> dict[str, Any]:
    """What the command prints as JSON."""
    done = airflow.command("fanout", "report", "reported", run.run_id, "--output", "json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def records(run: Run, database_url: str) -> dict[tuple[str, int], dict[str, Any]]:
    """What each task instance pushed of itself."""
    found = {}
    for task_id, map_index, value in query(database_url, RECORDS, run):
        while isinstance(value, str):
            value = json.loads(value)  # noqa: PLW2901 - JSON within JSON, by what the database gives
        found[task_id, map_index] = value
    return found


@pytest.fixture(scope="module")
def rows(run: Run, database_url: str, records: dict[tuple[str, int], dict[str, Any]]) -> dict[str, list[Row]]:
    """The branches of every group, in order."""
    found = {(task_id, at): rest for task_id, at, *rest in query(database_url, INSTANCES, run)}
    return {
        group: [row_of([(*found[i], records.get(i, {})) for i in ids]) for ids in branches]
        for group, branches in NAMES.items()
    }


def query(url: str, statement: str, run: Run) -> list[Any]:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return list(connection.execute(text(statement), {"run_id": run.run_id}))
    finally:
        engine.dispose()


def row_of(tasks: Sequence[tuple[Any, ...]]) -> Row:
    """Put the tasks of one branch together."""
    state, tries = tasks[-1][0], max(task[4] for task in tasks)
    works = [added_up(record.get("seconds")) for *_, record in tasks]
    cpu = [added_up(record.get("cpu_seconds")) for *_, record in tasks]
    memory = [record["peak_memory_bytes"] for *_, record in tasks if "peak_memory_bytes" in record]
    return Row(
        state=state,
        queued=min(moment(task[1]) for task in tasks),
        started=min(moment(task[2]) for task in tasks),
        ended=max(moment(task[3]) for task in tasks),
        tries=tries,
        work=None if None in works else sum(each for each in works if each is not None),
        cpu=None if None in cpu else sum(each for each in cpu if each is not None),
        memory=max(memory, default=None),
    )


def added_up(seconds: Any) -> float | None:
    if isinstance(seconds, list):
        return float(sum(each for each in seconds if each is not None))
    return None if seconds is None else float(seconds)


def moment(value: Any) -> datetime:
    found = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(found, datetime)
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def group_of(report: dict[str, Any], title: str) -> dict[str, Any]:
    (found,) = [group for group in report["groups"] if group["title"] == title]
    assert isinstance(found, dict)
    return found


def test_every_group_is_there_once(report: dict[str, Any], run: Run) -> None:
    assert sorted(group["title"] for group in report["groups"]) == sorted(NAMES)
    assert (report["dag_id"], report["run_id"], report["state"]) == ("reported", run.run_id, "success")
    assert report["rerun"].startswith("airflow fanout rerun reported ")


@pytest.mark.parametrize("title", NAMES)
def test_branches_are_as_the_database_has_them(
    title: str, report: dict[str, Any], rows: dict[str, list[Row]]
) -> None:
    found = [
        Row(
            state=branch["state"],
            queued=moment(branch["queued"]),
            started=moment(branch["started"]),
            ended=moment(branch["ended"]),
            tries=branch["tries"],
            work=branch["work_seconds"],
            cpu=branch["cpu_seconds"],
            memory=branch["peak_memory_bytes"],
        )
        for branch in group_of(report, title)["branches"]
    ]

    expected = rows[title]
    assert [(b.state, b.queued, b.started, b.ended, b.tries, b.memory) for b in found] == [
        (b.state, b.queued, b.started, b.ended, b.tries, b.memory) for b in expected
    ]
    assert [b.work for b in found] == [None if b.work is None else pytest.approx(b.work) for b in expected]
    assert [b.cpu for b in found] == [None if b.cpu is None else pytest.approx(b.cpu) for b in expected]


@pytest.mark.parametrize("title", sorted(NAMES.keys() - {"owned"}))
def test_figures_are_those_that_the_database_gives(
    title: str, report: dict[str, Any], rows: dict[str, list[Row]]
) -> None:
    group, branches = group_of(report, title), rows[title]

    work = [branch.work for branch in branches if branch.work is not None]
    assert len(work) == len(branches) == group["total"] == group["recorded"]
    wall = (max(b.ended for b in branches) - min(b.queued for b in branches)).total_seconds()
    spent = sum((b.ended - b.queued).total_seconds() for b in branches)
    assert group["states"] == Counter(branch.state for branch in branches)
    assert group["work_seconds"] == pytest.approx(sum(work))
    assert group["wall_seconds"] == pytest.approx(wall)
    assert group["speed_up"] == pytest.approx(sum(work) / wall)
    assert group["overhead_share"] == pytest.approx(1 - sum(work) / spent)
    assert group["elapsed_sum_seconds"] == pytest.approx(
        sum((b.ended - b.started).total_seconds() for b in branches)
    )
    assert group["cpu_seconds"] == pytest.approx(sum(b.cpu for b in branches if b.cpu is not None))
    assert group["peak_memory_bytes"] == max(b.memory for b in branches if b.memory is not None)
    assert group["peak_concurrency"] == max(
        sum(b.started <= moment_in < b.ended for b in branches) for moment_in in {b.started for b in branches}
    )

    slowest = max(range(len(branches)), key=lambda place: work[place])
    others = [b for place, b in enumerate(branches) if place != slowest]
    rest = (max(b.ended for b in others) - min(b.queued for b in others)).total_seconds()
    assert group["slowest"][0]["name"] == group["branches"][slowest]["name"]
    assert group["slowest"][0]["seconds"] == pytest.approx(max(work))
    assert group["wall_without_slowest_seconds"] == pytest.approx(rest)
    assert group["saved_without_slowest_seconds"] == pytest.approx(wall - rest)


def test_what_is_not_of_this_package_has_a_wall_and_no_work(
    report: dict[str, Any], rows: dict[str, list[Row]]
) -> None:
    group, branches = group_of(report, "owned"), rows["owned"]

    wall = (max(b.ended for b in branches) - min(b.queued for b in branches)).total_seconds()
    assert (group["mode"], group["fan_in_ids"]) == ("prefix", ["owned"])
    assert group["wall_seconds"] == pytest.approx(wall)
    assert (group["work_seconds"], group["speed_up"], group["overhead_share"]) == (None, None, None)
    assert [branch["name"] for branch in group["branches"]] == ["own_x", "own_y"]


def test_mapped_branches_have_the_names_that_came_with_them(
    report: dict[str, Any], records: dict[tuple[str, int], dict[str, Any]]
) -> None:
    names = [branch["name"] for branch in group_of(report, "loads")["branches"]]

    assert names == [records["loads.each", place]["name"] for place in range(3)]
    assert sorted(names) == ["apac", "eu", "us"]


def test_the_retried_branch_is_the_one_with_two_tries(report: dict[str, Any]) -> None:
    assert [branch["tries"] for branch in group_of(report, "retries")["branches"]] == [1, 2]


def test_the_failed_branch_has_its_error(report: dict[str, Any]) -> None:
    errors = [branch["error"] for branch in group_of(report, "parts")["branches"]]

    assert errors == [None, None, "ValueError: no such file", None]


def test_items_are_those_of_the_batches_records(
    report: dict[str, Any], records: dict[tuple[str, int], dict[str, Any]]
) -> None:
    group = group_of(report, "visits")
    of_batches = [records["visits.each", number] for number in range(3)]
    states = [LETTERS[letter] for record in of_batches for letter in record["statuses"]]
    seconds = {
        f"visits_{record['start'] + place}": each
        for record in of_batches
        for place, each in enumerate(record["seconds"])
        if each is not None
    }

    items = group["items"]
    assert (items["total"], items["states"]) == (25, Counter(states))
    assert [each["items"] for each in group["branches"]] == [
        Counter(LETTERS[letter] for letter in record["statuses"]) for record in of_batches
    ]
    assert (items["recorded"], items["median_work_seconds"]) == (len(seconds), median(seconds.values()))
    slowest = sorted(seconds.values(), reverse=True)[:10]
    assert [each["seconds"] for each in items["slowest"]] == slowest
    assert all(seconds[each["name"]] == each["seconds"] for each in items["slowest"])
    assert items["problems"] == [
        {
            "name": "visits_7",
            "items": 1,
            "state": "failed",
            "error": "ValueError: nobody is there",
            "task_id": "visits.each",
            "map_index": 0,
            "tries": 1,
        }
    ]


def test_the_latest_run_is_shown_in_a_pipe_with_the_same_figures(
    airflow: ControlledAirflow, report: dict[str, Any]
) -> None:
    done = airflow.command("fanout", "report", "reported", "--group", "waits")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(
        f"reported, run {report['run_id']}: success\n\nwaits: 3 of 3 branches done\n"
    )
    for figure in group_of(report, "waits")["figures"]:
        assert f"{figure['value']}  {figure['note']}\n" in done.stdout
    assert "\x1b" not in done.stdout
    assert "parts" not in done.stdout


def test_a_run_without_a_fan_out_is_one_line(airflow: ControlledAirflow, run: Run) -> None:
    run_id = airflow.trigger("unfanned")
    done = airflow.command("fanout", "report", "unfanned")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"unfanned, run {run_id}: nothing is fanned out in it that a fan-in collects, so there is no report\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["no_such"], "There is no Dag 'no_such'", id="dag"),
        pytest.param(["reported", "no_such"], "Dag 'reported' has no run 'no_such'", id="run"),
        pytest.param(
            ["reported", "--group", "no_such"],
            "Dag 'reported' has no fan-out group 'no_such' in this run; there are ",
            id="group",
        ),
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_2(
    airflow: ControlledAirflow, run: Run, arguments: list[str], said: str
) -> None:
    done = airflow.command("fanout", "report", *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"airflow fanout report: {said}")
    assert done.stderr.count("\n") == 1


def test_the_fan_ins_log_says_how_to_see_the_report(run: Run) -> None:
    log = run.log("waited")

    assert ": at best a speed-up of " in log
    assert f"More: airflow fanout report reported {run.run_id}" in log
