"""Every example Dag: tested documentation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from airflow.dag_processing.dagbag import DagBag

pytestmark = pytest.mark.integration

FILES = sorted(Path(__file__).parents[2].joinpath("dags").glob("*.py"))


@pytest.fixture(scope="module", params=FILES, ids=lambda path: path.stem)
def parsed(request: pytest.FixtureRequest) -> DagBag:
    """What Airflow makes of one Dag file."""
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(request.param)


def test_a_dag_file_is_imported_without_an_error(parsed: DagBag) -> None:
    assert parsed.import_errors == {}


def test_a_dag_file_has_a_dag(parsed: DagBag) -> None:
    assert parsed.dags


def test_a_dag_runs_to_success(parsed: DagBag) -> None:
    for dag in parsed.dags.values():
        assert dag.test().state == "success"
