"""The Dags as other processes parse them, with strings hashed differently in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

__all__ = ["DAG_FILES", "PARSING", "REPOSITORY", "Parsing", "start_parsing"]

REPOSITORY = Path(__file__).parents[2]
DAG_FILES = (*sorted((REPOSITORY / "dags").glob("*.py")), Path(__file__).parent / "every_shape.py")


@dataclass(frozen=True, kw_only=True)
class Parsing:
    """
    A process that parses and serializes all Dags.

    :param process: The process.
    :param output: Where it writes what it found, as JSON.
    """

    process: subprocess.Popen[str]
    output: Path

    def result(self) -> dict[str, Any]:
        """Wait for what it found: ``{dag_id: {"hash": …, "data": …}}``."""
        said, _ = self.process.communicate(timeout=120)
        if self.process.returncode:
            raise RuntimeError(said)
        found: dict[str, Any] = json.loads(self.output.read_text(encoding="utf-8"))
        return found


PARSING = pytest.StashKey[list[Parsing]]()
"""Where the running processes are kept until the tests ask for what they found."""


def start_parsing(home: Path) -> list[Parsing]:
    """Start two processes whose strings have different hashes."""
    started = []
    for seed in ("1", "2"):
        output = home / f"dags_{seed}.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.serialize_dags", str(output), *map(str, DAG_FILES)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed, "AIRFLOW_HOME": str(home / f"seed_{seed}")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(Parsing(process=process, output=output))
    return started
