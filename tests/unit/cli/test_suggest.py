from __future__ import annotations

import json
from typing import Any

from airflow_fanout.cli.suggest import as_json, lines
from airflow_fanout.reports.suggest import suggest
from airflow_fanout.serialization.data_flow import Step

STEPS = {
    name: Step(task_id=name, upstream=frozenset(upstream), reads=frozenset(reads))
    for name, upstream, reads in (
        ("users", "", ""),
        ("orders", ["users"], ""),
        ("join", ["orders"], ["orders", "users"]),
    )
}
SECONDS = {"users": [60.0], "orders": [90.0, 92.0], "join": [5.0]}


def shown(durations: Any = SECONDS, *, runs: int = 2, steps: Any = STEPS) -> list[str]:
    return "\n".join(lines(suggest("etl", steps, durations, runs=runs))).splitlines()


def test_people_see_both_paths_and_who_takes_nothing_from_whom() -> None:
    assert shown()[:5] == [
        "etl (median of 2 runs): the critical path takes 2 min 36 s, and 1 min 36 s if all below ran at once",
        "Critical path: users >> orders >> join",
        "",
        "2 tasks without data between them: at once they save 1 min 0 s",
        "  orders (1 min 31 s) takes nothing from users (1 min 0 s)",
    ]
    assert shown()[6] == "Not known:"


def test_without_runs_there_are_no_times() -> None:
    found = shown({}, runs=0)

    assert found[0] == "etl (no runs yet): 1 chain of tasks without data between them"
    assert found[2:4] == ["2 tasks without data between them", "  orders takes nothing from users"]


def test_nothing_to_suggest_is_said() -> None:
    found = shown(steps={"users": STEPS["users"]})

    assert (
        found[0] == "etl (median of 2 runs): no two tasks come one after another without a reason in the Dag"
    )


def test_long_paths_and_lists_are_cut() -> None:
    names = [f"t_{number}" for number in range(30)]
    steps = {
        name: Step(task_id=name, upstream=frozenset(names[index - 1 : index]))
        for index, name in enumerate(names)
    }

    found = shown({name: [1.0] for name in names}, steps=steps)
    assert "t_0 >> t_1 >> t_2 >> t_3 >> t_4 >> … 20 more … >> t_25" in found[1]
    assert "  and 9 more" in found


def test_programs_get_all_of_it() -> None:
    data = json.loads(json.dumps(as_json(suggest("etl", STEPS, SECONDS, runs=2))))

    assert data["critical_path"] == {"tasks": ["users", "orders", "join"], "seconds": 156}
    assert data["parallel_path"] == {"tasks": ["orders", "join"], "seconds": 96}
    assert data["saved_seconds"] == 60
    assert data["chains"] == [
        {"tasks": ["users", "orders"], "pairs": [{"before": "users", "after": "orders"}], "saved_seconds": 60}
    ]
    assert data["tasks"][1] == {"task_id": "orders", "median_seconds": 91}
    assert set(data) == {
        "dag_id",
        "source",
        "runs",
        "critical_path",
        "parallel_path",
        "saved_seconds",
        "chains",
        "tasks",
        "unknown",
    }
