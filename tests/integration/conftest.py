"""An Airflow home of its own for ``dag.test()``; set before anything imports Airflow, which reads it once."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

EXAMPLE_DAGS = Path(__file__).parents[2] / "dags"

if "airflow" in sys.modules:
    _message = "Airflow was imported before tests/integration/conftest.py could give it a home of its own"
    raise pytest.UsageError(_message)

_home = tempfile.TemporaryDirectory(prefix="airflow-fanout-integration-", ignore_cleanup_errors=True)
for _name in [name for name in os.environ if name.startswith("AIRFLOW__")]:
    del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": _home.name,
    "AIRFLOW__CORE__DAGS_FOLDER": str(EXAMPLE_DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
}


@pytest.fixture(scope="session", autouse=True)
def migrated_database() -> None:
    """Make the SQLite database that ``dag.test()`` writes to."""
    from airflow.utils.db import initdb

    initdb()
