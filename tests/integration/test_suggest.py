"""``airflow fanout suggest`` on runs that there were."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.conftest import BUNDLE

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.integration

CHAINED = """
import time
from airflow.sdk import DAG, chain, task

with DAG("chained", schedule=None):
    def wait(seconds):
        time.sleep(seconds)

    chain(*(task(wait, task_id=f"wait_{number}")(0.3) for number in range(3)))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The Dags folder of this process, instead of the example Dags."""
    bundles = [{**BUNDLE, "kwargs": {"path": str(tmp_path)}}]
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(bundles))
    (tmp_path / "chained.py").write_text(CHAINED, encoding="utf-8")
    return tmp_path


def suggested(capsys: pytest.CaptureFixture[str], dag_id: str, **options: Any) -> str:
    from airflow_fanout.cli.suggest import command

    capsys.readouterr()
    command(Namespace(**{"dag_id": dag_id, "runs": 10, "output": "json", "verbose": False, **options}))
    return capsys.readouterr().out


def test_times_are_those_of_the_last_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from airflow.dag_processing.dagbag import DagBag

    for _ in range(2):
        DagBag(folder).dags["chained"].test()

    found = json.loads(suggested(capsys, "chained"))
    assert (found["runs"], found["source"]) == (2, "file")
    assert [chain["tasks"] for chain in found["chains"]] == [["wait_0", "wait_1", "wait_2"]]
    assert all(each["median_seconds"] >= 0.3 for each in found["tasks"])
    assert found["saved_seconds"] == pytest.approx(
        sum(sorted(each["median_seconds"] for each in found["tasks"])[:2]), abs=0.001
    )
    assert json.loads(suggested(capsys, "chained", runs=1))["runs"] == 1
    assert "takes nothing from" in suggested(capsys, "chained", output="text")


def test_an_unknown_dag_is_told_with_what_is_like_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        suggested(capsys, "chaned")

    assert (
        "airflow fanout suggest: there is no Dag 'chaned'; did you mean 'chained'?" in capsys.readouterr().err
    )
