"""The tab's routes, asked as programs and browsers ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.ui.runs import RunKey

__all__ = ["HEADERS", "ROUTES", "Routes"]

ROUTES = {
    "page": ("GET", "page"),
    "static": ("GET", "static"),
    "report": ("GET", "report"),
    "history page": ("GET", "history"),
    "history": ("GET", "history/report"),
    "items": ("GET", "items"),
    "plan": ("GET", "rerun"),
    "clear": ("POST", "rerun"),
}
"""Method and what follows the Dag's id in the path, of every route."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class Routes:
    """
    The routes of one run, as one user.

    :param token: The user's, in a cookie as browsers send it; None for nobody.
    """

    def __init__(self, base_url: str, run: RunKey, *, token: str | None) -> None:
        self.run = run
        cookies = {} if token is None else {"_token": token}
        self._http = httpx.Client(base_url=base_url, timeout=120, trust_env=False, cookies=cookies)
        self._own = {"Origin": base_url}

    def __enter__(self) -> Routes:
        return self

    def __exit__(self, *ended: object) -> None:
        self._http.close()

    def ask(
        self,
        name: str,
        *,
        run: RunKey | None = None,
        group: str = "visit",
        batch: int = 0,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """
        Ask one of :data:`ROUTES`.

        :param body: What is posted, instead of a plan that never was.
        :param headers: What is sent, instead of where Airflow's own pages are from.
        """
        method, path = ROUTES[name]
        dag_id, run_id = run or self.run
        rest = "page.js" if name == "static" else quote(run_id, safe="")
        if path.startswith("history"):
            rest = ""
        arguments: dict[str, Any] = {"params": {"group": group}}
        if name == "items":
            arguments["params"]["batch"] = batch
        if name == "clear":
            arguments = {"json": {"group": group, "plan": "never", **(body or {})}}
        return self._http.request(
            method,
            f"/fan-out/dags/{quote(dag_id, safe='')}/{path}/{rest}".rstrip("/"),
            headers=self._own if headers is None else headers,
            **arguments,
        )

    def every(self) -> Iterator[tuple[str, httpx.Response]]:
        """Ask every route."""
        for name in ROUTES:
            yield name, self.ask(name)

    def statuses(self) -> dict[str, int]:
        """Return the status with which every route answers."""
        return {name: answer.status_code for name, answer in self.every()}
