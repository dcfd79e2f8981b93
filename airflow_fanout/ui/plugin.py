"""The plugin that adds the Fan-out tab; small, because every Airflow process imports it, each task's too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.plugins_manager import AirflowPlugin

from airflow_fanout.operators.link import TAB

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

URL_PREFIX = "/fan-out"


class LazyApp:
    """The tab's application, imported with its first request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, as ASGI has it."""
        from airflow_fanout.ui.app import with_headers

        await with_headers(scope, receive, send)


class FanOutPlugin(AirflowPlugin):
    """Adds a tab to every Dag run, one to every Dag, and the application that fills them."""

    name = "fan_out"
    fastapi_apps = [{"app": LazyApp(), "url_prefix": URL_PREFIX, "name": "Fan-out"}]  # noqa: RUF012
    external_views = [  # noqa: RUF012
        {
            "name": "Fan-out",
            # Without a slash in front it is below Airflow's own base URL, whatever path that has.
            "href": f"{URL_PREFIX.removeprefix('/')}/dags/{{DAG_ID}}/page/{{RUN_ID}}",
            "destination": "dag_run",
            "url_route": TAB,
        },
        {
            "name": "Fan-out",
            "href": f"{URL_PREFIX.removeprefix('/')}/dags/{{DAG_ID}}/history",
            "destination": "dag",
            "url_route": f"{TAB}-history",
        },
    ]
