"""Who is told what, and what is refused."""

from __future__ import annotations

import http.client
from typing import TYPE_CHECKING, Any

import pytest

from tests.ui.routes import HEADERS, ROUTES, Routes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import RunKey, Runs

NO_RUN = "manual__2020-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def failed(runs: Runs) -> RunKey:
    return runs.finished("tab_failed")


@pytest.fixture
def admin(airflow: AirflowWithUsers, tokens: dict[str, str], failed: RunKey) -> Iterator[Routes]:
    with Routes(airflow.base_url, failed, token=tokens["admin"]) as routes:
        yield routes


@pytest.fixture
def viewer(airflow: AirflowWithUsers, tokens: dict[str, str], failed: RunKey) -> Iterator[Routes]:
    with Routes(airflow.base_url, failed, token=tokens["viewer"]) as routes:
        yield routes


@pytest.fixture
def nobody(airflow: AirflowWithUsers, failed: RunKey) -> Iterator[Routes]:
    with Routes(airflow.base_url, failed, token=None) as routes:
        yield routes


def states(airflow: AirflowWithUsers, run: RunKey) -> dict[str, Any]:
    return {ti["task_id"]: (ti["state"], ti["try_number"]) for ti in airflow.task_instances(*run)}


def test_without_a_session_no_route_answers(nobody: Routes) -> None:
    assert nobody.statuses() == dict.fromkeys(ROUTES, 401)


def test_a_session_that_was_made_up_is_none(airflow: AirflowWithUsers, failed: RunKey) -> None:
    with Routes(airflow.base_url, failed, token="a.b.c") as routes:
        assert set(routes.statuses().values()) <= {401, 403}


def test_who_may_clear_gets_an_answer_from_every_route(admin: Routes) -> None:
    # 409: the plan is one that never was.
    assert admin.statuses() == {**dict.fromkeys(ROUTES, 200), "clear": 409}


def test_a_viewer_sees_everything_and_may_clear_nothing(viewer: Routes) -> None:
    assert viewer.statuses() == {**dict.fromkeys(ROUTES, 200), "plan": 403, "clear": 403}
    assert viewer.report()["may_clear"] is False


def test_who_may_clear_is_told_so(admin: Routes) -> None:
    assert admin.report()["may_clear"] is True


def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere(
    admin: Routes, viewer: Routes, nobody: Routes
) -> None:
    answers = [answer for routes in (admin, viewer, nobody) for _, answer in routes.every()]
    answers += [admin.ask(name, run=("tab_failed", NO_RUN)) for name in ("report", "items", "plan")]
    assert {answer.status_code for answer in answers} == {200, 401, 403, 404, 409}
    for answer in answers:
        sent = {name: answer.headers.get(name) for name in HEADERS}
        assert sent == HEADERS, f"{answer.request.method} {answer.request.url}: {answer.status_code}"


def test_nothing_of_a_run_is_kept_by_a_browser_and_files_are_asked_for_again(admin: Routes) -> None:
    kept = {name: answer.headers["cache-control"] for name, answer in admin.every()}
    files = "private, no-cache"
    assert kept == {**dict.fromkeys(ROUTES, "no-store"), "page": files, "static": files}


@pytest.mark.parametrize("name", ["report", "items", "plan", "clear"])
def test_an_unknown_dag_is_named(admin: Routes, name: str) -> None:
    answer = admin.ask(name, run=("tab_fialed", NO_RUN))

    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("There is no Dag 'tab_fialed'")


@pytest.mark.parametrize("name", ["report", "items", "plan", "clear"])
def test_an_unknown_run_is_named(admin: Routes, name: str) -> None:
    answer = admin.ask(name, run=("tab_failed", NO_RUN))

    assert answer.status_code == 404
    assert answer.json()["detail"].startswith(f"Dag 'tab_failed' has no run '{NO_RUN}'")


@pytest.mark.parametrize("name", ["items", "plan", "clear"])
def test_an_unknown_group_is_named(admin: Routes, name: str) -> None:
    answer = admin.ask(name, group="vizit")

    assert answer.status_code == 404
    assert "no fan-out group 'vizit'" in answer.json()["detail"]


@pytest.mark.parametrize(
    "name",
    [
        "..%2fplugin.py",
        "..%2f..%2fui%2fplugin.py",
        "%2e%2e%2fplugin.py",
        "..%5cplugin.py",
        "../plugin.py",
        "page.js/../../plugin.py",
        "%2fetc%2fpasswd",
        "page.js%00.py",
        ".",
    ],
)
def test_a_file_that_is_not_the_pages_is_not_given_away(
    airflow: AirflowWithUsers, tokens: dict[str, str], name: str
) -> None:
    # httpx would tidy up the path.
    connection = http.client.HTTPConnection("127.0.0.1", airflow.port, timeout=60)
    session = {"Cookie": f"_token={tokens['admin']}"}
    connection.request("GET", f"/fan-out/dags/tab/static/{name}", headers=session)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()

    assert answer.status == 404, body[:200]


