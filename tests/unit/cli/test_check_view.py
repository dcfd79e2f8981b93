from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from airflow_fanout.cli.check_view import as_json, as_text, sentence
from airflow_fanout.reports.dag_check import DagCheck, check_dag
from airflow_fanout.reports.group_capacity import Surroundings
from tests.unit.outlines import dag_of, fan_in_of, instances, static, task_of


def checked(*groups: Any, **settings: Any) -> DagCheck:
    return check_dag(dag_of(*groups, **settings), Surroundings())


@pytest.mark.parametrize(
    ("group", "said"),
    [
        pytest.param(
            static(50), "50 branches, at most 16 at once: max_active_tasks of the Dag is 16", id="static"
        ),
        pytest.param(static(8), "8 branches, all at once", id="no limit"),
        pytest.param(
            instances(None),
            "as many branches as there are at run time, at most 16 at once: max_active_tasks of the Dag "
            "is 16",
            id="number not known",
        ),
        pytest.param(
            instances(1000, items_per_task=50, item_concurrency=4),
            "1000 items in 20 tasks, at most 16 at once: max_active_tasks of the Dag is 16 (64 items at "
            "once)",
            id="batched",
        ),
        pytest.param(
            instances(None, items_per_task=50),
            "as many tasks as there are at run time, at most 16 at once: max_active_tasks of the Dag is 16 "
            "(16 items at once)",
            id="batches not known",
        ),
        pytest.param(static(0), "0 branches", id="no branches"),
        pytest.param(
            static({f"b_{n}": ["read", "write"] for n in range(20)}),
            "20 branches, at most 16 of their tasks at once: max_active_tasks of the Dag is 16",
            id="several tasks each",
        ),
        pytest.param(
            instances(None, ".read", ".write"),
            "as many branches as there are at run time, at most 16 of their tasks at once: "
            "max_active_tasks of the Dag is 16",
            id="several tasks each, number not known",
        ),
    ],
)
def test_a_sentence_says_number_and_cause(group: Any, said: str) -> None:
    assert sentence(checked(group).groups[0]) == said


def test_a_group_that_can_not_start_says_so_though_its_number_is_not_known() -> None:
    (group,) = checked(instances(None), pool="gone").groups

    assert sentence(group) == (
        "as many branches as there are at run time, none can start: pool 'gone' doesn't exist"
    )


def test_text_is_readable_in_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    long = "a_group_whose_name_is_much_longer_than_any_column"
    check = checked(
        static(50, group_id=long),
        static(3),
        tasks=[task_of("combine", upstream=frozenset({"work.work_1"}))],
        fan_ins=[fan_in_of("combine", prefix="work.work_1")],
        pool="gone",
    )

    as_text([(check, "file")], others=2, errors={}, console=Console(width=80, file=StringIO()))

    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert text == "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    assert "Pool 'gone' doesn't exist" in text
    assert "2 Dags have no fan-out and no fan-in." in text
    assert text.endswith("1 problem.\n")


def test_text_says_when_no_file_has_the_dag(capsys: pytest.CaptureFixture[str]) -> None:
    as_text([(checked(static(1)), "database")], others=0, errors={})

    out = capsys.readouterr().out
    assert out.startswith("Dag pipeline (no Dag file has it; as in the database,")
    assert out.endswith("No problems.\n")


def test_json_names_the_branches_where_nothing_else_limits_them(capsys: pytest.CaptureFixture[str]) -> None:
    as_json([(checked(static(3)), "file")], others=0, errors={})

    (group,) = json.loads(capsys.readouterr().out)["dags"][0]["groups"]
    assert group["limit"] == {
        "name": "branches",
        "slots": 3,
        "where": "work",
        "reason": "there are no more branches than 3",
    }


def test_json_has_the_keys_that_the_help_names(capsys: pytest.CaptureFixture[str]) -> None:
    check = checked(
        static(50),
        tasks=[task_of("combine", upstream=frozenset({"work.work_1"}))],
        fan_ins=[fan_in_of("combine", prefix="part")],
    )

    as_json([(check, "file")], others=2, errors={"broken.py": "SyntaxError"})

    found = json.loads(capsys.readouterr().out)
    assert found["others"] == 2
    assert found["problems"] == 1
    assert found["import_errors"] == [{"file": "broken.py", "error": "SyntaxError"}]
    (dag,) = found["dags"]
    assert dag.keys() == {"dag_id", "source", "groups", "fan_ins", "problems", "notes"}
    (group,) = dag["groups"]
    assert group.pop("limits")[0]["name"] == "pool"
    assert group == {
        "group_id": "work",
        "mode": "static",
        "declared": 50,
        "tasks": 50,
        "effective": 16,
        "effective_items": None,
        "limit": {
            "name": "max_active_tasks",
            "slots": 16,
            "where": "the Dag",
            "reason": "max_active_tasks of the Dag is 16",
        },
    }
    assert dag["fan_ins"][0].keys() == {
        *("task_id", "group_id", "prefix", "matches", "count", "key", "threshold")
    }
    assert dag["problems"][0].keys() == {"kind", "message", "task_ids"}
