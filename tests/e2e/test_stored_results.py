"""``results_path`` on a real scheduler: only files that a batch's record names count."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.dags.stored_results import FATES
from tests.support.run import Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.airflow import ControlledAirflow

pytestmark = pytest.mark.slow

DIED = "the process of its batch ended before it had reported"


@pytest.fixture(scope="module")
def run(airflow: ControlledAirflow, scratch: Path) -> Run:
    (scratch / "a-file").write_text("")
    run = Run.start(airflow, "stored_results")
    run.wait()
    return run


@pytest.fixture(scope="module")
def folder(run: Run, scratch: Path) -> Path:
    return scratch / "stored" / run.run_id


@pytest.fixture(scope="module")
def told(run: Run) -> dict[str, Any]:
    told: dict[str, Any] = run.xcom("tell")
    return told


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_item_is_accounted_for(told: dict[str, Any]) -> None:
    outcomes = dict(zip(FATES, told["outcomes"].values(), strict=True))

    assert list(told["outcomes"]) == [f"item {index:02}" for index in range(len(FATES))]
    expected = dict.fromkeys(FATES, "success") | dict.fromkeys("efg", "missing")
    expected |= {"fails": "failed", "dies": "failed"}
    assert {fate: state for fate, (state, *_) in outcomes.items()} == expected
    assert outcomes["fails"][1] == "ValueError: broken on try 2"
    assert outcomes["dies"][1] == DIED
    assert "no longer stored" in outcomes["e"][1]


def test_values_are_what_the_items_returned(told: dict[str, Any]) -> None:
    outcomes = dict(zip(FATES, told["outcomes"].values(), strict=True))

    values = {fate: value["fate"] for fate, (state, _, value) in outcomes.items() if state == "success"}
    assert values == {fate: fate for fate in values}


def test_only_files_that_a_record_names_are_parts(folder: Path, told: dict[str, Any]) -> None:
    names = [path.rpartition("/")[2] for path in told["parts"]]

    assert names[:2] == ["part-0-2.jsonl", "part-1-2.jsonl"]
    assert all(name.startswith("part-3-2-") for name in names[2:])
    assert (folder / "part-0-1.jsonl").exists()


def test_failed_items_are_those_of_the_last_try(folder: Path) -> None:
    failed = {path.name: lines(path) for path in folder.glob("failed-*.jsonl")}

    assert {name: [line["item"] for line in items] for name, items in failed.items()} == {
        "failed-1-2.jsonl": ["fails"],
        "failed-3-2.jsonl": ["dies"],
    }


def test_the_manifest_is_the_value_of_a_fan_in_without_a_function(
    run: Run, folder: Path, told: dict[str, Any]
) -> None:
    path = run.xcom("manifest")
    manifest = json.loads((folder / "manifest.json").read_text())

    assert path == f"file://{folder}/manifest.json"
    assert manifest["parts"] == told["parts"]
    counts = {name: manifest[name] for name in ("expected", "succeeded", "failed", "missing", "degraded")}
    assert counts == {"expected": 12, "succeeded": 7, "failed": 2, "missing": 3, "degraded": True}


def test_storage_that_refuses_costs_a_try_and_no_item_runs_again(run: Run, scratch: Path) -> None:
    told = run.xcom("tell_refused")

    assert run.instance("refused.each", 0).try_number == 2
    assert Counter((scratch / "refused-ran").read_text().split()) == {"a": 1, "b": 1, "c": 1}
    assert [state for state, *_ in told["outcomes"].values()] == ["success"] * 3
    assert told["parts"] == [f"file://{scratch}/fine/{run.run_id}/part-0-2.parquet"]


def test_xcoms_have_paths_and_numbers_alone(run: Run, folder: Path) -> None:
    assert run.xcom("acts.each", map_index=0) == {
        "part": f"file://{folder}/part-0-2.jsonl",
        "succeeded": 3,
        "failed": 0,
        "skipped": 0,
        "failed_items": None,
    }
    assert "pair" not in json.dumps(run.xcom("acts.each", "fan_out_branch", map_index=0))
