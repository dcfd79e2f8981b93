"""The Fan-out tab's routes."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any

import pendulum
from airflow.api_fastapi.core_api.security import GetUserDep  # noqa: TC002 - for FastAPI, at run time
from airflow.models.log import Log
from airflow.utils.session import create_session
from cachetools import TTLCache, cached
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import MutableHeaders

from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.metadata.clearing import PlanChangedError, clear_as_shown, find_plan
from airflow_fanout.metadata.limits import read_scheduling_limits
from airflow_fanout.metadata.runs import (
    NOT_FOUND,
    UnknownDagError,
    ended_version,
    find_run,
    find_runs,
    read_run,
    read_runs,
)
from airflow_fanout.reports.branches import items_of_batch
from airflow_fanout.reports.figures import shortened
from airflow_fanout.reports.group_report import to_json
from airflow_fanout.reports.history import dag_history
from airflow_fanout.reports.rerun import fingerprint, plan_as_json
from airflow_fanout.reports.run_report import item_page
from airflow_fanout.rules.names import MAX_TASK_ID_LENGTH
from airflow_fanout.rules.wording import shown_error
from airflow_fanout.ui.access import CLEAR, READ, may_clear
from airflow_fanout.ui.report_cache import BusyError, Makers, ReportCache
from airflow_fanout.ui.reporter import Reporter, ReporterError, compressed_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Hashable, Iterator

    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from sqlalchemy.orm import Session
    from starlette.types import Message, Receive, Scope, Send

    from airflow_fanout.reports.rerun import Clearing, RerunPlan

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}

MOST_ITEMS = 2000  # in one answer
RUNS_SHOWN = 20  # of a Dag's history
MOST_LOGGED = 100  # task instances that the audit log names
TURNS = 2  # requests that are looked at, or whose answers are begun, at the same time
MOST_BYTES = 64 * 1024  # of a body, which is read before anybody's rights are looked at
Index = Annotated[int, Query(ge=0, lt=2**31)]  # as the database has them

# The surroundings are taken to stay as they are for 30 seconds: Celery's workers take one to answer.
surroundings = cached(TTLCache(maxsize=1, ttl=30), lock=Lock())(read_scheduling_limits)

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


class RerunBody(BaseModel):
    """What to clear: the plan that was shown, of one group by its title or of all, with or without causes."""

    model_config = ConfigDict(extra="forbid")

    plan: str = Field(max_length=64)
    group: str | None = None
    causes: bool = False


router = APIRouter(prefix="/dags/{dag_id}", dependencies=READ)


@router.get("/page/{run_id:path}")
def page(dag_id: str, run_id: str) -> Response:  # noqa: ARG001 - the page asks for what it shows
    """Return the page, which is the same for every run."""
    return _file("page.html")


@router.get("/history")
def history_page(dag_id: str) -> Response:  # noqa: ARG001 - the page asks for what it shows
    """Return the page of a Dag."""
    return _file("history.html")


@router.get("/history/report")
async def history(request: Request, dag_id: str) -> Response:
    """Return the history of the Dag's last runs."""
    with _explained():
        async with _out_of_turn():
            (found,) = await histories.get(dag_id, "")
    return _compressed(request, found)


@router.get("/static/{name}")
def static(dag_id: str, name: str) -> Response:  # noqa: ARG001 - asked for in the path, to be authorised
    """Return a file that the page is made of."""
    return _file(name)


@router.get("/report/{run_id:path}")
async def report(
    request: Request, dag_id: str, run_id: str, user_may_clear: Annotated[bool, Depends(may_clear)]
) -> Response:
    """Return the run's report, and whether the user may run again what failed."""
    with _explained():
        async with _out_of_turn():
            found = await reports.get(dag_id, run_id)
    return _compressed(request, found[user_may_clear])


def _version_of(dag_id: str, run_id: str) -> Hashable | None:
    with create_session(scoped=False) as session:
        return ended_version(dag_id, run_id, session=session)


def _make_report(dag_id: str, run_id: str) -> tuple[bytes, bytes]:
    """Make what is answered to who may not clear, and to who may, compressed once for all who ask."""
    with create_session(scoped=False) as session:
        facts = read_run(find_run(dag_id, run_id, session=session), session=session)
    return reporter.work_out(facts, surroundings())


def _make_history(dag_id: str, _: str) -> tuple[bytes]:
    """Make the history of a Dag; of one run at a time more is held than its history needs."""
    now = datetime.now(UTC)
    with create_session(scoped=False) as session:
        runs = find_runs(dag_id, RUNS_SHOWN, session=session)
        traces = [reporter.trace(facts, now) for facts in read_runs(runs, session=session)]
    return (compressed_json(dag_history(dag_id, traces, number=len(runs), now=now)),)


makers = Makers()
reporter = Reporter()
reports = ReportCache(_version_of, _make_report, makers)
histories = ReportCache(lambda *_: None, _make_history, makers)


@router.get("/items/{run_id:path}")
async def items(dag_id: str, run_id: str, *, group: str, batch: Index, start: Index = 0) -> Response:
    """Return some of a batch's items."""

    def page(session: Session) -> Any:
        facts = read_run(find_run(dag_id, run_id, session=session), batch=(group, batch), session=session)
        return item_page(items_of_batch(facts, group, batch), start=start, size=MOST_ITEMS)

    return await _made(page)


@router.get("/rerun/{run_id:path}", dependencies=[CLEAR[-1]])
async def plan_rerun(dag_id: str, run_id: str, group: str | None = None) -> Response:
    """Return what would be cleared."""

    def plan(session: Session) -> Any:
        found = find_plan(dag_id, run_id, group_ids=_ids(group), session=session)
        return {**plan_as_json(found), "plan": fingerprint(found)}

    return await _made(plan)


