"""What the metadata database says of a run's branches, as JSON; in a process with an Airflow's settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from airflow.utils.session import create_session

from airflow_fanout.metadata.runs import find_run, read_run
from airflow_fanout.reports.branches import group_runs


def branches(dag_id: str, run_id: str) -> dict[str, Any]:
    """Return state and error of every branch by name, by group."""
    with create_session() as session:
        facts = read_run(find_run(dag_id, run_id, session=session), session=session)
    return {
        run.title: {branch.name: [branch.state, branch.error] for branch in run.branches}
        for run in group_runs(facts)
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(
        json.dumps(branches(*sys.argv[2:])), encoding="utf-8"
    )  # Airflow logs to stdout
