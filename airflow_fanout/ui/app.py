"""The Fan-out tab's routes."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Annotated, Any

from airflow.api_fastapi.core_api.security import GetUserDep  # noqa: TC002 - for FastAPI, at run time
from airflow.models.log import Log
from airflow.utils.session import create_session
from cachetools import TTLCache, cached
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Response, status
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
    read_run,
    report_of,
)
from airflow_fanout.reports.branches import items_of_batch
from airflow_fanout.reports.figures import shortened
from airflow_fanout.reports.group_report import to_json
from airflow_fanout.reports.rerun import fingerprint, plan_as_json
from airflow_fanout.reports.run_report import item_page
from airflow_fanout.rules.names import MAX_TASK_ID_LENGTH
from airflow_fanout.ui.access import CLEAR, READ, may_clear
from airflow_fanout.ui.report_cache import BusyError, Makers, ReportCache

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from sqlalchemy.orm import Session
    from starlette.types import Message, Receive, Scope, Send

    from airflow_fanout.reports.rerun import Clearing, RerunPlan

STATIC = Path(__file__).parent / "static"
MEDIA_TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}

MOST_ITEMS = 2000  # in one answer
MOST_LOGGED = 100  # task instances that the audit log names
Index = Annotated[int, Query(ge=0)]

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


@router.get("/static/{name}")
def static(dag_id: str, name: str) -> Response:  # noqa: ARG001 - asked for in the path, to be authorised
    """Return a file that the page is made of."""
    return _file(name)


@router.get("/report/{run_id:path}")
async def report(dag_id: str, run_id: str, user_may_clear: Annotated[bool, Depends(may_clear)]) -> Response:
    """Return the run's report, and whether the user may run again what failed."""
    with _explained():
        content = await reports.get(dag_id, run_id)
    text = b'{"report":%b,"may_clear":%b}' % (content, json.dumps(user_may_clear).encode())
    return Response(text, media_type="application/json")


def _version_of(dag_id: str, run_id: str) -> Hashable | None:
    with create_session(scoped=False) as session:
        return ended_version(dag_id, run_id, session=session)


def _make_report(dag_id: str, run_id: str) -> bytes:
    with create_session(scoped=False) as session:
        facts = read_run(find_run(dag_id, run_id, session=session), session=session)
    return _json(report_of(facts, surroundings=surroundings()))


makers = Makers()
reports = ReportCache(_version_of, _make_report, makers)


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
        return {**plan_as_json(plan, done), "is_paused": done.is_paused}

    return await _made(clear)


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


async def with_headers(scope: Scope, receive: Receive, send: Send) -> None:
    """Have every answer, errors too, tell the browser to load nothing from elsewhere, and to keep nothing."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    await app(scope, receive, send_with_headers)


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
        text = await makers.make(content)
    return Response(text, media_type="application/json")


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
    except UnreadableValueError as error:
        raise HTTPException(status.HTTP_500_INTERNAL_SERVER_ERROR, str(error)) from error
