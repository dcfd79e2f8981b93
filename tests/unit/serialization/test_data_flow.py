"""What tasks take from others, in a Dag as its file makes it and as the database has it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import airflow.example_dags
import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.providers.standard.sensors.filesystem import FileSensor
from airflow.sdk import DAG, Asset, setup, task, task_group
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.reports.suggest import suggest
from airflow_fanout.serialization.data_flow import READS_ANY, Step, steps_of
from tests.unit.parsed import REPOSITORY

pytestmark = pytest.mark.usefixtures("dag")

TABLE = Asset("s3://warehouse/table")


@task
def load() -> list[int]:
    return [1]


@task
def use(value: Any = None) -> Any:
    return value


def is_odd(number: int) -> bool:
    return bool(number % 2)


def pull_by_name(ti: Any) -> Any:
    return ti.xcom_pull(task_ids=["load"])


def pull_by_number(ti: Any) -> Any:
    return [ti.xcom_pull(task_ids=f"load_{number}") for number in range(3)]


def stored(dag: DAG) -> Any:
    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


def steps(dag: DAG, task_id: str) -> list[Step]:
    """A task in the Dag of the file, and in that of the database."""
    return [steps_of(made)[task_id] for made in (dag, stored(dag))]


@task_group
def steps_of_one(value: Any) -> Any:
    return use(value)


@pytest.mark.parametrize(
    "declare",
    [
        pytest.param(lambda: use.override(task_id="x")(load()), id="an argument"),
        pytest.param(lambda: use.override(task_id="x")({"deep": [load()]}), id="within an argument"),
        pytest.param(lambda: use.override(task_id="x").expand(value=load()), id="expanded over"),
        pytest.param(lambda: use.override(task_id="x").partial(value=load()).expand_kwargs([{}]), id="bound"),
        pytest.param(
            lambda: BashOperator(task_id="x", bash_command="echo {{ ti.xcom_pull('load') }}"), id="a template"
        ),
        pytest.param(lambda: BashOperator(task_id="x", bash_command=f"echo {load()}"), id="in a text"),
    ],
)
def test_what_a_task_takes_is_read(dag: DAG, declare: Any) -> None:
    load.override(task_id="other")()
    declare()
    if "load" not in dag.task_ids:
        load()

    assert [(set(found.reads), found.waits) for found in steps(dag, "x")] == [({"load"}, "")] * 2


def test_what_a_mapped_task_group_is_expanded_over_is_read_by_its_tasks(dag: DAG) -> None:
    steps_of_one.expand(value=load())

    assert [found.reads for found in steps(dag, "steps_of_one.use")] == [{"load"}] * 2


def test_an_asset_is_data(dag: DAG) -> None:
    EmptyOperator(task_id="writes", outlets=[TABLE]) >> EmptyOperator(task_id="reads", inlets=[TABLE])

    assert [found.reads for found in steps(dag, "reads")] == [{"writes"}] * 2
    assert not steps_of(dag)["writes"].is_junction


class TestFunctions:
    def test_a_task_that_its_code_names_is_read(self, dag: DAG) -> None:
        load()
        PythonOperator(task_id="x", python_callable=pull_by_name)
        PythonOperator.partial(task_id="y", python_callable=pull_by_name).expand(op_args=[[1]])

        assert [steps_of(dag)[i].reads for i in ("x", "y")] == [{"load"}] * 2

    def test_code_that_makes_up_names_reads_nobody_knows_whom(self, dag: DAG) -> None:
        PythonOperator(task_id="x", python_callable=pull_by_number)
        PythonOperator.partial(task_id="y", python_callable=pull_by_number).expand(op_args=[[1]])

        assert [steps_of(dag)[i].waits for i in ("x", "y")] == [READS_ANY] * 2

    def test_a_python_operator_of_the_database_reads_nobody_knows_whom(self, dag: DAG) -> None:
        PythonOperator(task_id="x", python_callable=len, op_args=["text"])

        assert [found.waits for found in steps(dag, "x")] == ["", READS_ANY]


@pytest.mark.parametrize(
    ("declare", "task_id", "reason"),
    [
        (lambda: FileSensor(task_id="x", filepath="a"), "x", ("", "waits for something outside of the Dag")),
        (lambda: task.short_circuit(task_id="x")(is_odd)(1), "x", ("", "may skip what comes after it")),
        (lambda: setup(use.override(task_id="x"))(1), "x", ("is a setup", "is a setup")),
        (
            lambda: use.override(task_id="x", trigger_rule="all_done")(1),
            "x",
            ("runs by the trigger rule all_done", ""),
        ),
        (lambda: EmptyOperator(task_id="x"), "x", ("", "only puts others in order")),
        (
            lambda: BashOperator(task_id="x", bash_command="{{ ti.xcom_pull(params.of) }}"),
            "x",
            (READS_ANY, ""),
        ),
    ],
)
def test_a_reason_for_the_order_is_told(dag: DAG, declare: Any, task_id: str, reason: Any) -> None:
    declare()

    assert [(found.waits, found.holds) for found in steps(dag, task_id)] == [reason] * 2


@pytest.mark.parametrize(
    "how", [{}, {"mapped": True}, {"items_per_task": 2}], ids=["static", "mapped", "batched"]
)
def test_no_order_of_a_fan_out_and_its_fan_in_is_without_reason(dag: DAG, how: Any) -> None:
    FanInOperator(task_id="f", fan_out=FanOutGroup("g", branch=use, items=load(), **how))
    FanInOperator(task_id="h", fan_out=FanOutGroup("i", branch=use, items=["a"], **how))

    for made in (dag, stored(dag)):
        assert suggest("pipeline", steps_of(made), {}).chains == ()


@cache
def dag_of(path: Path, dag_id: str) -> Any:
    return DagBag(path).dags[dag_id]


AIRFLOWS = Path(airflow.example_dags.__file__).parent
EXAMPLES = [
    (AIRFLOWS / "tutorial.py", "tutorial", [("print_date", "sleep"), ("print_date", "templated")]),
    (AIRFLOWS / "tutorial_taskflow_api.py", "tutorial_taskflow_api", []),
    (AIRFLOWS / "tutorial_dag.py", "tutorial_dag", []),
    (AIRFLOWS / "example_branch_labels.py", "example_branch_labels", []),
    (AIRFLOWS / "example_setup_teardown.py", "example_setup_teardown", []),
    (AIRFLOWS / "example_dynamic_task_mapping.py", "example_dynamic_task_mapping", []),
    (
        REPOSITORY / "dags/document_analysis.py",
        "document_analysis_sequential",
        [("sentiment", "topics"), ("topics", "entities")],
    ),
    (REPOSITORY / "dags/document_analysis.py", "document_analysis", []),
    (REPOSITORY / "dags/nightly_validation.py", "nightly_validation", []),
    (REPOSITORY / "dags/hyperparameter_search.py", "hyperparameter_search", []),
]


@pytest.mark.parametrize(("path", "dag_id", "expected"), EXAMPLES, ids=[dag_id for _, dag_id, _ in EXAMPLES])
@pytest.mark.parametrize("form", [lambda dag: dag, stored], ids=["file", "database"])
def test_example_dags_have_what_one_would_find_by_reading(
    path: Path, dag_id: str, expected: Any, form: Any
) -> None:
    found = suggest(dag_id, steps_of(form(dag_of(path, dag_id))), {})

    assert [tuple(pair) for chain in found.chains for pair in chain.pairs] == expected
