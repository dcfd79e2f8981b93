"""What ``report``, ``rerun`` and the tab read of a run's branches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.airflow import ControlledAirflow
    from tests.support.run import Run

__all__ = ["read_groups"]

SCRIPT = Path(__file__).parents[1] / "distributed" / "read_run.py"


def read_groups(airflow: ControlledAirflow, run: Run, folder: Path) -> dict[str, dict[str, list[Any]]]:
    """Read state and error of every branch from the metadata database, by group and name."""
    output = folder / "groups.json"
    command = [sys.executable, str(SCRIPT), str(output), run.dag_id, run.run_id]
    subprocess.run(command, cwd=airflow.home, env=airflow.environment("command"), check=True)
    groups: dict[str, dict[str, list[Any]]] = json.loads(output.read_text(encoding="utf-8"))
    return groups
