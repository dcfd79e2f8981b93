from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airflow_fanout.cli.check import show
from airflow_fanout.reports.dag_check import DagCheck, check_dag
from airflow_fanout.reports.group_capacity import SchedulingLimits
from airflow_fanout.rules.policy import Policy
from tests.unit.outlines import dag_of, fan_in_of, instances, static, task_of

if TYPE_CHECKING:
    from airflow_fanout.serialization.declaration import DeclaredGroup

UPSTREAM = frozenset({"work.work_1"})


def checked(*groups: DeclaredGroup, source: str = "file", **settings: Any) -> DagCheck:
    """A check of groups and of a fan-in by prefix, whose prefix takes one task."""
    return check_dag(
        dag_of(
            *groups,
            tasks=[task_of("combine", upstream=UPSTREAM), task_of("work.work_1")],
            fan_ins=[fan_in_of("combine", prefix="work.work_1", policy=Policy(min_success=2))],
            **settings,
        ),
        SchedulingLimits(),
        source=source,
    )


def shown(capsys: pytest.CaptureFixture[str], *checks: DagCheck, output: str, **more: Any) -> str:
    show(checks, output=output, **{"errors": {}, **more})
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("group", "text"),
    [
        pytest.param(
            static(50),
            "static   50 branches, at most 16 at once: max_active_tasks of the Dag is 16. Limits: pool "
            "default_pool 128, max_active_tasks 16, core.parallelism 32",
            id="static",
        ),
        pytest.param(static(8), "8 branches, all at once.", id="no limit"),
        pytest.param(
            instances(None), "as many branches as there are at run time, at most 16 at once:", id="unknown"
        ),
        pytest.param(
            instances(1000, items_per_task=50, item_concurrency=4),
            "1000 items in 20 tasks, at most 16 at once: max_active_tasks of the Dag is 16 (64 items at "
            "once). Limits:",
            id="batched",
        ),
        pytest.param(
            instances(100, items_per_task=50, items_per_second=2.5),
            "100 items in 2 tasks, all at once (2 items at once, at most 2.5 a second). Limits: pool "
            "default_pool 128, max_active_tasks 16, core.parallelism 32, items_per_second 2.5",
            id="at a rate",
        ),
        pytest.param(
            instances(None, items_per_task=50),
            "as many tasks as there are at run time, at most 16 at once: max_active_tasks of the Dag is 16 "
            "(16 items at once)",
            id="batches not known",
        ),
        pytest.param(
            static({f"b_{n}": ["read", "write"] for n in range(20)}),
            "20 branches, at most 16 of their tasks at once: max_active_tasks of the Dag is 16",
            id="several tasks each",
        ),
    ],
)
def test_a_plain_table_has_a_line_for_each_group_with_its_number_and_limit(
    group: DeclaredGroup, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    header, line, *_ = shown(capsys, checked(group), output="plain").splitlines()

    assert header.split() == ["dag_id", "name", "kind", "finding"]
    assert text in line


def test_a_table_has_fan_ins_problems_and_notes_too(capsys: pytest.CaptureFixture[str]) -> None:
    check = checked(static(3), source="database", pool="gone")

    text = shown(capsys, check, output="table", others=2)

    for cell in (
        "combine                 | fan-in  | prefix 'work.work_1' takes 'work.work_1'; at least 2 branches",
        "missing_pool            | problem | Pool 'gone' doesn't exist",
        "min_success_unreachable | problem | Fan-in 'combine': min_success=2 can't be met",
        "| note    | No Dag file has this Dag: it is checked as the database has it",
    ):
        assert cell in text
    assert text.endswith("2 Dags have no fan-out and no fan-in.\n2 problems.\n")


def test_a_templated_prefix_is_known_only_at_run_time(capsys: pytest.CaptureFixture[str]) -> None:
    dag = dag_of(tasks=[task_of("combine")], fan_ins=[fan_in_of("combine", prefix="part_{{ ds }}")])

    text = shown(capsys, check_dag(dag, SchedulingLimits()), output="plain")

    assert "fan-in  prefix 'part_{{ ds }}' is known only at run time; every branch has to succeed" in text


def test_words_in_brackets_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    check = check_dag(dag_of(static(1)), SchedulingLimits(parallelism=0))

    assert "[core] parallelism is 0" in shown(capsys, check, output="table")


def test_files_that_can_not_be_imported_are_told_beside_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    show([], errors={"broken.py": "SyntaxError"}, output="table")

    assert capsys.readouterr().err == "broken.py can't be imported: SyntaxError\n"


def test_json_has_the_keys_that_the_help_names_and_yaml_is_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    check = checked(static(50))

    data = json.loads(shown(capsys, check, output="json", others=2, errors={"broken.py": "SyntaxError"}))

    assert (data["others"], data["problems"]) == (2, 2)
    assert data["import_errors"] == [{"file": "broken.py", "error": "SyntaxError"}]
    (dag,) = data["dags"]
    assert dag.keys() == {"dag_id", "source", "groups", "fan_ins", "problems", "notes"}
    (group,) = dag["groups"]
    assert group["limits"][0]["name"] == "pool"
    assert group == {
        "group_id": "combine",
        "mode": "static",
        "declared": 50,
        "tasks": 50,
        "effective": 16,
        "effective_items": None,
        "items_per_second": None,
        "limit": {
            "name": "max_active_tasks",
            "slots": 16,
            "where": "the Dag",
            "reason": "max_active_tasks of the Dag is 16",
        },
        "limits": group["limits"],
    }
    assert dag["fan_ins"][0].keys() == {
        *("task_id", "group_id", "prefix", "matches", "count", "key", "threshold")
    }
    assert dag["problems"][0].keys() == {"kind", "message", "task_ids"}
    assert yaml.safe_load(shown(capsys, check, output="yaml"))["dags"] == [dag]


def test_json_names_the_branches_where_nothing_else_limits_them(capsys: pytest.CaptureFixture[str]) -> None:
    known, unknown = checked(static(3)), checked(instances(None))

    dags = json.loads(shown(capsys, known, unknown, output="json"))["dags"]

    assert dags[0]["groups"][0]["limit"] == {
        "name": "branches",
        "slots": 3,
        "where": "combine",
        "reason": "there are no more branches than 3",
    }
    assert dags[1]["groups"][0]["tasks"] is None
