"""``airflow fanout demo`` as a user runs it: a process of its own, with its own temporary directory."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from airflow_fanout.demo import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.demo]

TAG = "FANOUT_DEMO_TEST"

TWINS = """
from airflow.sdk import DAG, task
from airflow_fanout import FanInOperator, FanOutGroup

def one() -> int:
    return 1

with DAG("twins"):
    both = FanOutGroup("process", branch={"a": one, "b": one})
    FanInOperator(task_id="combine", fan_out=both)

with DAG("twins_sequential"):

    @task
    def a() -> None:
        raise ValueError("nothing to read")

    a()
"""

UNPREPARED = """
from airflow.sdk import DAG, task
from airflow_fanout import FanInOperator, FanOutGroup

def one() -> int:
    return 1

with DAG("unprepared"):

    @task
    def prepare() -> None:
        raise ValueError("no warehouse")

    both = FanOutGroup("process", branch={"a": one, "b": one})
    prepare() >> both
    FanInOperator(task_id="combine", fan_out=both)
"""

FAILING_DAG = """
from airflow.sdk import DAG, task
from airflow_fanout import FanInOperator, FanOutGroup

with DAG("failing"):

    @task
    def refuse(index: int) -> int:
        if index == 1:
            raise ValueError("no service answers")
        return index

    FanInOperator(task_id="combine", fan_out=FanOutGroup("process", branch=refuse, count=2))
"""


STEPS = """
from airflow.sdk import DAG, task, task_group
from airflow_fanout import FanInOperator, FanOutGroup

@task
def regions() -> dict[str, int]:
    return {"eu": 1, "us": 2}

@task
def extract(number: int) -> int:
    return number

@task
def load(number: int) -> int:
    return 10 * number

@task_group
def etl(number: int):
    return load(extract(number))

with DAG("steps"):
    FanInOperator(task_id="combine", fan_out=FanOutGroup("etl", branch=etl, items=regions()))
