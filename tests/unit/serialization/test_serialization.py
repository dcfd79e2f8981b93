"""What Airflow stores of the Dags: the same on every parse, and enough to know what was declared."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from airflow.sdk import TaskGroup
from airflow.serialization.serialized_objects import DagSerialization

from airflow_fanout.serialization.declaration import DeclaredFanIn, declared_group
from airflow_fanout.serialization.outline import outline
from tests.unit import every_shape
from tests.unit.parsed import DAG_FILES, PARSING

LINE = "No source code available for <class 'airflow_fanout.operators.hooks.Hook'>"
DAG_IDS = [file.stem for file in DAG_FILES]


@pytest.fixture(scope="session")
def parsed_twice(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """All Dags as two processes found them, whose strings have different hashes."""
    first, second = (parsing.result() for parsing in request.config.stash[PARSING])
    return first, second


@pytest.fixture(scope="session")
def stored(parsed_twice: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """The serialized Dag that has every shape."""
    data: dict[str, Any] = parsed_twice[0]["every_shape"]["data"]
    return data


def tasks_of(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["__var"]["task_id"]: task["__var"] for task in data["dag"]["tasks"]}


def groups_of(group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for kind, child in group["children"].values():
        if kind == "taskgroup":
            groups |= {child["_group_id"]: child} | groups_of(child)
    return groups


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_two_processes_give_the_same_hash(parsed_twice: tuple[dict[str, Any], ...], dag_id: str) -> None:
    first, second = parsed_twice

    assert first[dag_id]["data"] == second[dag_id]["data"]
    assert first[dag_id]["hash"] == second[dag_id]["hash"]


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_no_memory_address_is_stored(parsed_twice: tuple[dict[str, Any], ...], dag_id: str) -> None:
    assert re.findall(r".{0,40}0x[0-9a-f]{6,}", json.dumps(parsed_twice[0][dag_id]["data"])) == []


def test_a_fan_out_group_is_stored_as_a_plain_task_group(stored: dict[str, Any]) -> None:
    groups = groups_of(stored["dag"]["task_group"])
    plain = set(groups["outer"])
    del groups["each"]  # the mapped one of Airflow's own

    assert {name for name in groups if set(groups[name]) - {"doc_md"} != plain - {"doc_md"}} == set()


def test_tooltip_and_documentation_are_stored(stored: dict[str, Any]) -> None:
    count = groups_of(stored["dag"]["task_group"])["count"]

    assert count["tooltip"] == "Fan-out: 12 branches, all at once"
    if hasattr(TaskGroup, "doc_md"):  # from Airflow 3.3 on
        assert count["doc_md"].startswith("**Fan-out** `count`: 12 branches")


def test_every_group_and_fan_in_is_known_without_the_dag_file(stored: dict[str, Any]) -> None:
    groups = every_shape.dag.task_group.get_task_group_dict()
    declared = {task.task_id: getattr(task, "declared", None) for task in every_shape.dag.tasks}
    seen = outline(DagSerialization.from_dict(stored))

    assert {group_id: declared_group(groups[group_id]) for group_id in seen.groups} == seen.groups
    assert {fan_in.group_id for fan_in in seen.fan_ins} - {None} <= seen.groups.keys()
    assert {task_id for task_id, fan_in in declared.items() if isinstance(fan_in, DeclaredFanIn)} == {
        fan_in.task_id for fan_in in seen.fan_ins
    }
    assert len(seen.fan_ins) > 20


def test_literal_items_of_a_batch_stay_in_the_dag_file(stored: dict[str, Any]) -> None:
    assert every_shape.SECRET not in json.dumps(stored)


@pytest.mark.parametrize("dag_id", ["every_shape", "fan_out_fan_in_pipeline"])
def test_of_our_hooks_a_line_is_stored(parsed_twice: tuple[dict[str, Any], ...], dag_id: str) -> None:
    """Of a function Airflow would look up the source, for each task, as long as all else of it takes."""
    hooks = [
        task[hook]
        for task in tasks_of(parsed_twice[0][dag_id]["data"]).values()
        for hook in ("_pre_execute_hook", "_post_execute_hook")
        if hook in task
    ]

    assert LINE in hooks
    assert all(hook == LINE or "def tell_" in hook for hook in hooks)  # the author's
