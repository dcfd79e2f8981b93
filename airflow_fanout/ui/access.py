"""Who may see the tab, and who may clear: Airflow's own rights, asked for each request."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.configuration import conf
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Request, status
from fastapi.security.utils import get_authorization_scheme_param

if TYPE_CHECKING:
    from collections.abc import Mapping


def foreign_origin(headers: Mapping[str, str], *, own: str) -> str | None:
    """
    Say why a request may come from another site than Airflow's own URL; None if it doesn't.

    Browsers say where a request comes from and let no page change it: in ``Sec-Fetch-Site``, older ones in
    ``Origin``. A program that shows its token in ``Authorization`` is not led by a page at all; without one,
    Airflow goes by the cookie, which browsers send along unasked.
    """
    site, origin, host = headers.get("sec-fetch-site"), headers.get("origin"), headers.get("host", "")
    if site is not None:
        return None if site == "same-origin" else f"the browser says that it is {site}"
    if origin is not None:
        forwarded = f"{headers.get('x-forwarded-proto', 'https')}://{host}"
        known = {_origin(url) for url in (own, f"http://{host}", forwarded)} - {None}
        return None if _origin(origin) in known else f"it comes from {origin!r}"
    scheme, token = get_authorization_scheme_param(headers.get("authorization"))
    if scheme.lower() == "bearer" and token:
        return None
    return "it says neither where it comes from nor, in Authorization, who sent it"


def _origin(url: str) -> tuple[str, str, int] | None:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.scheme not in {"http", "https"}:
        return None
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)


async def _same_origin(request: Request) -> None:
    base_url = conf.get("api", "base_url", fallback=None) or str(request.base_url)
    problem = foreign_origin(request.headers, own=base_url)
    if problem is not None:
        reason = f"This request may not come from Airflow's own pages: {problem}"
        raise HTTPException(status.HTTP_403_FORBIDDEN, reason)


async def _one_dag(dag_id: str) -> None:
    # Airflow takes it for "any Dag", and who may see one would be told the names of others.
    if dag_id == "~":
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no Dag '~'")


async def storable(request: Request) -> None:
    """Answer that nothing of a name with a zero character is there: PostgreSQL takes none."""
    if "\0" in request.url.path or "%00" in request.url.path:
        raise HTTPException(status.HTTP_404_NOT_FOUND, "Not Found")


READ = [
    Depends(storable),
    Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE)),
    Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
    Depends(_one_dag),
]
"""What every route asks for; the Dag's id is in its path."""

CLEAR = [Depends(_same_origin), Depends(requires_access_dag("PUT", DagAccessEntity.TASK_INSTANCE))]
"""What a route that clears asks for besides."""


def may_clear(dag_id: str, user: GetUserDep) -> bool:
    """Whether a user may clear task instances of a Dag."""
    return get_auth_manager().is_authorized_dag(
        method="PUT",
        access_entity=DagAccessEntity.TASK_INSTANCE,
        details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
        user=user,
    )
