"""``airflow fanout report`` beside what the metadata database says, asked and reckoned by other means."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from packaging.version import Version
from sqlalchemy import create_engine, text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Run

pytestmark = pytest.mark.slow

DAG_ID = "reported"

# From Airflow 3.4 on each try is a task instance, to which its XComs belong.
INDEX, NOW, THEN, RECORDED = "map_index", "task_instance", "task_instance_history", "xcom"
if Version(version("apache-airflow-core")) >= Version("3.4.0a0"):
    INDEX = "region_index"
    NOW = "(SELECT * FROM task_instance WHERE working_set) now"
    THEN = "(SELECT * FROM task_instance WHERE working_set IS NULL) earlier"
    RECORDED = f"{NOW} JOIN xcom_v2 ON xcom_v2.task_instance_id = now.id"
OF_RUN = "WHERE dag_id = 'reported' AND run_id = :run_id"
INSTANCES = f"""
SELECT task_id, {INDEX}, state, queued_dttm, start_date, end_date, try_number FROM {NOW} {OF_RUN}
"""
EARLIER = f"SELECT task_id, {INDEX}, queued_dttm, start_date, end_date FROM {THEN} {OF_RUN}"
RECORDS = f"SELECT task_id, {INDEX}, value FROM {RECORDED} {OF_RUN} AND key = 'fan_out_branch'"

GROUPS = {
    "waits": [[(f"waits.waits_{n}", -1)] for n in range(3)],
    "retries": [[(f"retries.retries_{n}", -1)] for n in range(2)],
    "parts": [[(f"parts.parts_{n}", -1)] for n in range(4)],
    "steps": [[(f"steps.steps_{n}.{step}", -1) for step in ("read", "write")] for n in range(2)],
    "loads": [[("loads.each", n)] for n in range(3)],
    "visits": [[("visits.each", n)] for n in range(3)],
    "owned": [[("own_x", -1)], [("own_y", -1)]],
}
"""Task instances that each group's branches are made of, as the Dag file has them."""

STATES = {"S": "success", "F": "failed", "K": "skipped", "X": "skipped"}


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
    elapsed: float | None
    earlier: list[tuple[datetime, datetime, datetime]]


@pytest.fixture(scope="module")
def report(airflow: ControlledAirflow, run: Run) -> dict[str, Any]:
    """What the command prints as JSON, its groups by title."""
    ended = airflow.command("fanout", "report", "reported", run.run_id, "--output", "json")
    assert (ended.returncode, ended.stderr) == (0, "")
    report: dict[str, Any] = json.loads(ended.stdout)
    report["groups"] = {group["title"]: group for group in report["groups"]}
    return report


@pytest.fixture(scope="module")
def records(run: Run, database_url: str) -> dict[tuple[str, int], dict[str, Any]]:
    """What each task instance pushed of itself."""
    records = {}
    for task_id, map_index, value in query(database_url, RECORDS, run):
        record = value
        while isinstance(record, str):
            record = json.loads(record)  # JSON within JSON, by what the database gives
        records[task_id, map_index] = record
    return records


