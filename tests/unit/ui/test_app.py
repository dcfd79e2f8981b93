"""The tab's application, without a database: what every answer carries, and which work waits for a maker."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any
from unittest import mock

import httpx
import pytest
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import get_user
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from airflow_fanout.metadata.clearing import PlanChangedError
from airflow_fanout.reports.rerun import Clearing, RerunPlan
from airflow_fanout.reports.runs import TaskRun
from airflow_fanout.ui import app as tab
from airflow_fanout.ui.access import CLEAR, READ, may_clear
from airflow_fanout.ui.report_cache import MAKERS, MOST_WAITING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

pytestmark = pytest.mark.unit

ROUTES = {
    "page": ("GET", "page/run"),
    "static": ("GET", "static/page.js"),
    "report": ("GET", "report/run"),
    "history page": ("GET", "history"),
    "history": ("GET", "history/report"),
    "items": ("GET", "items/run?group=g&batch=0"),
    "plan": ("GET", "rerun/run"),
    "clear": ("POST", "rerun/run"),
}
READERS = {
    "report": "_make_report",
    "history": "_make_history",
    "items": "read_run",
    "plan": "find_plan",
    "clear": "clear_as_shown",
}
"""What each route that reads a run does first."""


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    """A client of a user who may do everything; no database is asked."""
    for dependency in (*READ[1:], *CLEAR):
        monkeypatch.setitem(tab.app.dependency_overrides, dependency.dependency, lambda: None)
    monkeypatch.setitem(tab.app.dependency_overrides, may_clear, lambda: True)
    monkeypatch.setitem(tab.app.dependency_overrides, get_user, lambda: None)
    monkeypatch.setattr(tab, "find_run", lambda *_, **__: None)
    monkeypatch.setattr(tab.reports, "_version_of", lambda *_: None)
    with TestClient(tab.with_headers, raise_server_exceptions=False, follow_redirects=False) as client:
        yield client


def ask(client: TestClient, name: str, **settings: Any) -> httpx.Response:
    method, path = ROUTES[name]
    if method == "POST":
        settings.setdefault("json", {"plan": "x"})
    answer: httpx.Response = client.request(method, f"/dags/etl/{path}", **settings)
    return answer


def fail(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(tab.reports, "_make", raise_it)
    monkeypatch.setattr(tab.histories, "_make", raise_it)
    if name not in {"report", "history"}:
        monkeypatch.setattr(tab, READERS[name], raise_it)


def assert_headers(answer: httpx.Response) -> None:
    assert {name: answer.headers.get(name) for name in tab.HEADERS} == tab.HEADERS


@pytest.mark.parametrize("name", sorted(READERS))
def test_an_error_that_nobody_foresaw_carries_the_headers_and_tells_nothing(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fail(monkeypatch, name, RuntimeError("password of the database"))

    answer = ask(client, name)

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    assert_headers(answer)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        pytest.param("GET", "dags/etl/items/run?group=g&batch=no", 422, id="a number that is none"),
        pytest.param("POST", "dags/etl/rerun/run", 422, id="no body"),
        pytest.param("GET", "dags/etl/static/page.js/", 307, id="redirect"),
        pytest.param("GET", "dags/etl/nothing/run", 404, id="no route"),
        pytest.param("DELETE", "dags/etl/report/run", 405, id="no method"),
    ],
)
def test_what_no_route_answers_carries_the_headers(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(method, f"/{path}")

    assert answer.status_code == status
    assert_headers(answer)


@pytest.mark.parametrize("dag_id", ["etl", "e%00l"])
@pytest.mark.parametrize("name", sorted(READERS))
def test_no_name_with_a_zero_character_is_looked_for(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, dag_id: str, name: str
) -> None:
    fail(monkeypatch, name, RuntimeError("the database takes none"))
    method, path = ROUTES[name]
    run = "run" if dag_id != "etl" else "r%00n"
    if name == "history":  # which has no run in its path
        dag_id = "e%00l"

    answer = client.request(method, f"/dags/{dag_id}/{path.replace('run', run)}", json={"plan": "x"})

    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


@pytest.mark.parametrize("batch", [2**31, 2**63, 2**70])
def test_a_batch_that_no_database_counts_to_is_refused(client: TestClient, batch: int) -> None:
    answer = client.get(f"/dags/etl/items/run?group=g&batch={batch}")

    assert answer.status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        b'{"plan": NaN}',
        b'{"plan": "x", "y": 1e999}',
        b'{"plan": "x", "\\ud800": 1}',
        b'{"plan": "%b"}' % (b"a" * 9000),
    ],
    ids=["nan", "infinity", "surrogate", "long"],
)
def test_a_body_that_is_wrong_is_explained_and_not_sent_back(client: TestClient, body: bytes) -> None:
    answer = client.post("/dags/etl/rerun/run", content=body, headers={"Content-Type": "application/json"})

    assert answer.status_code == 422
    assert all(problem.keys() == {"type", "loc", "msg"} for problem in answer.json()["detail"])
    assert len(answer.content) < 500


def test_of_a_body_that_is_too_long_no_more_is_read(client: TestClient) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            sent.append(tab.MOST_BYTES)
            yield b" " * tab.MOST_BYTES

    async def ask() -> httpx.Response:
        async def stream() -> AsyncIterator[bytes]:
            for part in endless():
                yield part

        transport = httpx.ASGITransport(tab.with_headers)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            return await http.post("/dags/etl/rerun/run", content=stream())

    answer = asyncio.run(ask())

    assert answer.status_code == 413
    assert_headers(answer)
    assert len(sent) <= 3


def test_a_plan_that_has_changed_is_a_conflict(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    fail(monkeypatch, "clear", PlanChangedError("The run has changed"))

    answer = ask(client, "clear")

    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("The run has changed. Nothing was cleared")


def test_reports_items_plans_and_clears_share_few_threads_and_more_than_can_wait_are_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    at_once: list[int] = []
    lock = threading.Lock()
    running = [0]

    def work(*_: Any, **__: Any) -> Any:
        with lock:
            running[0] += 1
            at_once.append(running[0])
        may_end.wait(30)
        with lock:
            running[0] -= 1
        raise PlanChangedError

    monkeypatch.setattr(tab.reports, "_make", work)
    for name in ("read_run", "find_plan", "clear_as_shown"):
        monkeypatch.setattr(tab, name, work)
    statuses: list[int] = []
    names = ["items", "plan", "clear", "report"] * MOST_WAITING

    def ask_one(name: str) -> None:
        statuses.append(ask(client, name).status_code)
        if len(statuses) > len(names) - MOST_WAITING - names.count("report"):
            may_end.set()  # all who are refused have been; those who ask for the same report wait for one

    threads = [threading.Thread(target=ask_one, args=[name]) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert max(at_once) == MAKERS
    assert set(statuses) == {409, 429}


class TestTurns:
    """Requests of the tab that are looked at, or whose answers are begun, at the same time."""

    @pytest.fixture
    def turns(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tab, "_turns", asyncio.Semaphore(tab.TURNS))

    def ask_at_once(
        self, *paths: str, also: Callable[[httpx.AsyncClient], Awaitable[Any]] | None = None
    ) -> Any:
        async def ask_all() -> Any:
            transport = httpx.ASGITransport(tab.with_headers)
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                asking = [asyncio.create_task(http.get(f"/dags/etl/{path}")) for path in paths]
                others = None if also is None else await asyncio.wait_for(also(http), 30)
                return [answer.status_code for answer in await asyncio.gather(*asking)], others

        return asyncio.run(ask_all())

    @pytest.mark.usefixtures("turns")
    def test_rights_of_few_are_looked_up_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        at_once: list[int] = [0]
        most = [0]

        async def look_up() -> None:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
            await asyncio.sleep(0.01)
            at_once[0] -= 1

        monkeypatch.setitem(tab.app.dependency_overrides, READ[1].dependency, look_up)

        statuses, _ = self.ask_at_once(*["static/page.js"] * 20)

        assert statuses == [200] * 20
        assert most == [tab.TURNS]

    @pytest.mark.usefixtures("turns")
    def test_who_waits_for_a_report_leaves_the_turn_to_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        may_end = threading.Event()

        def make(*_: str) -> tuple[bytes, bytes]:
            may_end.wait(30)
            return gzip.compress(b"{}"), gzip.compress(b'{"may_clear":true}')

        monkeypatch.setattr(tab.reports, "_make", make)

        async def ask_meanwhile(http: httpx.AsyncClient) -> int:
            await asyncio.sleep(0.1)
            answer = await http.get("/dags/etl/static/page.js")
            may_end.set()
            return answer.status_code

        reports = [f"report/slow_{number % 2}" for number in range(3 * tab.TURNS)]
        assert self.ask_at_once(*reports, also=ask_meanwhile) == ([200] * len(reports), 200)

    @pytest.mark.usefixtures("turns")
    def test_an_error_and_a_body_that_never_comes_keep_no_turn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fail(monkeypatch, "items", LookupError("of a run"))
        transport = httpx.ASGITransport(tab.with_headers, raise_app_exceptions=False)

        async def never() -> AsyncIterator[bytes]:
            await asyncio.sleep(60)
            yield b"{}"

        async def ask() -> list[int]:
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
                failed = [
                    (await http.get("/dags/etl/items/run?group=g&batch=0")).status_code
                    for _ in range(2 * tab.TURNS)
                ]
                posts = [
                    asyncio.create_task(http.post("/dags/etl/rerun/run", content=never()))
                    for _ in range(2 * tab.TURNS)
                ]
                await asyncio.sleep(0.05)
                answer = await asyncio.wait_for(http.get("/dags/etl/static/page.js"), 20)
                for post in posts:
                    post.cancel()
                await asyncio.gather(*posts, return_exceptions=True)
                return [*failed, answer.status_code]

        assert asyncio.run(ask()) == [500] * 2 * tab.TURNS + [200]


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_report_is_compressed_for_who_can_read_that(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    forms = (gzip.compress(b'{"may_clear":false}'), gzip.compress(b'{"may_clear":true}'))
    monkeypatch.setattr(tab.reports, "_make", lambda *_: forms)

    answer = client.get(f"/dags/etl/report/{encoding}", headers={"Accept-Encoding": encoding})

    assert answer.json() == {"may_clear": True}
    assert answer.headers.get("content-encoding", "identity") == encoding
    assert answer.headers["vary"] == "Accept-Encoding"


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> mock.Mock:
    """The session of a clear by the user ``ada``."""
    session = mock.Mock(spec=Session)
    monkeypatch.setattr(tab, "create_session", lambda **_: nullcontext(session))
    user = mock.Mock(spec=BaseUser)
    user.get_name.return_value = "ada"
    monkeypatch.setitem(tab.app.dependency_overrides, get_user, lambda: user)
    return session


class TestAuditLog:
    def test_it_has_who_cleared_how_much_and_the_first_hundred(
        self, client: TestClient, session: mock.Mock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cleared = tuple(TaskRun(task_id="work", map_index=index, state="failed") for index in range(150))
        plan = RerunPlan(dag_id="etl", run_id="run", run_state="failed")
        done = Clearing(cleared=cleared, changed=(), is_paused=False)
        monkeypatch.setattr(tab, "clear_as_shown", lambda *_, **__: (plan, done))

        assert ask(client, "clear", json={"plan": "x", "group": "work"}).status_code == 200

        ((log,), _) = session.add.call_args
        assert (log.event, log.owner, log.dag_id, log.run_id) == ("fan_out_rerun", "ada", "etl", "run")
        told = json.loads(log.extra)
        assert (told["group"], told["number"], told["cleared"][-1]) == ("work", 150, "work[99]")
        assert len(told["cleared"]) == tab.MOST_LOGGED

    def test_it_has_nothing_of_what_was_refused(
        self, client: TestClient, session: mock.Mock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fail(monkeypatch, "clear", PlanChangedError("The run has changed"))

        assert ask(client, "clear").status_code == 409
        assert session.add.call_args is None


def test_after_a_clear_the_report_is_made_again(
    client: TestClient, session: mock.Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = iter([b'{"report":1}', b'{"report":2}'])
    monkeypatch.setattr(tab.reports, "_make", lambda *_: (gzip.compress(next(reports)),) * 2)
    plan = RerunPlan(dag_id="etl", run_id="run", run_state="failed")
    done = Clearing(cleared=(), changed=(), is_paused=False)
    monkeypatch.setattr(tab, "clear_as_shown", lambda *_, **__: (plan, done))

    before = client.get("/dags/etl/report/cleared").json()
    cleared = client.post("/dags/etl/rerun/cleared", json={"plan": "x"}).json()

    assert (before, client.get("/dags/etl/report/cleared").json()) == ({"report": 1}, {"report": 2})
    assert datetime.fromisoformat(cleared["cleared_at"]).tzinfo is not None
    assert session.add.call_count == 1
