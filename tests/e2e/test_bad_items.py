"""An item that ends its process, or never ends, costs itself alone, and no process outlives its task."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.airflow import ControlledAirflow

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(airflow: ControlledAirflow) -> Run:
    connection = {"connection_id": "bad_items", "conn_type": "generic", "login": "who asks"}
    airflow.request("POST", "connections", json=connection)
    run = Run.start(airflow, "bad_items")
    run.wait()
    return run


def test_four_of_two_hundred_fail_by_name_and_the_others_have_their_values(run: Run) -> None:
    fates = run.collected("collect_fates")
    assert {name: fates.outcomes[name]["error"] for name in fates.failed} == {
        "fates_13": "its process ended with exit code 3, twice",
        "fates_57": "its process was killed by SIGSEGV, twice",
        "fates_101": "ItemTimeoutError: it had not ended after 15 s",
        "fates_150": "MemoryError",
    }
    assert fates.items == [(f"fates_{n}", n * n) for n in range(200) if n not in {13, 57, 101, 150}]


def test_each_neighbour_ran_once(run: Run, scratch: Path) -> None:
    ran = Counter((scratch / "bad_items-ran").read_text().split())
    assert run.instance("fates.each", 0).try_number == 1
    assert ran == {str(n): 2 if n in {13, 57} else 1 for n in range(200)}


def test_the_log_has_what_the_children_printed_and_how_they_ended(run: Run) -> None:
    log = run.log("fates.each", 0)
    printed = [line for line in log.splitlines() if "fate " in line and " in " in line]
    assert len(printed) == 102
    assert len({line.rpartition(" in ")[2].split()[0] for line in printed}) >= 4
    assert "fates_13: its process ended with exit code 3; it runs once more, alone" in log


def test_a_thousand_requests_of_eight_children_get_their_own_answers(run: Run) -> None:
    assert len(set(run.xcom("collect_asking").values())) == 8
    assert "Connection.get" not in run.log("asking.each", 0)


def alive(pids: set[int]) -> set[int]:
    def is_alive(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return set(filter(is_alive, pids))


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_no_child_outlives_its_task(
    airflow: ControlledAirflow, scratch: Path, signal_number: signal.Signals
) -> None:
    run = Run.start(airflow, "bad_items_killed")
    noted = scratch / f"bad_items-pids-{run.run_id}"

    def lines() -> list[list[int]] | None:
        written = noted.read_text().splitlines() if noted.exists() else []
        return [list(map(int, line.split())) for line in written] if len(written) == 3 else None

    pids = airflow.poll(lines, timeout=120, condition=lambda: "not three items have started")
    task_pid = pids[0][2]
    children = {pid for child, server, *_ in pids for pid in (child, server)}
    assert alive(children) == children
    os.kill(task_pid, signal_number)
    airflow.poll(lambda: not alive({*children, task_pid}) or None, timeout=30, condition=lambda: "some live")
    run.wait()
    assert run.instance("endless.each", 0).state == "failed"
