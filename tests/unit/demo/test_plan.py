from __future__ import annotations

from typing import Any

import pytest

from airflow_fanout.demo.plan import Plan, make_plan

pytestmark = pytest.mark.unit


def declared(task_id: str, class_name: str, *downstream: str) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "class_ref": {"module_path": "any", "class_name": class_name},
        "downstream_task_ids": list(downstream),
    }


def instance(
    task_id: str, map_index: int = -1, *, state: str | None = "running", name: str | None = None
) -> dict[str, Any]:
    return {
        "task_id": task_id,
        "map_index": map_index,
        "rendered_map_index": name or (None if map_index < 0 else str(map_index)),
        "state": state,
        "queued_when": "2026-01-01T12:00:00Z",
        "start_date": None,
        "end_date": None,
        "try_number": 1,
    }


def test_the_tasks_directly_before_a_fan_in_are_shown() -> None:
    plan = make_plan(
        [
            declared("prepare", "PythonOperator", "load.each"),
            declared("load.each", "PythonOperator", "combine"),
            declared("docs.split", "SplitOperator", "docs.each"),
            declared("docs.each", "BatchOperator", "index"),
            declared("combine", "FanInOperator", "publish"),
            declared("index", "FanInOperator"),
            declared("publish", "PythonOperator"),
        ]
    )

    assert plan == Plan(
        shown=frozenset({"load.each", "docs.each"}),
        fan_ins=frozenset({"combine", "index"}),
        batched=frozenset({"docs.each"}),
    )


def test_batches_are_numbered_and_branches_named_in_order() -> None:
    plan = Plan(shown=frozenset({"docs.each", "load.each"}), batched=frozenset({"docs.each"}))
    instances = [
        instance("prepare"),
        *(instance("docs.each", index) for index in (10, 9)),
        instance("load.each", 0, name="eu"),
    ]

    assert [timing.name for timing in plan.timings(instances)] == ["docs batch 9", "docs batch 10", "eu"]


@pytest.mark.parametrize(
    ("task_id", "name", "expected"),
    [
        pytest.param("load.each", None, ("load.each[2]", "queued"), id="nameless"),
        pytest.param("load.each", "eu", ("eu", "running"), id="named"),
        pytest.param("load.each.write", None, ("load.each.write[2]", "queued"), id="of-several-tasks"),
        pytest.param("theirs", None, ("theirs[2]", "running"), id="somebody-elses"),
    ],
)
def test_a_mapped_branch_runs_once_it_has_its_name(
    task_id: str, name: str | None, expected: tuple[str, str]
) -> None:
    (timing,) = Plan(shown=frozenset({task_id})).timings([instance(task_id, 2, name=name)])

    assert (timing.name, timing.state) == expected


def test_the_tasks_of_a_branch_share_its_name() -> None:
    instances = [instance("load.each.read", 2, name="eu", state="success"), instance("load.each.write", 2)]

    (timing,) = Plan(shown=frozenset({"load.each.write"})).timings(instances)

    assert (timing.name, timing.state) == ("eu", "running")


def test_an_instance_that_airflow_has_no_state_for_waits() -> None:
    (timing,) = Plan(shown=frozenset({"load"})).timings([instance("load", state=None)])

    assert (timing.name, timing.state) == ("load", "waiting")