"""


class RunningDemo:
    """The command, and the processes that it has started."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.tag = uuid.uuid4().hex
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        home = directory / "callers_home"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "airflow", "fanout", "demo", *arguments],
            env={**os.environ, TAG: self.tag, "AIRFLOW_HOME": str(home), "TMPDIR": str(self.temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background job ignores SIGINT, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads yet
        )

    def alive(self) -> list[psutil.Process]:
        """Return the living processes that the command has started, and the command itself."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(TAG) == self.tag:
                    found.append(process)
        return found

    def wait_until_said(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if text in line:
                return
        pytest.fail(f"{text!r} was never said")

    def wait_until_alive(self, number: Callable[[int], bool], timeout: float) -> list[psutil.Process]:
        deadline = time.monotonic() + timeout
        while not number(len(self.alive())) and time.monotonic() < deadline:
            time.sleep(0.1)
        return self.alive()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningDemo]]:
    started: list[RunningDemo] = []

    def begin(*arguments: str) -> RunningDemo:
        started.append(RunningDemo(tmp_path, *arguments))
        return started[-1]

    yield begin
    for running in started:
        for process in running.alive():
            process.kill()
        running.process.communicate()


def test_the_demo_shows_the_result_and_the_speed_up_and_leaves_nothing(
    start: Callable[..., RunningDemo],
) -> None:
    running = start("--count", "4", "--work-seconds", "1")

    out, err = running.process.communicate(timeout=400)

    assert (running.process.returncode, err) == (0, "")
    assert "process_3: Hello from Airflow! (part 3)" in out
    assert "Speed-up" in out
    assert "of 4 branches done" in out
    assert running.alive() == []
    assert list(running.temporary.iterdir()) == []


def test_the_document_analysis_is_shown_beside_its_sequential_twin(start: Callable[..., RunningDemo]) -> None:
    running = start("--dag", "document_analysis")

    out, err = running.process.communicate(timeout=400)

    assert (running.process.returncode, err) == (0, "")
    assert "merge returned:" in out
    lines = out.splitlines()
    began = next(
        number for number, line in enumerate(lines) if line.split() == ["in", "parallel", "one", "by", "one"]
    )
    table = {line.split()[0]: line for line in lines[began + 1 : began + 6]}
    assert set(table) == {"entities", "sentiment", "topics", "Sum", "Wall"}
    assert all(re.search(r"\d+(\.\d)? m?s .*\d+(\.\d)? m?s$", line) for line in table.values())
    assert re.search(r"In parallel it (was|took) .*\d\.\d×", out)
    assert "stands for a call" not in out
    assert running.alive() == []
    assert list(running.temporary.iterdir()) == []


def test_batches_are_shown_with_their_items(start: Callable[..., RunningDemo]) -> None:
    running = start("--dag", "dynamic_documents")

    out, err = running.process.communicate(timeout=400)

    assert (running.process.returncode, err) == (0, "")
    batch = r"^documents batch 0: \w+ after .* s, \d+ of 100 items done, \d+ skipped"
    assert re.search(batch, out, re.MULTILINE)
    counts = r"^documents: (\d+) of \1 items done · in (\d+) batches · (\d+) failed · (\d+) skipped"
    found = re.search(counts, out, re.MULTILINE)
    assert found is not None
    total, batches, failed, skipped = map(int, found.groups())
    succeeded = total - failed - skipped
    assert batches == -(-total // 100)
    assert f"  documents: {succeeded}\n" in out
    assert f"without {failed} of {total}:\n" in out
    assert f"what {total} items took inside their code" in out
    assert f" of {batches}  at the busiest moment" in out
    assert running.alive() == []
    assert list(running.temporary.iterdir()) == []


def test_mapped_branches_are_shown_by_name(start: Callable[..., RunningDemo]) -> None:
    running = start("--dag", "fan_out_fan_in_chosen_count", "--count", "3", "--work-seconds", "1")

    out, err = running.process.communicate(timeout=400)

    assert (running.process.returncode, err) == (0, "")
    ended = re.findall(r"^(\S+): success after", out, re.MULTILINE)
    assert sorted(ended) == ["process_0", "process_1", "process_2"]
    assert "process_2: Hello from Airflow! (part 2)" in out
    assert re.search(r"^Work +[3-9]\.\d s  what 3 branches took", out, re.MULTILINE)
    assert " of 3  at the busiest moment" in out


def test_mapped_branches_of_several_tasks_are_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "steps.py").write_text(STEPS)
    monkeypatch.setattr(demo, "_examples_folder", lambda: tmp_path)

    code = demo.run_demo(demo.DemoOptions(dag_id="steps", count=2, work_seconds=0))

    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert "  eu: 10\n  us: 20\n" in out
    assert "what 2 branches took inside their code" in out
    assert " of 2  at the busiest moment" in out
    assert re.search(r"^Slowest .* (eu|us)$", out, re.MULTILINE)


def test_ctrl_c_while_the_branches_run_leaves_nothing(start: Callable[..., RunningDemo]) -> None:
    running = start("--count", "3", "--work-seconds", "60")
    running.wait_until_said(": running")

    running.process.send_signal(signal.SIGINT)
    _, err = running.process.communicate(timeout=60)

    assert running.process.returncode == 1
    assert err == "airflow fanout demo: interrupted; all that it had started is stopped\n"
    assert running.alive() == []
    assert list(running.temporary.iterdir()) == []


def test_a_killed_demo_leaves_nothing(start: Callable[..., RunningDemo]) -> None:
    running = start()
    everything = 5  # The command, what watches over it, API server, scheduler and Dag processor.
    assert len(running.wait_until_alive(lambda number: number >= everything, timeout=60)) >= everything

    running.process.kill()

    assert running.wait_until_alive(lambda number: number == 0, timeout=20) == []
    assert list(running.temporary.iterdir()) == []


def test_a_taken_port_is_said_in_one_line(start: Callable[..., RunningDemo]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        running = start("--port", str(port))
        _, err = running.process.communicate(timeout=60)

    assert running.process.returncode == 1
    assert err.startswith(f"airflow fanout demo: Port {port} is in use")
    assert err.count("\n") == 1
    assert running.alive() == []


def test_a_failed_run_is_said_in_one_line_with_the_branch_and_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "failing.py").write_text(FAILING_DAG)
    monkeypatch.setattr(demo, "_examples_folder", lambda: tmp_path)

    code = demo.run_demo(demo.DemoOptions(dag_id="failing", count=2, work_seconds=0))

    err = capsys.readouterr().err
    assert code == 1
    assert err == ("airflow fanout demo: the run failed: process_1 failed (ValueError: no service answers)\n")


def test_a_sequential_twin_that_fails_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "twins.py").write_text(TWINS)
    monkeypatch.setattr(demo, "_examples_folder", lambda: tmp_path)

    code = demo.run_demo(demo.DemoOptions(dag_id="twins", count=2, work_seconds=0))

    assert code == 1
    err = capsys.readouterr().err
    assert err == "airflow fanout demo: the run failed: a failed (ValueError: nothing to read)\n"


def test_a_failed_run_names_the_task_that_kept_the_branches_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unprepared.py").write_text(UNPREPARED)
    monkeypatch.setattr(demo, "_examples_folder", lambda: tmp_path)

    code = demo.run_demo(demo.DemoOptions(dag_id="unprepared", count=2, work_seconds=0))

    err = capsys.readouterr().err
    assert code == 1
    assert err == "airflow fanout demo: the run failed: prepare failed (ValueError: no warehouse)\n"
