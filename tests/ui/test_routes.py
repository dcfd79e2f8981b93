"""Who is told what, and what is refused: rights by role, and by Dag as FAB's auth manager knows them."""

from __future__ import annotations

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.ui.airflow_with_users import log_in
from tests.ui.routes import HEADERS, ROUTES, Routes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.ui.airflow_with_users import AirflowWithUsers
    from tests.ui.runs import RunKey, Runs

    RoutesOf = Callable[[str | None], Routes]

NO_RUN = "manual__2020-01-01T00:00:00+00:00"
ALL = {**dict.fromkeys(ROUTES, 200), "items": 404}  # the group has no batches
READ_ONLY = {**ALL, "plan": 403, "clear": 403}
MAY_CLEAR = {**ALL, "clear": 409}  # the plan is one that never was


DAG, OTHER_DAG = "DAG:tab_failed", "DAG:tab_plain"
SEES = [("can_read", "DAG Runs"), ("can_read", "Task Instances")]
READS = [*SEES, ("can_read", "XComs")]
EDITS = [*READS, ("can_edit", "DAG Runs"), ("can_edit", "Task Instances")]
ROLES = {
    "nobody": [],
    "stranger": [*EDITS, ("can_read", OTHER_DAG), ("can_edit", OTHER_DAG)],
    "without_xcoms": [*SEES, ("can_read", DAG)],
    "without_instances": [("can_read", "DAG Runs"), ("can_read", "XComs"), ("can_read", DAG)],
    "reader": [*READS, ("can_read", DAG)],
    "reader_here_editor_there": [*EDITS, ("can_read", DAG), ("can_read", OTHER_DAG), ("can_edit", OTHER_DAG)],
    "editor": [*EDITS, ("can_read", DAG), ("can_edit", DAG)],
}
"""Rights of users of FAB's auth manager: pairs of action and resource, by name."""

STRANGERS = ("nobody", "stranger", "without_xcoms", "without_instances")


@pytest.fixture(scope="module")
def failed(runs: Runs) -> RunKey:
    return runs.finished("tab_failed")


@pytest.fixture(scope="module")
def fab_tokens(airflow: AirflowWithUsers) -> Iterator[dict[str, str]]:
    """Sessions on a second API server, beside the first."""
    with airflow.with_fab(ROLES):
        yield {name: log_in(airflow.fab_url, name) for name in ROLES}


@pytest.fixture(scope="module")
def routes_of(
    airflow: AirflowWithUsers, tokens: dict[str, str], failed: RunKey, request: pytest.FixtureRequest
) -> RoutesOf:
    """Call it with a user's name, or None for nobody."""
    known = {**tokens, "made up": "a.b.c"}

    def routes_of(name: str | None) -> Routes:
        if name is None or name in known:
            return Routes(airflow.base_url, failed, token=known[name] if name else None)
        return Routes(airflow.fab_url, failed, token=request.getfixturevalue("fab_tokens")[name])

    return routes_of


@pytest.fixture(scope="module")
def admin(routes_of: RoutesOf) -> Iterator[Routes]:
    with routes_of("admin") as routes:
        yield routes


def states(airflow: AirflowWithUsers, run: RunKey) -> dict[str, Any]:
    return {ti["task_id"]: (ti["state"], ti["try_number"]) for ti in airflow.task_instances(*run)}


def logged(airflow: AirflowWithUsers, run: RunKey) -> list[dict[str, Any]]:
    """What the audit log says of clearing a run."""
    asked = {"event": "fan_out_rerun", "dag_id": run[0]}
    events = airflow.request("GET", "eventLogs", params=asked)["event_logs"]
    return [event for event in events if event["run_id"] == run[1]]


