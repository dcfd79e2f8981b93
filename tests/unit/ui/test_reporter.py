from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from airflow_fanout.reports.group_capacity import SchedulingLimits
from airflow_fanout.ui import reporter as reporter_module
from airflow_fanout.ui.reporter import Reporter, ReporterError, answers
from tests.unit.run_facts import batch, batched, facts_of, of_group, ran

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_fanout.ui.reporter import Answers

FACTS = facts_of(
    [batch(0, "SSFK"), batch(1, "SSSS", start=4), ran("combine", state="failed")],
    batched(count=8, items_per_task=4),
    fan_ins=[of_group("docs", "combine")],
)
LIMITS = SchedulingLimits(pools={"default_pool": 128})


@pytest.fixture
def reporter() -> Iterator[Reporter]:
    reporter = Reporter()
    yield reporter
    reporter._end()


def process_of(reporter: Reporter) -> psutil.Process:
    assert reporter._process is not None
    return psutil.Process(reporter._process.pid)


def read(answers: Answers) -> list[Any]:
    """Return the answers without the moment of which they tell."""
    read = [json.loads(gzip.decompress(answer)) for answer in answers]
    for answer in read:
        del answer["report"]["read_at"]
    return read


def test_the_process_works_out_what_this_one_would(reporter: Reporter) -> None:
    told = read(reporter.work_out(FACTS, LIMITS))

    assert told == read(answers(FACTS, LIMITS))
    assert [answer["may_clear"] for answer in told] == [False, True]


def test_one_process_works_out_all_reports(reporter: Reporter) -> None:
    reporter.work_out(FACTS, LIMITS)
    first = process_of(reporter)
    reporter.work_out(FACTS, LIMITS)

    assert process_of(reporter) == first


def test_it_imports_nothing_of_airflow() -> None:
    script = (
        "import sys; import airflow_fanout.ui.reporter\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'airflow'])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_it_is_told_nothing_of_airflows_configuration(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://airflow:secret@database/airflow")
    monkeypatch.setenv("_AIRFLOW_WWW_USER_PASSWORD", "secret")
    reporter.work_out(FACTS, LIMITS)

    environment = process_of(reporter).environ()
    assert environment["PATH"] == os.environ["PATH"]
    assert [name for name in environment if "AIRFLOW" in name] == []


def test_where_it_was_killed_meanwhile_another_one_works(reporter: Reporter) -> None:
    reporter.work_out(FACTS, LIMITS)
    killed = process_of(reporter)
    killed.kill()
    killed.wait(10)

    assert read(reporter.work_out(FACTS, LIMITS)) == read(answers(FACTS, LIMITS))
    assert process_of(reporter) != killed


def test_one_that_takes_too_long_is_killed_and_the_next_report_is_worked_out(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter.work_out(FACTS, LIMITS)
    slow = process_of(reporter)
    slow.suspend()
    with monkeypatch.context() as patched:
        patched.setattr(reporter_module, "MOST_SECONDS", 0.1)
        with pytest.raises(ReporterError, match=r"not worked out within 0\.1 seconds"):
            reporter.work_out(FACTS, LIMITS)

    assert not slow.is_running()
    reporter.work_out(FACTS, LIMITS)


def test_one_that_always_ends_is_told_of(reporter: Reporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reporter_module, "LAUNCH", "raise SystemExit(3)")

    with pytest.raises(ReporterError, match="ended with exit code 3"):
        reporter.work_out(FACTS, LIMITS)


def test_an_error_of_the_code_is_one_here_and_the_process_goes_on(reporter: Reporter) -> None:
    nothing: Any = None
    with pytest.raises(RuntimeError, match="AttributeError"):
        reporter.work_out(nothing, LIMITS)
    process = process_of(reporter)
    reporter.work_out(FACTS, LIMITS)

    assert process_of(reporter) == process


def test_after_a_large_report_it_is_ended_and_gives_the_memory_back(
    reporter: Reporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter.work_out(FACTS, LIMITS)
    process = process_of(reporter)
    monkeypatch.setattr(reporter_module, "LARGE", 1)

    assert read(reporter.work_out(FACTS, LIMITS)) == read(answers(FACTS, LIMITS))
    assert not process.is_running()


def test_it_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import time\n"
        "from tests.unit.ui.test_reporter import FACTS, LIMITS, Reporter\n"
        "reporter = Reporter()\n"
        "reporter.work_out(FACTS, LIMITS)\n"
        "print(reporter._process.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)

    deadline = time.monotonic() + 60
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)