FOREIGN = {
    "another site": {"Origin": "https://example.com"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "a sandboxed frame": {"Origin": "null"},
    "the browser says so": {"Sec-Fetch-Site": "cross-site"},
    "another host of the site": {"Sec-Fetch-Site": "same-site"},
    "nothing said": {},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=list(FOREIGN))
def test_what_another_page_sends_clears_nothing(
    airflow: AirflowWithUsers, admin: Routes, failed: RunKey, headers: dict[str, str]
) -> None:
    plan = admin.ask("plan").json()["plan"]
    before = states(airflow, failed)

    answer = admin.ask("clear", body={"plan": plan}, headers=headers)

    assert answer.status_code == 403
    assert "may not come from" in answer.json()["detail"]
    assert states(airflow, failed) == before


def test_a_plan_that_is_no_longer_what_there_is_clears_nothing(
    airflow: AirflowWithUsers, admin: Routes, failed: RunKey
) -> None:
    before = states(airflow, failed)

    answer = admin.ask("clear", body={"plan": "0" * 64})

    assert answer.status_code == 409
    assert "Nothing was cleared" in answer.json()["detail"]
    assert states(airflow, failed) == before


def test_a_viewer_with_the_right_plan_clears_nothing(
    airflow: AirflowWithUsers, admin: Routes, viewer: Routes, failed: RunKey
) -> None:
    plan = admin.ask("plan").json()["plan"]
    before = states(airflow, failed)

    assert viewer.ask("clear", body={"plan": plan}).status_code == 403
    assert states(airflow, failed) == before


def test_more_than_is_asked_for_is_refused(admin: Routes) -> None:
    assert admin.ask("clear", body={"plan": "x", "everything": True}).status_code == 422


def test_the_button_of_the_fan_in_leads_to_the_tab(airflow: AirflowWithUsers, failed: RunKey) -> None:
    dag_id, run_id = failed
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/visited/links"

    links = airflow.request("GET", path)["extra_links"]

    quoted = run_id.replace(":", "%3A").replace("+", "%2B")
    assert links == {"Fan-out": f"dags/{dag_id}/runs/{quoted}/plugin/fan-out"}


@pytest.fixture(scope="module")
def other_run(airflow: AirflowWithUsers, failed: RunKey) -> RunKey:
    """A run of which what failed is run again."""
    run = ("tab_failed", airflow.trigger("tab_failed"))
    airflow.wait_for_run(*run, timeout=300)
    return run


@pytest.fixture(scope="module")
def tries_before(airflow: AirflowWithUsers, other_run: RunKey) -> dict[str, int]:
    return {task_id: tries for task_id, (_, tries) in states(airflow, other_run).items()}


@pytest.fixture(scope="module")
def cleared(
    airflow: AirflowWithUsers, tokens: dict[str, str], other_run: RunKey, tries_before: dict[str, int]
) -> dict[str, Any]:
    """What was answered to somebody who may clear."""
    with Routes(airflow.base_url, other_run, token=tokens["admin"]) as routes:
        plan = routes.ask("plan").json()["plan"]
        answer = routes.ask("clear", body={"plan": plan}, headers={"Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    airflow.wait_for_run(*other_run, timeout=300)
    return found


def test_exactly_what_is_without_success_and_what_comes_after_runs_again(
    airflow: AirflowWithUsers, other_run: RunKey, tries_before: dict[str, int], cleared: dict[str, Any]
) -> None:
    again = {"visit.visit_1", "visit.visit_2", "visit.visit_3", "visit.visit_5", "visited", "publish"}
    assert {each["task_id"] for each in cleared["cleared"]} == again
    now = states(airflow, other_run)
    # visit_2 and visit_3 fail for good, so publish doesn't start.
    assert {task_id for task_id in now if now[task_id][1] > tries_before[task_id]} == again - {"publish"}


def test_the_audit_log_tells_who_has_run_it_again(
    airflow: AirflowWithUsers, other_run: RunKey, cleared: dict[str, Any]
) -> None:
    asked = {"event": "fan_out_rerun", "dag_id": "tab_failed"}
    events = airflow.request("GET", "eventLogs", params=asked)["event_logs"]
    assert [each["owner"] for each in events if each["run_id"] == other_run[1]] == ["admin"]
