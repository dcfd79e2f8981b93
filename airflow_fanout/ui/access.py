"""Who may see the tab, and who may clear: Airflow's own rights, asked for each request."""

from __future__ import annotations

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.configuration import conf
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Request, status

from airflow_fanout.ui.origin import why_foreign

__all__ = ["CLEAR", "READ", "may_clear"]


def _same_origin(request: Request) -> None:
    base_url = conf.get("api", "base_url", fallback=None) or str(request.base_url)
    why = why_foreign(request.headers, own=base_url)
    if why is not None:
        message = f"This request may not come from Airflow's own pages: {why}"
        raise HTTPException(status.HTTP_403_FORBIDDEN, message)


def _one_dag(dag_id: str) -> None:
    # Airflow takes it for "any Dag", and who may see one would be told the names of others.
    if dag_id == "~":
        raise HTTPException(status.HTTP_404_NOT_FOUND, "There is no Dag '~'")


READ = [
    Depends(requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE)),
    Depends(requires_access_dag("GET", DagAccessEntity.XCOM)),
    Depends(_one_dag),
]
"""What every route asks for; the Dag's id is in its path."""

CLEAR = [Depends(_same_origin), Depends(requires_access_dag("PUT", DagAccessEntity.TASK_INSTANCE))]
"""What a route that clears asks for besides."""


def may_clear(dag_id: str, user: GetUserDep) -> bool:
    """
    Whether a user may clear task instances of a Dag.

    :param dag_id: Id of the Dag.
    :param user: The user.
    """
    return get_auth_manager().is_authorized_dag(
        method="PUT",
        access_entity=DagAccessEntity.TASK_INSTANCE,
        details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
        user=user,
    )
