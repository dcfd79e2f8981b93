"""Whatever lies under this package's XCom keys, the routes answer, with little and with proper JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from tests.ui.routes import Routes

if TYPE_CHECKING:
    from tests.ui.airflow_with_users import AirflowWithUsers

SCRIPT = Path(__file__).parent / "write_items.py"
DAG_ID = "tab_items"
EVERY, LEAST = 5, 150
"""One in so many of the unit tests' cases is written, and at least so many the database has to take."""

MOST_BYTES = 100_000


def refuse(constant: str) -> NoReturn:
    message = f"{constant} is not JSON"
    raise ValueError(message)


@pytest.fixture(scope="module")
def hostile_runs(airflow: AirflowWithUsers) -> dict[str, str]:
    """Title of each case by the id of its run."""
    airflow.wait_for_dag(DAG_ID, timeout=180)
    like = (DAG_ID, airflow.trigger(DAG_ID))
    titles: dict[str, str] = json.loads(airflow.run_script(SCRIPT, {"like": like, "hostile": EVERY}))
    return titles


def test_no_record_breaks_report_items_or_plan(
    airflow: AirflowWithUsers, tokens: dict[str, str], hostile_runs: dict[str, str]
) -> None:
    assert len(hostile_runs) >= LEAST
    problems: list[Any] = []
    largest = 0
    with Routes(airflow.base_url, (DAG_ID, ""), token=tokens["admin"]) as routes:
        for run_id, title in hostile_runs.items():
            for name in ("report", "items", "plan"):
                answer = routes.ask(name, run=(DAG_ID, run_id), group="docs")
                largest = max(largest, len(answer.content))
                if answer.status_code != 200 or len(answer.content) > MOST_BYTES:
                    problems.append((title, name, answer.status_code, len(answer.content)))
                else:
                    json.loads(answer.content, parse_constant=refuse)
    print(f"\n{len(hostile_runs)} runs; the largest answer has {largest:,} bytes")
    assert problems == []
