"""A throwaway Airflow home, set before Airflow is imported, and a Dag to declare things in."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.unit.parsed import PARSING, start_parsing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import DAG

HOME = Path(tempfile.mkdtemp(prefix="airflow-fanout-unit-"))
os.environ["AIRFLOW_HOME"] = str(HOME)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(HOME / "dags")

# A busy machine is no failure, and 20 s are for the whole suite.
settings.register_profile("unit", max_examples=50, deadline=None)
settings.load_profile("unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark this folder's tests, and put those that wait for other processes last."""
    own = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in own:
        item.add_marker(pytest.mark.unit)
    items.sort(key=lambda item: "parsed_twice" in getattr(item, "fixturenames", ()))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start the two processes of the serialization tests, which parse Dags while the other tests run."""
    wanted = any("parsed_twice" in getattr(item, "fixturenames", ()) for item in session.items)
    if wanted and not session.config.option.collectonly:
        session.config.stash[PARSING] = start_parsing(HOME)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind."""
    for parsing in config.stash.get(PARSING, []):
        parsing.process.kill()
        parsing.process.communicate()
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture
def dag() -> Iterator[DAG]:
    """A Dag that is being built while the test runs."""
    from airflow.sdk import DAG

    with DAG("pipeline", schedule=None) as dag:
        yield dag


@pytest.fixture
def no_dag(dag: DAG) -> Iterator[None]:
    """Leave that Dag for a while."""
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    DagContext.pop()
    yield
    DagContext.push(dag)
