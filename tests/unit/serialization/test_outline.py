from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task, task_group
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout import FanInOperator, FanOutGroup
from airflow_fanout.serialization.outline import DagOutline, outline

if TYPE_CHECKING:
    from airflow_fanout.serialization.outline import FanInOutline


def work(index: int = 0) -> int:
    return index


def twice(item: int) -> int:
    return 2 * item


@task_group
def etl(item: str) -> Any:
    @task
    def load(value: str) -> str:
        return value

    return load(load.override(task_id="extract")(item))


@pytest.fixture(scope="module")
def pipeline() -> DAG:
    with DAG("pipeline", schedule=None, max_active_tasks=7) as dag:
        settings: Any = {"pool": "gpu", "pool_slots": 2}
        static = FanOutGroup("static", branch=work, count=3, default_args=settings)
        mapped = FanOutGroup("mapped", branch=twice, items=[1, 2], mapped=True, max_concurrency=4)
        batched = FanOutGroup("batched", branch=twice, items=[1, 2, 3], items_per_task=2)
        steps = FanOutGroup("steps", branch=etl, items={"eu": "1", "us": "2"})
        FanInOperator(task_id="all", fan_out=static, min_success=2)
        FanInOperator(task_id="mapped_in", fan_out=mapped)
        FanInOperator(task_id="steps_in", fan_out=steps)
        [static, batched] >> FanInOperator(task_id="by_prefix", task_id_prefix="static.", key="other")
        EmptyOperator(task_id="static_beside")
        FanInOperator(task_id="templated", task_id_prefix="{{ ds }}") << batched
    return dag


@pytest.fixture(scope="module", params=["parsed", "stored"])
def seen(request: pytest.FixtureRequest, pipeline: DAG) -> DagOutline:
    if request.param == "parsed":
        return outline(pipeline)
    return outline(DagSerialization.from_dict(DagSerialization.to_dict(pipeline)))


def fan_in(seen: DagOutline, task_id: str) -> FanInOutline:
    return next(each for each in seen.fan_ins if each.task_id == task_id)


def test_its_limits_are_those_of_the_dag_and_its_tasks(seen: DagOutline) -> None:
    assert seen.max_active_tasks == 7
    branch = seen.tasks["static.static_1"]
    assert (branch.pool, branch.pool_slots, branch.is_mapped) == ("gpu", 2, False)
    assert seen.tasks["mapped.each"].max_active_tis_per_dagrun == 4
    assert seen.tasks["mapped.each"].is_mapped


@pytest.mark.parametrize("stored", [False, True], ids=["parsed", "stored"])
@pytest.mark.parametrize("setting", ["depends_on_past", "wait_for_downstream"])
def test_it_tells_what_waits_for_the_run_before(setting: str, stored: bool) -> None:
    settings: Any = {setting: True}
    with DAG("pipeline", schedule=None) as dag:
        EmptyOperator(task_id="beside")
        FanOutGroup("static", branch=work, count=1, default_args=settings)
        FanOutGroup("mapped", branch=twice, items=[1], mapped=True, default_args=settings)
    found = outline(DagSerialization.from_dict(DagSerialization.to_dict(dag)) if stored else dag)

    assert {task.task_id for task in found.tasks.values() if task.waits_on_past} == {
        "static.static_0",
        "mapped.each",
    }


def test_groups_are_known_with_their_modes_and_numbers(seen: DagOutline) -> None:
    found = {group_id: (group.mode, group.known_count) for group_id, group in seen.groups.items()}

    assert found == {
        "static": ("static", 3),
        "mapped": ("mapped", 2),
        "batched": ("batched", 3),
        "steps": ("static", 2),
    }


def test_all_tasks_of_a_branch_are_known(seen: DagOutline) -> None:
    assert seen.groups["steps"].all_task_ids == [
        "steps.eu.extract",
        "steps.eu.load",
        "steps.us.extract",
        "steps.us.load",
    ]


def test_a_group_that_only_a_prefix_collects_is_known_from_its_file() -> None:
    with DAG("pipeline", schedule=None) as dag:
        FanOutGroup("static", branch=work, count=3) >> FanInOperator(task_id="in", task_id_prefix="static.")

    assert outline(dag).groups.keys() == {"static"}
    assert outline(DagSerialization.from_dict(DagSerialization.to_dict(dag))).groups.keys() == set()


def test_fan_ins_say_what_they_collect_and_tolerate(seen: DagOutline) -> None:
    assert [each.task_id for each in seen.fan_ins] == [
        "all",
        "by_prefix",
        "mapped_in",
        "steps_in",
        "templated",
    ]
    assert (fan_in(seen, "all").group_id, fan_in(seen, "all").task_id_prefix) == ("static", None)
    assert fan_in(seen, "all").policy.min_success == 2
    by_prefix = fan_in(seen, "by_prefix")
    assert (by_prefix.group_id, by_prefix.task_id_prefix, by_prefix.key) == (None, "static.", "other")
    assert [each.task_id for each in seen.fan_ins if each.is_templated] == ["templated"]


def test_a_prefix_takes_what_is_directly_upstream(seen: DagOutline) -> None:
    assert seen.matches(fan_in(seen, "by_prefix"), "static") == [f"static.static_{n}" for n in range(3)]
    assert seen.matches(fan_in(seen, "by_prefix"), "batched.") == ["batched.each"]
    assert seen.matches(fan_in(seen, "by_prefix"), "mapped.") == []


def test_strays_are_neither_upstream_nor_downstream(seen: DagOutline) -> None:
    assert seen.strays(fan_in(seen, "by_prefix"), "static") == ["static_beside"]
    assert seen.strays(fan_in(seen, "by_prefix"), "batched.") == []


def test_tasks_at_any_distance_are_found(seen: DagOutline) -> None:
    assert seen.upstream_of("steps_in") == set(seen.groups["steps"].all_task_ids)
    assert seen.downstream_of("steps.eu.extract") == {"steps.eu.load", "steps_in"}


@pytest.mark.parametrize("prefix_group_id", [True, False])
@pytest.mark.parametrize(
    ("prefix", "stands"), [("process_", True), ("process_0", True), ("process_1", False), ("other", False)]
)
def test_a_group_without_branches_stands_for_its_first(
    prefix_group_id: bool, prefix: str, stands: bool
) -> None:
    with DAG("pipeline", schedule=None) as dag:
        group = FanOutGroup("process", branch=work, count=0, prefix_group_id=prefix_group_id)
        prefix = f"process.{prefix}" if prefix_group_id else prefix
        group >> FanInOperator(task_id="in", task_id_prefix=prefix)
    seen = outline(dag)

    assert seen.matches(fan_in(seen, "in"), prefix) == []
    assert seen.stands_for_nothing(fan_in(seen, "in"), prefix) is stands


def test_functions_of_a_batch_all_run_at_once_unless_told() -> None:
    with DAG("pipeline", schedule=None) as dag:
        for name, more in (("told", {"item_concurrency": 1}), ("untold", {})):
            branch = {"a": lambda: 1, "b": lambda: 2, "c": lambda: 3}
            FanOutGroup(name, branch=branch, items_per_task=2, **more)  # type: ignore[arg-type]
    stored = outline(DagSerialization.from_dict(DagSerialization.to_dict(dag)))

    assert {name: group.item_concurrency for name, group in stored.groups.items()} == {"told": 1, "untold": 2}
