from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TaskGroup
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.serialization.outline import DagOutline, outline

if TYPE_CHECKING:
    from airflow_fanout.serialization.outline import FanInOutline


def work(item: int = 0) -> int:
    return item


@pytest.fixture(scope="module")
def pipeline() -> DAG:
    with DAG("pipeline", schedule=None, max_active_tasks=7) as dag:
        settings: Any = {"pool": "gpu", "pool_slots": 2, "depends_on_past": True}
        static = FanOutGroup("static", branch=work, count=3, default_args=settings)
        settings = {"wait_for_downstream": True}
        mapped = FanOutGroup(
            "mapped", branch=work, items=[1, 2], mapped=True, max_concurrency=4, default_args=settings
        )
        batched = FanOutGroup("batched", branch=work, items=[1, 2, 3], items_per_task=2)
        FanInOperator(task_id="all", fan_out=static)
        FanInOperator(task_id="mapped_in", fan_out=mapped)
        [static, batched] >> FanInOperator(task_id="by_prefix", task_id_prefix="static.", key="other")
        EmptyOperator(task_id="static_beside")
        FanInOperator(task_id="templated", task_id_prefix="{{ ds }}") << batched
    return dag


def stored(dag: DAG) -> Any:
    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


@pytest.fixture(scope="module", params=["parsed", "stored"])
def seen(request: pytest.FixtureRequest, pipeline: DAG) -> DagOutline:
    return outline(pipeline if request.param == "parsed" else stored(pipeline))


def fan_in(seen: DagOutline, task_id: str) -> FanInOutline:
    return next(fan_in for fan_in in seen.fan_ins if fan_in.task_id == task_id)


def test_limits_are_those_of_the_dag_and_its_tasks(seen: DagOutline) -> None:
    branch, each = seen.tasks["static.static_1"], seen.tasks["mapped.each"]

    assert seen.max_active_tasks == 7
    assert (branch.pool, branch.pool_slots, branch.is_mapped) == ("gpu", 2, False)
    assert (each.max_active_tis_per_dagrun, each.is_mapped) == (4, True)


def test_tasks_that_wait_for_the_run_before_are_known(seen: DagOutline) -> None:
    waiting = {task.task_id for task in seen.tasks.values() if task.waits_on_past}

    assert waiting == {"static.static_0", "static.static_1", "static.static_2", "mapped.each"}


def test_a_group_that_only_a_prefix_collects_is_known_from_its_file_alone() -> None:
    with DAG("pipeline", schedule=None) as dag:
        FanOutGroup("static", branch=work, count=3) >> FanInOperator(task_id="in", task_id_prefix="static.")

    assert outline(dag).groups.keys() == {"static"}
    assert outline(stored(dag)).groups.keys() == set()


def test_fan_ins_are_known_as_they_were_declared(seen: DagOutline) -> None:
    assert [
        (fan_in.task_id, fan_in.group_id, fan_in.task_id_prefix, fan_in.key) for fan_in in seen.fan_ins
    ] == [
        ("all", "static", None, "return_value"),
        ("by_prefix", None, "static.", "other"),
        ("mapped_in", "mapped", None, "return_value"),
        ("templated", None, "{{ ds }}", "return_value"),
    ]
    assert [fan_in.task_id for fan_in in seen.fan_ins if fan_in.is_templated] == ["templated"]


@pytest.mark.parametrize(
    ("prefix", "matches"),
    [
        pytest.param("static", ["static.static_0", "static.static_1", "static.static_2"], id="branches"),
        pytest.param("batched.", ["batched.each"], id="not the task that cuts the items"),
        pytest.param("mapped.", [], id="not what is upstream of another fan-in"),
    ],
)
def test_a_prefix_takes_what_is_directly_upstream(seen: DagOutline, prefix: str, matches: list[str]) -> None:
    assert seen.prefix_matches(fan_in(seen, "by_prefix"), prefix) == matches


def test_tasks_that_a_prefix_takes_without_being_wired_are_known(seen: DagOutline) -> None:
    assert seen.unwired_matches(fan_in(seen, "by_prefix"), "static") == ["static_beside"]
    assert seen.unwired_matches(fan_in(seen, "by_prefix"), "batched.") == []


def test_tasks_at_any_distance_are_found(seen: DagOutline) -> None:
    assert seen.upstream_of("templated") == {"batched.split", "batched.each"}
    assert seen.downstream_of("batched.split") == {"batched.each", "by_prefix", "templated"}


@pytest.mark.parametrize("prefix_group_id", [True, False], ids=["prefixed", "unprefixed"])
@pytest.mark.parametrize("parent", [None, "outer"])
@pytest.mark.parametrize(
    "prefix",
    ["process_", "process_0", "process_1", "process.", "outer.process", "process.process_0", "other"],
)
def test_the_placeholder_matches_what_the_first_branch_would(
    prefix: str, parent: str | None, prefix_group_id: bool
) -> None:
    def seen_with(count: int) -> DagOutline:
        with DAG("pipeline", schedule=None) as dag:
            around = None if parent is None else TaskGroup(parent)
            group = FanOutGroup(
                "process", branch=work, count=count, prefix_group_id=prefix_group_id, parent_group=around
            )
            group >> FanInOperator(task_id="in", task_id_prefix=prefix)
        return outline(dag)

    empty, single = seen_with(0), seen_with(1)

    assert empty.prefix_matches(fan_in(empty, "in"), prefix) == []
    assert empty.placeholder_matches(fan_in(empty, "in"), prefix) is bool(
        single.prefix_matches(fan_in(single, "in"), prefix)
    )
