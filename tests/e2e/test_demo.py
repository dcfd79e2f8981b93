"""``airflow fanout demo`` as a user runs it: on SQLite, in a process and a temporary directory of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from argparse import Namespace
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from airflow_fanout.demo import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

TAG = "FANOUT_DEMO_TEST"
PATIENCE = 400
"""Seconds that a demo may take on a busy machine."""

TWINS = """
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

FAILING = """
with DAG("failing"):

    @task
    def refuse(index: int) -> int:
        if index == 1:
            raise ValueError("no service answers")
        return index

    FanInOperator(task_id="combine", fan_out=FanOutGroup("process", branch=refuse, count=2))
"""

STEPS = """
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
        processes = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.environ().get(TAG) == self.tag:
                    processes.append(process)
        return processes

    def end(self) -> tuple[int, str, str]:
        """Wait until it has ended and has left nothing; return exit code, standard output and error."""
        out, err = self.process.communicate(timeout=PATIENCE)
        assert self.alive() == []
        assert list(self.temporary.iterdir()) == []
        return self.process.returncode, out, err

    def wait_until_alive(self, condition: Callable[[int], bool], timeout: float) -> None:
        """Wait until the number of its living processes meets a condition."""
        deadline = time.monotonic() + timeout
        while not condition(len(self.alive())):
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningDemo]]:
    """Call it with the command's arguments."""
    started: list[RunningDemo] = []

    def begin(*arguments: str) -> RunningDemo:
        started.append(RunningDemo(tmp_path, *arguments))
        return started[-1]

    yield begin
    for running in started:
        for process in running.alive():
            process.kill()
        running.process.communicate()


@pytest.fixture
def run_own_dag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, str], tuple[int, str, str]]:
    """Call it with the id and the source of a Dag to show; returns exit code, standard output and error."""

    def run(dag_id: str, source: str) -> tuple[int, str, str]:
        head = "from airflow.sdk import DAG, task, task_group\nfrom airflow_fanout import *\n"
        (tmp_path / f"{dag_id}.py").write_text(head + source)
        monkeypatch.setattr(demo, "_examples_folder", lambda: tmp_path)
        code = demo.run_demo(Namespace(dag=dag_id, count=2, work_seconds=0, keep=False, port=None))
        return code, *capsys.readouterr()

    return run


def test_the_demo_shows_the_result_and_the_speed_up_and_leaves_nothing(
    start: Callable[..., RunningDemo],
) -> None:
    code, out, err = start("--count", "4", "--work-seconds", "1").end()

    assert (code, err) == (0, "")
    assert "process_3: Hello from Airflow! (part 3)" in out
    assert "Speed-up" in out
    assert "of 4 branches done" in out


def test_the_document_analysis_is_shown_beside_its_sequential_twin(start: Callable[..., RunningDemo]) -> None:
    code, out, err = start("--dag", "document_analysis").end()

    assert (code, err) == (0, "")
    assert "merge returned:" in out
    lines = out.splitlines()
    words = [line.split() for line in lines]
    head = words.index(["in", "parallel", "one", "by", "one"])
    table = lines[head + 1 : head + 6]
    assert {line.split()[0] for line in table} == {"entities", "sentiment", "topics", "Sum", "Wall"}
    assert all(re.search(r"\d+(\.\d)? m?s .*\d+(\.\d)? m?s$", line) for line in table)
    assert re.search(r"In parallel it was \d+\.\d×", out)
    assert "stands for a call" not in out


def test_batches_are_shown_with_their_items(start: Callable[..., RunningDemo]) -> None:
    code, out, err = start("--dag", "dynamic_documents").end()

    assert (code, err) == (0, "")
    batch = r"^documents batch 0: \w+ after .* s, \d+ of 100 items done, .*\d+ skipped"
    assert re.search(batch, out, re.MULTILINE)
    counts = r"^documents: (\d+) of \1 items done · in (\d+) batches · (\d+) failed · (\d+) skipped"
    line = re.search(counts, out, re.MULTILINE)
    assert line is not None
    total, batches, failed, skipped = map(int, line.groups())
    succeeded = total - failed - skipped
    assert batches == -(-total // 100)
    assert f"  documents: {succeeded}\n" in out
    assert f"{failed} of {total} items failed:\n" in out
    assert f"what {total} items took inside their code" in out
    assert f" of {batches}  at the busiest moment" in out


def test_mapped_branches_of_several_tasks_are_shown_by_name(
    run_own_dag: Callable[[str, str], tuple[int, str, str]],
) -> None:
    code, out, err = run_own_dag("steps", STEPS)

    assert (code, err) == (0, "")
    assert sorted(re.findall(r"^(\S+): success after", out, re.MULTILINE)) == ["eu", "us"]
    assert "  eu: 10\n  us: 20\n" in out
    assert "what 2 branches took inside their code" in out
    assert " of 2  at the busiest moment" in out
    assert re.search(r"^Slowest .* (eu|us)$", out, re.MULTILINE)


def test_ctrl_c_while_the_branches_run_leaves_nothing(start: Callable[..., RunningDemo]) -> None:
    running = start("--count", "3", "--work-seconds", "60")
    assert running.process.stdout is not None
    assert any(": running" in line for line in running.process.stdout)

    running.process.send_signal(signal.SIGINT)
    code, _, err = running.end()

    assert (code, err) == (1, "airflow fanout demo: interrupted; all that it had started is stopped\n")


def test_a_killed_demo_leaves_nothing(start: Callable[..., RunningDemo]) -> None:
    running = start()
    everything = 5  # The command, what watches over it, API server, scheduler and Dag processor.
    running.wait_until_alive(lambda number: number >= everything, timeout=60)

    running.process.kill()

    running.wait_until_alive(lambda number: number == 0, timeout=20)
    running.end()


@pytest.mark.parametrize(
    ("dag_id", "source", "failure"),
    [
        pytest.param(
            "failing", FAILING, "process.process_1 failed (ValueError: no service answers)", id="a branch"
        ),
        pytest.param("twins", TWINS, "a failed (ValueError: nothing to read)", id="the sequential twin"),
        pytest.param(
            "unprepared", UNPREPARED, "prepare failed (ValueError: no warehouse)", id="before the branches"
        ),
    ],
)
def test_a_failed_run_is_said_in_one_line_with_its_error(
    run_own_dag: Callable[[str, str], tuple[int, str, str]], dag_id: str, source: str, failure: str
) -> None:
    code, _, err = run_own_dag(dag_id, source)

    assert code == 1
    assert err.startswith(f"airflow fanout demo: the run failed: {failure}")
    assert err.count("\n") == 1
