"""An Airflow home of its own for ``dag.test()``; set before anything imports Airflow, which reads it once."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

import pytest

EXAMPLE_DAGS = Path(__file__).parents[2] / "dags"
BUNDLE = {
    "name": "dags-folder",
    "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
    "kwargs": {"path": str(EXAMPLE_DAGS)},
}

if "airflow" in sys.modules:
    _message = "Airflow was imported before tests/integration/conftest.py could give it a home of its own"
    raise pytest.UsageError(_message)

_home = tempfile.TemporaryDirectory(prefix="airflow-fanout-integration-", ignore_cleanup_errors=True)
os.environ["AIRFLOW_HOME"] = _home.name
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW_CONN_FANOUT_WAREHOUSE"] = json.dumps(
    {"conn_type": "sqlite", "host": str(Path(_home.name, "warehouse.db"))}
)


@pytest.fixture(scope="session", autouse=True)
def airflow_database() -> None:
    """Make the SQLite database that ``dag.test()`` writes to, and name the folder that it takes Dags from."""
    # Read whenever it is asked for, unlike [core] dags_folder, which another suite's conftest may have set.
    os.environ["AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST"] = json.dumps([BUNDLE])
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(autouse=True)
def bundles_are_read_anew() -> None:
    """Airflow reads the configured bundles once in a process from 3.4 on; these tests change them."""
    from airflow.dag_processing.bundles import manager

    if (snapshot := getattr(manager, "_load_bundle_config_snapshot", None)) is not None:
        snapshot.cache_clear()
