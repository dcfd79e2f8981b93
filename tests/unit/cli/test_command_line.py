from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit

COMMAND = """
import sys

from airflow_fanout.cli.command_line import while_read


@while_read()
def command():
    for number in range(100_000):
        print(number)
    {end}


command()
"""


@pytest.mark.parametrize("end", ["pass", "sys.exit(1)"])
def test_output_that_nobody_reads_ends_a_command_quietly(end: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND.format(end=end)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        assert command.stdout.readline() == b"0\n"
        command.stdout.close()

        assert command.stderr.read() == b""
    assert command.returncode == 141


@pytest.mark.parametrize(("end", "code"), [("pass", 0), ("sys.exit(1)", 1)])
def test_output_that_is_read_to_its_end_changes_nothing(end: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND.format(end=end)], capture_output=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr, done.stdout[-6:]) == (code, b"", b"99999\n")
