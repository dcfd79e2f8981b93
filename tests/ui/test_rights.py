"""Rights by Dag, as FAB's auth manager knows them: on a second API server, beside the first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.ui.airflow_with_users import log_in
from tests.ui.routes import ROUTES, Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import RunKey, Runs

DAG = "DAG:tab_failed"
OTHER_DAG = "DAG:tab_plain"
SEES = [("can_read", "DAG Runs"), ("can_read", "Task Instances")]
READS = [*SEES, ("can_read", "XComs")]
EDITS = [*READS, ("can_edit", "DAG Runs"), ("can_edit", "Task Instances")]

ROLES = {
    "stranger": [*EDITS, ("can_read", OTHER_DAG), ("can_edit", OTHER_DAG)],
    "without_xcoms": [*SEES, ("can_read", DAG)],
    "without_instances": [("can_read", "DAG Runs"), ("can_read", "XComs"), ("can_read", DAG)],
    "reader": [*READS, ("can_read", DAG)],
    "reader_here_editor_there": [*EDITS, ("can_read", DAG), ("can_read", OTHER_DAG), ("can_edit", OTHER_DAG)],
    "editor": [*EDITS, ("can_read", DAG), ("can_edit", DAG)],
}


@pytest.fixture(scope="module")
def failed(runs: Runs) -> RunKey:
    return runs.finished("tab_failed")


@pytest.fixture(scope="module")
def routes_of(airflow: AirflowWithUsers, failed: RunKey) -> Iterator[Callable[[str], Routes]]:
    with airflow.with_fab(ROLES):
        tokens = {name: log_in(airflow.fab_url, name) for name in ROLES}
        yield lambda name: Routes(airflow.fab_url, failed, token=tokens[name])


def states(airflow: AirflowWithUsers, run: RunKey) -> dict[str, Any]:
    return {ti["task_id"]: (ti["state"], ti["try_number"]) for ti in airflow.task_instances(*run)}


@pytest.mark.parametrize("name", ["stranger", "without_xcoms", "without_instances"])
def test_who_lacks_a_right_is_refused_by_every_route(routes_of: Callable[[str], Routes], name: str) -> None:
    with routes_of(name) as routes:
        assert routes.statuses() == dict.fromkeys(ROUTES, 403)


@pytest.mark.parametrize("name", ["reader", "reader_here_editor_there"])
def test_who_may_not_edit_the_dags_instances_sees_and_may_not_clear(
    airflow: AirflowWithUsers, routes_of: Callable[[str], Routes], failed: RunKey, name: str
) -> None:
    with routes_of("editor") as routes:
        plan = routes.ask("plan").json()["plan"]
    before = states(airflow, failed)

    with routes_of(name) as routes:
        assert routes.statuses() == {**dict.fromkeys(ROUTES, 200), "plan": 403, "clear": 403}
        assert routes.report()["may_clear"] is False
        assert routes.ask("clear", body={"plan": plan}).status_code == 403

    assert states(airflow, failed) == before


def test_who_may_edit_the_dags_instances_may_clear(routes_of: Callable[[str], Routes]) -> None:
    with routes_of("editor") as routes:
        assert routes.statuses() == {**dict.fromkeys(ROUTES, 200), "clear": 409}
        assert routes.report()["may_clear"] is True


@pytest.mark.parametrize("dag_id", ["~", "tab", "tab_fialed"])
def test_who_may_see_one_dag_is_told_the_name_of_no_other(
    routes_of: Callable[[str], Routes], failed: RunKey, dag_id: str
) -> None:
    with routes_of("reader") as routes:
        for name in ("report", "items", "plan", "clear"):
            answer = routes.ask(name, run=(dag_id, failed[1]))
            assert answer.status_code in {403, 404}, name
            assert "tab_" not in answer.text.replace(dag_id, ""), name


def test_without_a_session_no_route_answers(
    airflow: AirflowWithUsers, routes_of: Callable[[str], Routes], failed: RunKey
) -> None:
    with Routes(airflow.fab_url, failed, token=None) as routes:
        assert routes.statuses() == dict.fromkeys(ROUTES, 401)
