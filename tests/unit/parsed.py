"""The Dags as other processes parse and serialize them, with strings hashed differently in each."""

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

    :param output: The file that it writes them into, as JSON.
    """

    process: subprocess.Popen[str]
    output: Path

    def result(self) -> dict[str, Any]:
        """Wait for the Dags: ``{dag_id: {"hash": …, "data": …}}``."""
        log, _ = self.process.communicate(timeout=120)
        if self.process.returncode:
            raise RuntimeError(log)
        dags: dict[str, Any] = json.loads(self.output.read_text(encoding="utf-8"))
        return dags


PARSING = pytest.StashKey[list[Parsing]]()
"""Where the running processes are kept until the tests ask for the Dags."""


def start_parsing(home: Path) -> list[Parsing]:
    """Start two processes whose strings have different hashes."""
    started = []
    for seed in ("1", "2"):
        output = home / f"dags_{seed}.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.parsed", str(output)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed, "AIRFLOW_HOME": str(home / f"seed_{seed}")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(Parsing(process=process, output=output))
    return started


def serialize_dags() -> dict[str, Any]:
    """Serialize all Dags as Airflow's Dag processor does."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import DagSerialization

    dags: dict[str, Any] = {}
    for file in DAG_FILES:
        bag = DagBag(file)
        if bag.import_errors:
            raise ImportError(bag.import_errors)
        for dag_id, dag in bag.dags.items():
            data = DagSerialization.to_dict(dag)
            dags[dag_id] = {"hash": SerializedDagModel.hash(data), "data": data}  # type: ignore[no-untyped-call]
    return dags


if __name__ == "__main__":  # writes a file, for Airflow logs to standard output
    Path(sys.argv[1]).write_text(json.dumps(serialize_dags()), encoding="utf-8")
