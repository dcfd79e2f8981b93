"""
### A search for the best hyperparameters, over a grid that is made at run time.

`make_grid` makes every combination of what the trigger form says, so that the number of branches is known
only in the run. Each branch cross-validates a support vector classifier with one of them, on the handwritten
digits that scikit-learn carries, and a fan-in picks the best. A combination that the classifier refuses fails
alone: `min_success=1` asks for one that works.

It is done twice, first one way and then the other, so that neither shares the machine's cores. `mapped` has
an instance of a task for each combination, four at once: each is retried, logged and shown by itself, and
each starts a process and imports scikit-learn first. `batched` runs six combinations in a task, two tasks at
once with two threads each, so four at once too; threads pay here because the classifier's training releases
Python's lock. The limits alone tell the two declarations apart. `compare` says what came of both and how long
each took: of many small branches, batches make short work.

Every branch computes with one thread: those beside it want the other cores.

Needs `pip install "airflow-fanout[examples]"`.
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pendulum
from airflow.sdk import Param, dag, task
from airflow.sdk.exceptions import AirflowFailException

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.demo.extras import needs_extra

if TYPE_CHECKING:
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

    from airflow_fanout import FanInResults

POSITIVE: dict[str, Any] = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 20}


# [START howto_mapped_and_batched]
@dag(
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    default_args={"retries": 1, "retry_delay": timedelta(seconds=30)},
    params={
        "penalties": Param(
            [0.1, 1, 10, 100], **POSITIVE, description="C: the price of a wrong training example"
        ),
        "gammas": Param([1e-4, 1e-3, 1e-2], **POSITIVE, description="How far a training example reaches"),
        "folds": Param(5, type="integer", minimum=2, maximum=20, description="Parts of the cross-validation"),
    },
    tags=["airflow-fanout", "example"],
    doc_md=__doc__,
)
def hyperparameter_search() -> None:
    @task
    def make_grid(
        params: dict[str, Any] | None = None, ti: RuntimeTaskInstanceProtocol | None = None
    ) -> list[dict[str, float]]:
        if params is None or ti is None:
            message = "expected to be called in a task of a run"
            raise RuntimeError(message)
        pairs = itertools.product(params["penalties"], params["gammas"])
        ti.xcom_push("made_at", datetime.now(UTC).isoformat())
        return [{"C": penalty, "gamma": gamma} for penalty, gamma in pairs]

    @task
    def evaluate(hyperparameters: dict[str, float], folds: str) -> dict[str, Any]:
        with needs_extra("examples"):
            from sklearn.datasets import load_digits
            from sklearn.model_selection import cross_val_score
            from sklearn.svm import SVC
            from threadpoolctl import threadpool_limits

        threadpool_limits(1)  # for the rest of this thread or process, which does nothing else
        images, digits = load_digits(return_X_y=True)
        try:
            scores = cross_val_score(
                SVC(**hyperparameters), images, digits, cv=int(folds), error_score="raise"
            )
        except ValueError as error:  # trying it again would change nothing
            raise AirflowFailException(str(error)) from error
        return {"hyperparameters": hyperparameters, "score": round(float(scores.mean()), 4)}

    def best(results: FanInResults) -> dict[str, Any]:
        # Of equals the first one: the fan-in's order is the grid's, whichever branch was done first.
        name, found = max(results.items(), key=lambda each: float(each[1]["score"]))
        return {**found, "name": name, "found_at": datetime.now(UTC).isoformat()}

    grid = make_grid()
    mapped = FanOutGroup(
        "mapped", branch=evaluate, items=grid, partial={"folds": "{{ params.folds }}"}, max_concurrency=4
    )
    best_mapped = FanInOperator(task_id="best_mapped", fan_out=mapped, python_callable=best, min_success=1)

    batched = FanOutGroup(
        "batched",
        branch=evaluate,
        items=grid,
        partial={"folds": "{{ params.folds }}"},
        max_concurrency=2,
        items_per_task=6,
        item_concurrency=2,
    )
    best_batched = FanInOperator(task_id="best_batched", fan_out=batched, python_callable=best, min_success=1)
    best_mapped >> batched

    @task
    def compare(
        mapped: dict[str, Any], batched: dict[str, Any], ti: RuntimeTaskInstanceProtocol | None = None
    ) -> dict[str, Any]:
        if ti is None:
            message = "expected to be called in a task of a run"
            raise RuntimeError(message)
        began = ti.xcom_pull(task_ids="make_grid", key="made_at")
        times = {}
        for way, found in {"mapped": mapped, "batched": batched}.items():
            report = ti.xcom_pull(task_ids=f"best_{way}", key="fan_out_report")
            wall = datetime.fromisoformat(found["found_at"]) - datetime.fromisoformat(began)
            times[way] = {
                "wall_seconds": round(wall.total_seconds(), 1),
                # Of mapped branches from a process's start to its end; of a batch's items their calls alone.
                "branch_seconds": round(report["total_branch_seconds"], 1),
                "longest_branch": report["longest_branch"],
                "succeeded": report["succeeded"],
            }
            began = found["found_at"]
            print(f"{way}: {found['hyperparameters']} scores {found['score']}; {times[way]}")
        faster = min(times, key=lambda way: float(times[way]["wall_seconds"]))
        best_of_both = max(mapped, batched, key=lambda found: float(found["score"]))
        return {
            "hyperparameters": best_of_both["hyperparameters"],
            "score": best_of_both["score"],
            "agree": mapped["hyperparameters"] == batched["hyperparameters"],
            "faster": faster,
            "times": times,
        }

    compare(best_mapped.output, best_batched.output)


hyperparameter_search()
# [END howto_mapped_and_batched]