@pytest.fixture(scope="module")
def rows(run: Run, database_url: str, records: dict[tuple[str, int], dict[str, Any]]) -> dict[str, list[Row]]:
    """The branches of every group, in order."""
    instances = {(task_id, at): rest for task_id, at, *rest in query(database_url, INSTANCES, run)}
    earlier = defaultdict(list)
    for task_id, at, *times in query(database_url, EARLIER, run):
        earlier[task_id, at].append([timestamp(time) for time in times])
    return {
        group: [
            row_of([(*instances[key], records.get(key, {}), earlier[key]) for key in keys])
            for keys in branches
        ]
        for group, branches in GROUPS.items()
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
    records = [task[5] for task in tasks]
    return Row(
        state=tasks[-1][0],
        queued=min(timestamp(task[1]) for task in tasks),
        started=min(timestamp(task[2]) for task in tasks),
        ended=max(timestamp(task[3]) for task in tasks),
        tries=max(task[4] for task in tasks),
        work=total([record.get("seconds") for record in records]),
        cpu=total([record.get("task_cpu_seconds", record.get("cpu_seconds")) for record in records]),
        memory=max((record["peak_memory_bytes"] for record in records if record), default=None),
        elapsed=total([record.get("elapsed", record.get("seconds")) for record in records]),
        earlier=[(queued, start, end) for task in tasks for queued, start, end in task[6]],
    )


def total(numbers: Sequence[Any]) -> float | None:
    """Add up what the tasks recorded; a batch has recorded a list."""
    if None in numbers:
        return None
    lists = [number if isinstance(number, list) else [number] for number in numbers]
    return float(sum(number for numbers in lists for number in numbers if number is not None))


def timestamp(value: Any) -> datetime:
    read = datetime.fromisoformat(value) if isinstance(value, str) else value
    assert isinstance(read, datetime)
    return read.replace(tzinfo=UTC) if read.tzinfo is None else read.astimezone(UTC)


def test_every_group_is_there_once(report: dict[str, Any], run: Run) -> None:
    assert sorted(report["groups"]) == sorted(GROUPS)
    assert (report["dag_id"], report["run_id"], report["state"]) == ("reported", run.run_id, "success")
    assert report["rerun"].startswith("airflow fanout rerun reported ")


@pytest.mark.parametrize("title", GROUPS)
def test_branches_are_as_the_database_has_them(
    title: str, report: dict[str, Any], rows: dict[str, list[Row]]
) -> None:
    branches = report["groups"][title]["branches"]

    for branch, row in zip(branches, rows[title], strict=True):
        times = [timestamp(branch[name]) for name in ("queued", "started", "ended")]
        assert times == [row.queued, row.started, row.ended]
        assert (branch["state"], branch["tries"]) == (row.state, row.tries)
        assert branch["peak_memory_bytes"] == row.memory
        assert branch["work_seconds"] == (None if row.work is None else pytest.approx(row.work))
        assert branch["cpu_seconds"] == (None if row.cpu is None else pytest.approx(row.cpu))


@pytest.mark.parametrize("title", sorted(GROUPS.keys() - {"owned"}))
def test_figures_are_those_that_the_database_gives(
    title: str, report: dict[str, Any], rows: dict[str, list[Row]]
) -> None:
    group, branches = report["groups"][title], rows[title]

    work = [branch.work for branch in branches if branch.work is not None]
    assert len(work) == len(branches) == group["total"] == group["recorded"]
    first = min(moment for b in branches for moment in [b.queued, *(queued for queued, *_ in b.earlier)])
    wall = (max(b.ended for b in branches) - first).total_seconds()
    spent = sum((b.ended - b.queued).total_seconds() for b in branches)
    ran = [*((b.started, b.ended) for b in branches), *(times[1:] for b in branches for times in b.earlier)]
    assert group["states"] == Counter(branch.state for branch in branches)
    assert group["work_seconds"] == pytest.approx(sum(work))
    assert group["wall_seconds"] == pytest.approx(wall)
    assert group["speed_up"] == pytest.approx(sum(work) / wall)
    assert group["overhead_share"] == pytest.approx(1 - sum(b.elapsed or 0.0 for b in branches) / spent)
    assert group["peak_concurrency"] == max(
        sum(start <= moment < end for start, end in ran) for moment, _ in ran
    )
    slowest = work.index(max(work))
    assert group["slowest"][0]["name"] == group["branches"][slowest]["name"]
    assert group["slowest"][0]["seconds"] == pytest.approx(max(work))


def test_the_time_for_which_a_retry_was_waited_for_is_idle(
    report: dict[str, Any], rows: dict[str, list[Row]]
) -> None:
    group, (other, again) = report["groups"]["retries"], rows["retries"]

    ((_, _, failed),) = again.earlier
    idle = (again.queued - max(failed, min(other.ended, again.queued))).total_seconds()
    assert group["idle_seconds"] == pytest.approx(idle)
    assert group["wall_seconds"] > idle >= 0  # none if, on a busy machine, the other ran all the while


def test_a_group_that_is_not_of_this_package_has_a_wall_and_no_work(
    report: dict[str, Any], rows: dict[str, list[Row]]
) -> None:
    group, branches = report["groups"]["owned"], rows["owned"]

    wall = (max(b.ended for b in branches) - min(b.queued for b in branches)).total_seconds()
    assert (group["mode"], group["fan_in_ids"]) == ("prefix", ["owned"])
    assert group["wall_seconds"] == pytest.approx(wall)
    assert (group["work_seconds"], group["speed_up"], group["overhead_share"]) == (None, None, None)
    assert [branch["name"] for branch in group["branches"]] == ["own_x", "own_y"]


def test_branches_have_their_names_tries_and_errors(
    report: dict[str, Any], records: dict[tuple[str, int], dict[str, Any]]
) -> None:
    branches = {title: group["branches"] for title, group in report["groups"].items()}

    names = [branch["name"] for branch in branches["loads"]]
    assert names == [records["loads.each", index]["name"] for index in range(3)]
    assert sorted(names) == ["apac", "eu", "us"]
    assert [branch["tries"] for branch in branches["retries"]] == [1, 2]
    assert [len(branch["earlier_tries"]) for branch in branches["retries"]] == [0, 1]
    errors = [branch["error"] for branch in branches["parts"]]
    assert errors == [None, None, "ValueError: no such file", None]


def test_items_are_those_of_the_batches_records(
    report: dict[str, Any], records: dict[tuple[str, int], dict[str, Any]]
) -> None:
    group = report["groups"]["visits"]
    batches = [records["visits.each", number] for number in range(3)]
    states = [[STATES[status] for status in record["statuses"]] for record in batches]
    seconds = {
        f"visits_{record['start'] + offset}": number
        for record in batches
        for offset, number in enumerate(record["seconds"])
        if number is not None
    }

    items = group["items"]
    assert (items["total"], items["states"]) == (25, Counter(chain(*states)))
    assert [branch["items"] for branch in group["branches"]] == list(map(Counter, states))
    assert (items["recorded"], items["median_work_seconds"]) == (len(seconds), median(seconds.values()))
    slowest = sorted(seconds.values(), reverse=True)[:10]
    assert [item["seconds"] for item in items["slowest"]] == slowest
    assert all(seconds[item["name"]] == item["seconds"] for item in items["slowest"])
    (problem,) = items["problems"]
    assert (problem["name"], problem["state"], problem["items"], problem["tries"]) == (
        "visits_7",
        "failed",
        1,
        1,
    )
    assert problem["error"] == "ValueError: nobody is there"
    assert (problem["task_id"], problem["map_index"]) == ("visits.each", 0)


def test_the_latest_run_is_shown_in_a_pipe_with_the_same_figures(
    airflow: ControlledAirflow, report: dict[str, Any]
) -> None:
    ended = airflow.command("fanout", "report", "reported", "--group", "waits")

    assert (ended.returncode, ended.stderr) == (0, "")
    head = f"reported, run {report['run_id']}: success\n\nwaits: 3 of 3 branches done\n"
    assert ended.stdout.startswith(head)
    for figure in report["groups"]["waits"]["figures"]:
        assert f"{figure['value']}  {figure['note']}\n" in ended.stdout
    assert "\x1b" not in ended.stdout
    assert "parts" not in ended.stdout


def test_a_run_without_a_fan_out_is_one_line(airflow: ControlledAirflow, run: Run) -> None:
    run_id = airflow.trigger("unfanned")
    ended = airflow.command("fanout", "report", "unfanned")

    line = (
        f"unfanned, run {run_id}: nothing is fanned out in it that a fan-in collects, so there is no report\n"
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, line, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
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
    airflow: ControlledAirflow, run: Run, arguments: list[str], message: str
) -> None:
    ended = airflow.command("fanout", "report", *arguments)

    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"airflow fanout report: {message}")
    assert ended.stderr.count("\n") == 1


def test_the_fan_ins_log_says_how_to_see_the_report(run: Run) -> None:
    log = run.log("waited")

    assert ": at best a speed-up of " in log
    assert f"More: airflow fanout report reported {run.run_id}" in log
