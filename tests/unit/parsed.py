"""The Dags as other processes parse them, with strings hashed differently in each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["DAG_FILES", "PARSING", "REPOSITORY", "start_parsing"]

REPOSITORY = Path(__file__).parents[2]
DAG_FILES = (*sorted((REPOSITORY / "dags").glob("*.py")), Path(__file__).parent / "every_shape.py")

PARSING = pytest.StashKey[list[subprocess.Popen[str]]]()
"""Where the running processes are kept until the tests ask for what they found."""


def start_parsing(home: Path) -> list[subprocess.Popen[str]]:
    """Start two processes that parse and serialize all Dags; each writes JSON to its standard output."""
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.unit.serialize_dags", *map(str, DAG_FILES)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed, "AIRFLOW_HOME": str(home / f"seed_{seed}")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
