"""What Airflow stores of the Dags: the same on every parse, and enough to know what was declared."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import TaskGroup

from airflow_fanout.serialization.declaration import read_fan_in
from tests.unit.parsed import DAG_FILES, PARSING

if TYPE_CHECKING:
    from airflow_fanout.serialization.declaration import DeclaredGroup

DAG_IDS = [file.stem for file in DAG_FILES]


@pytest.fixture(scope="session")
def parsed_twice(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """All Dags as two processes found them, whose strings have different hashes."""
    first, second = (parsing.result() for parsing in request.config.stash[PARSING])
    return first, second


@pytest.fixture(scope="session")
def every_shape(parsed_twice: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    """The serialized Dag that has every shape."""
    dag: dict[str, Any] = parsed_twice[0]["every_shape"]["data"]["dag"]
    return dag


def tasks_of(dag: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["__var"]["task_id"]: task["__var"] for task in dag["tasks"]}


def groups_of(group: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = {}
    for kind, child in group["children"].values():
        if kind == "taskgroup":
            found[child["_group_id"]] = child
            found |= groups_of(child)
    return found


def read(dag: dict[str, Any], fan_in: str) -> Any:
    tasks = tasks_of(dag)
    upstream = [task_id for task_id, its in tasks.items() if fan_in in its.get("downstream_task_ids", ())]
    return read_fan_in(tasks[fan_in]["declaration"], task_ids=sorted(tasks), upstream_task_ids=upstream)


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_two_processes_give_the_same_hash(parsed_twice: tuple[dict[str, Any], ...], dag_id: str) -> None:
    first, second = parsed_twice

    assert first[dag_id]["data"] == second[dag_id]["data"]
    assert first[dag_id]["hash"] == second[dag_id]["hash"]


@pytest.mark.parametrize("dag_id", DAG_IDS)
def test_no_memory_address_is_stored(parsed_twice: tuple[dict[str, Any], ...], dag_id: str) -> None:
    assert re.findall(r".{0,40}0x[0-9a-f]{6,}", json.dumps(parsed_twice[0][dag_id]["data"])) == []


def test_a_fan_out_group_is_stored_as_a_plain_task_group(every_shape: dict[str, Any]) -> None:
    groups = groups_of(every_shape["task_group"])
    plain = set(groups["outer"])
    del groups["each"]  # the mapped one of Airflow's own

    assert {name for name in groups if set(groups[name]) - {"doc_md"} != plain - {"doc_md"}} == set()


def test_a_tooltip_is_stored(every_shape: dict[str, Any]) -> None:
    count = groups_of(every_shape["task_group"])["count"]

    assert count["tooltip"] == "Fan-out: 12 branches, all at once"


@pytest.mark.skipif(not hasattr(TaskGroup, "doc_md"), reason="task groups have a doc_md from Airflow 3.3 on")
def test_documentation_is_stored(every_shape: dict[str, Any]) -> None:
    count = groups_of(every_shape["task_group"])["count"]

    assert count["doc_md"].startswith("**Fan-out** `count`: 12 branches")


def test_airflow_reads_it_back(parsed_twice: tuple[dict[str, Any], ...]) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = DagSerialization.from_dict(parsed_twice[0]["every_shape"]["data"])

    assert type(dag.task_group.get_task_group_dict()["count"]).__name__ == "SerializedTaskGroup"
    assert dag.get_task("combine").upstream_task_ids == {f"count.count_{index}" for index in range(12)}


@pytest.mark.parametrize(
    ("fan_in", "group_id", "prefix", "names"),
    [
        pytest.param("combine", "count", "count.", [f"count_{index}" for index in range(12)], id="count"),
        pytest.param("thirds", "different", "different.", ["shout", "process"], id="a mapping of functions"),
        pytest.param("outer.collect", "outer.nested", "outer.nested.", ["nested_0", "nested_1"], id="nested"),
        pytest.param("over_plain", "plain", "", ["plain_0", "plain_1", "plain_2"], id="unprefixed"),
        pytest.param("over_nothing", "nothing", "nothing.", [], id="no branches"),
        pytest.param(
            "over_many",
            "many",
            "many.",
            [f"{'many' * 15}_{number * 37 % 200}" for number in range(200)],
            id="names too long to be written out",
        ),
    ],
)
def test_what_was_declared_is_known_without_the_dag_file(
    every_shape: dict[str, Any], fan_in: str, group_id: str, prefix: str, names: list[str]
) -> None:
    """What reaches the scheduler."""
    group: DeclaredGroup = read(every_shape, fan_in).group

    assert (group.group_id, group.prefix) == (group_id, prefix)
    assert [branch.name for branch in group.branches] == names
    assert all(branch.last_task_id == prefix + branch.name for branch in group.branches)


STEPS = ("prepare", "each", "steps.process")


@pytest.mark.parametrize(
    ("fan_in", "branches", "limit"),
    [
        pytest.param(
            "over_several",
            {
                f"several_{index}": tuple(f"several.several_{index}.{step}" for step in STEPS)
                for index in range(3)
            },
            2,
            id="several tasks",
        ),
        pytest.param(
            "over_commands",
            {f"commands_{index}": (f"commands.commands_{index}",) for index in range(2)},
            1,
            id="operators",
        ),
        pytest.param(
            "over_mixed",
            {
                "pipe": ("mixed.pipe",),
                "read": tuple(f"mixed.read.{step}" for step in STEPS),
                "wait": ("mixed.wait",),
            },
            None,
            id="a mapping of different ones",
        ),
        pytest.param(
            "within.within_1.collect",
            {
                f"parts_{index}": tuple(f"within.within_1.parts.parts_{index}.{step}" for step in STEPS)
                for index in range(2)
            },
            None,
            id="a group within a branch",
        ),
    ],
)
def test_tasks_of_each_branch_are_known_without_the_dag_file(
    every_shape: dict[str, Any], fan_in: str, branches: dict[str, tuple[str, ...]], limit: int | None
) -> None:
    group: DeclaredGroup = read(every_shape, fan_in).group

    assert {branch.name: branch.task_ids for branch in group.branches} == branches
    assert group.stop_after_failures == limit


def test_a_fan_in_waits_for_the_last_task_of_each_branch(every_shape: dict[str, Any]) -> None:
    upstream = {
        task_id
        for task_id, its in tasks_of(every_shape).items()
        if "over_several" in its.get("downstream_task_ids", ())
    }

    assert upstream == {f"several.several_{index}.steps.process" for index in range(3)}


@pytest.mark.parametrize(
    "task_id",
    [
        pytest.param("several.several_0.prepare", id="ours alone"),
        pytest.param("commands.commands_1", id="ours before the author's"),
    ],
)
def test_the_hook_that_stops_takes_little_room(every_shape: dict[str, Any], task_id: str) -> None:
    """Airflow stores its source alone, and nothing of the group that it is bound to."""
    stored = tasks_of(every_shape)[task_id]["_pre_execute_hook"]

    assert 0 < len(stored) < 300
    assert "several_1" not in stored
    assert "commands_0" not in stored


@pytest.mark.parametrize(
    ("fan_in", "said"),
    [
        ("over_mapped_items", ("mapped", None, None, ("mapped_items.each",))),
        ("over_mapped_names", ("mapped", 2, ("x", "y"), ("mapped_names.each",))),
        ("over_mapped_count", ("mapped", None, None, ("mapped_count.each",))),
        (
            "over_mapped_group",
            ("mapped", None, None, ("mapped_group.each.each", "mapped_group.each.process")),
        ),
        ("over_mapped_commands", ("mapped", 1, None, ("mapped_commands.each",))),
        ("over_batched_items", ("batched", None, None, ("batched_items.each",))),
        ("over_batched_names", ("batched", 2, ("x", "y"), ("batched_names.each",))),
        ("over_batched_functions", ("batched", 2, ("shout", "pipe"), ("batched_functions.each",))),
    ],
)
def test_mapped_and_batched_groups_are_known_without_the_dag_file(
    every_shape: dict[str, Any], fan_in: str, said: tuple[Any, ...]
) -> None:
    group: DeclaredGroup = read(every_shape, fan_in).group

    assert (group.mode, group.count, group.names, group.each) == said


def test_literal_items_of_a_batch_stay_in_the_dag_file(every_shape: dict[str, Any]) -> None:
    assert "an item that stays in the Dag file" not in json.dumps(every_shape)


def test_a_fan_in_by_prefix_is_known_too(every_shape: dict[str, Any]) -> None:
    declared = read(every_shape, "by_prefix")

    assert (declared.group, declared.task_id_prefix, declared.key) == (None, "shout", "custom")


def test_the_policy_is_known_exactly(every_shape: dict[str, Any]) -> None:
    policy = read(every_shape, "combine").policy

    assert (policy.min_success, policy.count_skipped, policy.when_empty) == (3, "failure", "fail")
    assert policy.needed(25) == 7
    assert read(every_shape, "thirds").policy.needed(9) == 3


def test_the_description_is_small(every_shape: dict[str, Any]) -> None:
    assert len(tasks_of(every_shape)["combine"]["declaration"]) < 300


@pytest.mark.parametrize(
    ("dag_id", "task_id"),
    [
        pytest.param("fan_out_fan_in_pipeline", "process_0", id="ours alone"),
        pytest.param("every_shape", "count.count_0", id="ours before the author's"),
    ],
)
def test_our_hooks_take_little_room(
    parsed_twice: tuple[dict[str, Any], ...], dag_id: str, task_id: str
) -> None:
    """Airflow stores a hook's source once for each task."""
    stored = tasks_of(parsed_twice[0][dag_id]["data"]["dag"])[task_id]

    assert 0 < len(stored["_post_execute_hook"]) < 300