class TestRights:
    @pytest.mark.parametrize(
        ("name", "statuses"),
        [
            (None, dict.fromkeys(ROUTES, 401)),
            *((name, dict.fromkeys(ROUTES, 403)) for name in STRANGERS),
            *((name, READ_ONLY) for name in ("viewer", "reader", "reader_here_editor_there")),
            *((name, MAY_CLEAR) for name in ("admin", "editor")),
        ],
    )
    def test_every_route_asks_for_the_rights_on_this_dag_that_it_needs(
        self, routes_of: RoutesOf, name: str | None, statuses: dict[str, int]
    ) -> None:
        with routes_of(name) as routes:
            assert routes.statuses() == statuses
            if statuses["report"] == 200:
                assert routes.ask("report").json()["may_clear"] is (statuses == MAY_CLEAR)

    @pytest.mark.parametrize("dag_id", ["~", "tab", "tab_fialed"])
    def test_who_may_see_one_dag_is_told_the_name_of_no_other(
        self, routes_of: RoutesOf, failed: RunKey, dag_id: str
    ) -> None:
        with routes_of("reader") as routes:
            for name in ("report", "items", "plan", "clear"):
                answer = routes.ask(name, run=(dag_id, failed[1]))
                assert answer.status_code in {403, 404}, name
                assert "tab_" not in answer.text.replace(dag_id, ""), name

    @pytest.mark.parametrize("name", ["nobody", "stranger"])
    def test_a_dag_that_is_there_looks_like_one_that_is_not_to_who_may_see_neither(
        self, routes_of: RoutesOf, failed: RunKey, name: str
    ) -> None:
        with routes_of(name) as routes:
            for route in ROUTES:
                there, unknown = (
                    routes.ask(route, run=(dag_id, failed[1])) for dag_id in ("tab_failed", "tab_x")
                )
                assert (there.status_code, there.text) == (unknown.status_code, unknown.text), route
                assert there.status_code == 403
                assert there.headers.keys() == unknown.headers.keys(), route

    def test_a_session_that_was_made_up_is_none(self, routes_of: RoutesOf) -> None:
        with routes_of("made up") as routes:
            assert set(routes.statuses().values()) <= {401, 403}

    def test_every_answer_tells_the_browser_to_load_nothing_from_elsewhere_and_to_keep_no_run(
        self, routes_of: RoutesOf
    ) -> None:
        for name in ("admin", "viewer", None):
            with routes_of(name) as routes:
                for route, answer in [
                    *routes.every(),
                    ("report", routes.ask("report", run=("tab_failed", NO_RUN))),
                ]:
                    sent = {header: answer.headers.get(header) for header in HEADERS}
                    assert sent == HEADERS, f"{name} {route}: {answer.status_code}"
                    if answer.status_code == 200:
                        is_file = route in {"page", "static", "history page"}
                        assert answer.headers["cache-control"] == (
                            "private, no-cache" if is_file else "no-store"
                        )


class TestWhatIsNotThere:
    @pytest.mark.parametrize("name", ["report", "items", "plan", "clear"])
    @pytest.mark.parametrize(
        ("dag_id", "text"),
        [
            pytest.param("tab_fialed", "There is no such Dag", id="dag"),
            pytest.param("tab_failed", f"Dag 'tab_failed' has no run '{NO_RUN}'", id="run"),
        ],
    )
    def test_an_unknown_run_is_named(self, admin: Routes, name: str, dag_id: str, text: str) -> None:
        answer = admin.ask(name, run=(dag_id, NO_RUN))

        assert answer.status_code == 404
        assert answer.json()["detail"].startswith(text)

    @pytest.mark.parametrize(
        ("name", "group", "text"),
        [
            ("items", "vizit", "no batched group 'vizit'"),
            ("items", "visit", "no batched group 'visit'"),
            ("plan", "vizit", "no fan-out group 'vizit'"),
            ("clear", "vizit", "no fan-out group 'vizit'"),
        ],
    )
    def test_an_unknown_group_is_named(self, admin: Routes, name: str, group: str, text: str) -> None:
        answer = admin.ask(name, group=group)

        assert answer.status_code == 404
        assert text in answer.json()["detail"]

    @pytest.mark.parametrize(
        "name",
        [
            *("..%2fplugin.py", "%2e%2e%2fplugin.py", "..%5cplugin.py", "../plugin.py", "."),
            *("page.js/../../plugin.py", "%2fetc%2fpasswd", "page.js%00.py"),
        ],
    )
    def test_a_file_that_is_not_the_pages_is_not_given_away(
        self, airflow: AirflowWithUsers, tokens: dict[str, str], name: str
    ) -> None:
        # httpx would tidy up the path.
        connection = http.client.HTTPConnection("127.0.0.1", airflow.port, timeout=60)
        session = {"Cookie": f"_token={tokens['admin']}"}
        connection.request("GET", f"/fan-out/dags/tab/static/{name}", headers=session)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()

        assert answer.status == 404, body[:200]