@router.post("/rerun/{run_id:path}", dependencies=CLEAR)
async def rerun(dag_id: str, run_id: str, body: RerunBody, user: GetUserDep) -> Response:
    """Clear what was shown; nothing, if that is no longer what there is. The audit log notes what and who."""

    def clear(session: Session) -> Any:
        plan, done = clear_as_shown(
            dag_id, run_id, body.plan, group_ids=_ids(body.group), causes=body.causes, session=session
        )
        session.add(_log_entry(plan, done, body, user))
        return {**plan_as_json(plan, done), "is_paused": done.is_paused, "cleared_at": pendulum.now("UTC")}

    answer = await _made(clear)
    reports.forget(dag_id, run_id)
    return answer


def _log_entry(plan: RerunPlan, done: Clearing, body: RerunBody, user: BaseUser) -> Log:
    names = [shortened(task_run.name, MAX_TASK_ID_LENGTH) for task_run in done.cleared[:MOST_LOGGED]]
    what = {"group": body.group, "causes": body.causes, "number": len(done.cleared), "cleared": names}
    return Log(
        event="fan_out_rerun",
        owner=user.get_name(),
        owner_display_name=user.get_name(),
        extra=json.dumps(what),
        dag_id=plan.dag_id,
        run_id=plan.run_id,
    )


def _ids(group: str | None) -> list[str] | None:
    return None if group is None else [group]


app = FastAPI(title="Fan-out", docs_url=None, redoc_url=None, openapi_url=None)
app.include_router(router)


@app.exception_handler(RequestValidationError)
async def explain(_: Request, error: RequestValidationError) -> Response:
    """Say what is wrong, without what was sent: that may be no JSON, or long."""
    problems = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    content = json.dumps({"detail": problems})
    return Response(content, HTTPStatus.UNPROCESSABLE_ENTITY, media_type="application/json")


async def with_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """
    Have every answer, errors too, tell the browser to load nothing from elsewhere, and to keep nothing.

    What is only asked for takes its turn, so that others find the threads of the API server free.
    """

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            turn.end()  # whoever reads slowly keeps nobody waiting
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    received = 0

    async def receive_little() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MOST_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "That is more than anything here takes")
        return message

    turn = Turn()
    token = _turn.set(turn)
    try:
        if scope.get("method") == "GET":  # anything else may have a body, which may come slowly
            await turn.begin()
        await app(scope, receive_little, send_with_headers)
    finally:
        _turn.reset(token)
        turn.end()


class Turn:
    """One of the few turns in which the rights of those who ask are looked up, and answers are begun."""

    def __init__(self) -> None:
        self.is_taken = False

    async def begin(self) -> None:
        """Wait for a turn."""
        await _turns.acquire()
        self.is_taken = True

    def end(self) -> None:
        """Leave it to the next, if it was taken."""
        if self.is_taken:
            self.is_taken = False
            _turns.release()


_turns = asyncio.Semaphore(TURNS)
_turn: ContextVar[Turn] = ContextVar("turn")


@asynccontextmanager
async def _out_of_turn() -> AsyncIterator[None]:
    """Let others have their turn while an answer is made."""
    turn = _turn.get()
    was_taken = turn.is_taken
    turn.end()
    yield
    if was_taken:
        await turn.begin()


def _file(name: str) -> Response:
    path = next((path for path in STATIC.iterdir() if path.name == name), None)
    if path is None or path.suffix not in MEDIA_TYPES:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no such file")
    # Asked for again each time, answered with "not modified": an upgrade shows at once.
    headers = {"Cache-Control": "private, no-cache"}
    return FileResponse(path, media_type=MEDIA_TYPES[path.suffix], headers=headers)


async def _made(make: Callable[[Session], Any]) -> Response:
    """Answer with what one of the makers reads, or does; what it has done is committed if all went well."""

    def content() -> bytes:
        with create_session(scoped=False) as session:
            return _json(make(session))

    with _explained():
        async with _out_of_turn():
            text = await makers.make(content)
    return Response(text, media_type="application/json")


def _compressed(request: Request, content: bytes) -> Response:
    headers = {"Vary": "Accept-Encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
    else:
        content = gzip.decompress(content)
    return Response(content, media_type="application/json", headers=headers)


def _json(content: Any) -> bytes:
    # Quicker than FastAPI's own way, which looks at each value; these are plain ones.
    return json.dumps(content, separators=(",", ":"), default=to_json, allow_nan=False).encode()


@contextmanager
def _explained() -> Iterator[None]:
    """Answer that something is not there, or can't be read, with the reason."""
    try:
        yield
    except UnknownDagError as error:  # whose text names others
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no such Dag") from error
    except PlanChangedError as error:
        detail = f"{error}. Nothing was cleared; look at what would be now."
        raise HTTPException(status.HTTP_409_CONFLICT, detail) from error
    except BusyError as error:
        headers = {"Retry-After": "2"}
        detail = "Many reports are being made; ask again in some seconds"
        raise HTTPException(status.HTTP_429_TOO_MANY_REQUESTS, detail, headers=headers) from error
    except NOT_FOUND as error:
        raise HTTPException(status.HTTP_404_NOT_FOUND, str(error)) from error
    except ReporterError as error:
        raise HTTPException(status.HTTP_500_INTERNAL_SERVER_ERROR, str(error)) from error
    except UnreadableValueError as error:
        raise HTTPException(status.HTTP_500_INTERNAL_SERVER_ERROR, shown_error(str(error))) from error
