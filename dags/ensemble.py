"""
### Several models on the same data, and one answer.

`models` trains six classifiers of different kinds on the breast cancer data that scikit-learn carries; each
returns the probability that it gives each held-back sample. `answer` lets them vote, and takes the mean. It
asks for four of six: a model that fails costs the ensemble its voice, and `missing` says so.

`trees` grows a forest by hand: 64 decision trees, each on a sample of its own, in two tasks with two child
processes each (`item_executor="process"`), because growing a tree is computing. Nobody wants the single
trees, so `combine=` adds their votes up where they arise: one list of each task reaches the fan-in, not 64.

Needs `pip install "airflow-fanout[examples]"`.
"""

from __future__ import annotations

import operator
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.sdk import dag

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.demo.extras import needs_extra

if TYPE_CHECKING:
    from airflow_fanout import FanInResults

MODELS = {
    "logistic": ("sklearn.linear_model.LogisticRegression", {"max_iter": 5000}),
    "neighbours": ("sklearn.neighbors.KNeighborsClassifier", {"n_neighbors": 9}),
    "bayes": ("sklearn.naive_bayes.GaussianNB", {}),
    "discriminant": ("sklearn.discriminant_analysis.LinearDiscriminantAnalysis", {}),
    "tree": ("sklearn.tree.DecisionTreeClassifier", {"max_depth": 4, "random_state": 0}),
    "forest": ("sklearn.ensemble.RandomForestClassifier", {"n_estimators": 50, "random_state": 0}),
}
TREES = 64


def load_samples() -> list[Any]:
    """Split the data in the same way in every branch: to learn from, to answer; their classes."""
    with needs_extra("examples"):
        from sklearn.datasets import load_breast_cancer
        from sklearn.model_selection import train_test_split

    samples, classes = load_breast_cancer(return_X_y=True)
    split: list[Any] = train_test_split(samples, classes, test_size=0.3, random_state=0)
    return split


def share_right(answers: list[bool], classes: Any) -> float:
    right = sum(answer == bool(of_class) for answer, of_class in zip(answers, classes, strict=True))
    return round(right / len(answers), 4)


def ask_model(model: tuple[str, dict[str, Any]]) -> list[float]:
    """Train a model, and return its probabilities of the first class for the samples held back."""
    path, settings = model
    learned_from, held_back, classes, _ = load_samples()
    module, _, name = path.rpartition(".")
    trained = getattr(import_module(module), name)(**settings).fit(learned_from, classes)
    return [round(float(pair[1]), 6) for pair in trained.predict_proba(held_back)]


def ask_tree(index: int) -> list[int]:
    """Grow a tree on samples drawn with replacement, and return its answers: 0 or 1 for each sample."""
    learned_from, held_back, classes, _ = load_samples()
    from sklearn.tree import DecisionTreeClassifier
    from sklearn.utils import resample

    drawn, their_classes = resample(learned_from, classes, random_state=index)
    tree = DecisionTreeClassifier(max_features="sqrt", random_state=index).fit(drawn, their_classes)
    return [int(answer) for answer in tree.predict(held_back)]


def add_votes(votes: list[int], more: list[int]) -> list[int]:
    return list(map(operator.add, votes, more))


# [START howto_ensemble]
@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    tags=["airflow-fanout", "example"],
    doc_md=__doc__,
)
def ensemble() -> None:
    def answer(results: FanInResults) -> dict[str, Any]:
        *_, classes = load_samples()
        probabilities = list(results.values())
        votes = [sum(p > 0.5 for p in of_sample) for of_sample in zip(*probabilities, strict=True)]
        means = [sum(of_sample) / len(probabilities) for of_sample in zip(*probabilities, strict=True)]
        return {
            "models": {name: share_right([p > 0.5 for p in one], classes) for name, one in results.items()},
            "missing": {name: outcome.error for name, outcome in results.failed.items()},
            "vote": share_right([2 * vote > len(probabilities) for vote in votes], classes),
            "mean": share_right([mean > 0.5 for mean in means], classes),
        }

    models = FanOutGroup("models", branch=ask_model, items=MODELS)
    FanInOperator(task_id="answer", fan_out=models, python_callable=answer, min_success=len(MODELS) - 2)

    def forest(results: FanInResults) -> dict[str, Any]:
        *_, classes = load_samples()
        votes = results.combined
        return {
            "trees": len(results),
            "vote": share_right([2 * vote > len(results) for vote in votes], classes),
        }

    trees = FanOutGroup(
        "trees",
        branch=ask_tree,
        count=TREES,
        items_per_task=TREES // 2,
        item_concurrency=2,
        item_executor="process",
        combine=add_votes,
    )
    FanInOperator(task_id="forest", fan_out=trees, python_callable=forest)


ensemble()
# [END howto_ensemble]