class TestClearing:
    @pytest.mark.parametrize(
        ("name", "plan", "headers", "status", "text"),
        [
            pytest.param(
                "admin", None, {"Sec-Fetch-Site": "cross-site"}, 403, "may not come from", id="foreign"
            ),
            pytest.param(
                "admin", None, {"Origin": "http://127.0.0.1:1"}, 403, "may not come from", id="port"
            ),
            pytest.param("admin", None, {}, 403, "may not come from", id="nothing-said"),
            pytest.param(
                "admin", None, {"Authorization": "Bearer"}, 403, "may not come from", id="bearer-of-nothing"
            ),
            pytest.param("admin", "0" * 64, None, 409, "Nothing was cleared", id="plan-that-has-changed"),
            pytest.param("viewer", None, None, 403, "", id="viewer-with-the-right-plan"),
            pytest.param("reader_here_editor_there", None, None, 403, "", id="editor-of-another-dag"),
        ],
    )
    def test_what_may_not_be_cleared_is_not(
        self,
        airflow: AirflowWithUsers,
        routes_of: RoutesOf,
        failed: RunKey,
        *,
        name: str,
        plan: str | None,
        headers: dict[str, str] | None,
        status: int,
        text: str,
    ) -> None:
        with routes_of("admin") as routes:
            body = {"plan": plan or routes.ask("plan").json()["plan"]}
        before = states(airflow, failed)

        with routes_of(name) as routes:
            answer = routes.ask("clear", body=body, headers=headers)

        assert answer.status_code == status
        assert text in answer.json()["detail"]
        assert states(airflow, failed) == before
        assert logged(airflow, failed) == []

    def test_more_than_is_asked_for_is_refused(self, admin: Routes) -> None:
        answer = admin.ask("clear", body={"plan": "x", "everything": True})

        assert answer.status_code == 422
        assert {header: answer.headers.get(header) for header in HEADERS} == HEADERS

    def test_exactly_what_is_without_success_and_what_comes_after_runs_again_and_is_in_the_audit_log(
        self, airflow: AirflowWithUsers, tokens: dict[str, str], failed: RunKey
    ) -> None:
        run = ("tab_failed", airflow.trigger("tab_failed"))
        airflow.wait_for_run(*run, timeout=300)
        before = states(airflow, run)

        with Routes(airflow.base_url, run, token=tokens["admin"]) as routes:
            plan = routes.ask("plan").json()["plan"]
            answer = routes.ask("clear", body={"plan": plan}, headers={"Sec-Fetch-Site": "same-origin"})

        assert answer.status_code == 200, answer.text
        again = {"visit.visit_1", "visit.visit_2", "visit.visit_3", "visit.visit_5", "visited", "publish"}
        assert {cleared["task_id"] for cleared in answer.json()["cleared"]} == again
        airflow.wait_for_run(*run, timeout=300)
        now = states(airflow, run)
        # visit_2 and visit_3 fail for good, so publish doesn't start.
        assert {task_id for task_id in now if now[task_id][1] > before[task_id][1]} == again - {"publish"}
        (event,) = logged(airflow, run)
        assert event["owner"] == "admin"
        told = json.loads(event["extra"])
        assert (told["number"], set(told["cleared"])) == (len(again), again)
        # All that ran has failed alike again: what was shown before is not what there is.
        with Routes(airflow.base_url, run, token=tokens["admin"]) as routes:
            assert routes.ask("clear", body={"plan": plan}).status_code == 409
        assert len(logged(airflow, run)) == 1

    def test_of_those_who_clear_at_once_one_wins(
        self, airflow: AirflowWithUsers, tokens: dict[str, str], failed: RunKey
    ) -> None:
        run = ("tab_failed", airflow.trigger("tab_failed"))
        airflow.wait_for_run(*run, timeout=300)
        with Routes(airflow.base_url, run, token=tokens["admin"]) as routes, ThreadPoolExecutor(8) as clients:
            body = {"plan": routes.ask("plan").json()["plan"]}
            answers = list(clients.map(lambda _: routes.ask("clear", body=body), range(8)))

        assert sorted(answer.status_code for answer in answers) == [200, *[409] * 7]
        assert len(logged(airflow, run)) == 1
        airflow.wait_for_run(*run, timeout=300)


def test_the_button_of_the_fan_in_leads_to_the_tab(airflow: AirflowWithUsers, failed: RunKey) -> None:
    dag_id, run_id = failed
    path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/visited/links"

    links = airflow.request("GET", path)["extra_links"]

    quoted = run_id.replace(":", "%3A").replace("+", "%2B")
    assert links == {"Fan-out": f"dags/{dag_id}/runs/{quoted}/plugin/fan-out"}


class TestEmbedded:
    """What the demo starts is of the same class."""

    def test_nobody_gets_a_token_without_a_password(self, airflow: AirflowWithUsers) -> None:
        for method, path in (("GET", "auth/token"), ("GET", "auth/token/login"), ("GET", "api/v2/dags")):
            answer = httpx.request(method, f"{airflow.base_url}/{path}", trust_env=False, timeout=60)
            assert answer.status_code in {401, 403}, path

    @pytest.mark.parametrize("path", ["api/v2/version", "execution/health", "fan-out/dags/tab/page/x", ""])
    def test_it_answers_under_no_other_name(self, airflow: AirflowWithUsers, path: str) -> None:
        headers = {"Host": f"evil.example:{airflow.port}"}
        answer = httpx.get(f"{airflow.base_url}/{path}", headers=headers, trust_env=False, timeout=60)

        assert (answer.status_code, answer.text) == (
            421,
            "This Airflow answers at 127.0.0.1 and localhost alone",
        )
