"""What ``airflow fanout rerun`` would clear in a run, as JSON; in a process with an Airflow's settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from airflow.utils.session import create_session

from airflow_fanout.metadata.clearing import find_plan
from airflow_fanout.reports.rerun import plan_as_json

if __name__ == "__main__":
    output, dag_id, run_id = sys.argv[1:]
    with create_session() as session:
        plan = plan_as_json(find_plan(dag_id, run_id, session=session))
    Path(output).write_text(json.dumps(plan), encoding="utf-8")  # Airflow logs to stdout
