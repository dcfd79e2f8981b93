"""A client of a running Airflow's REST API."""

from __future__ import annotations

import time
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable


ADMIN = "admin"
"""Name of the administrator."""

PAGE = 100

TIMEOUT = 120
"""Seconds that one answer may take."""

RETRY_TIMEOUT = 30
"""Seconds within which a request is sent again if the server fails."""

ENDED = frozenset({"success", "failed"})
"""States of a run that has ended."""

T = TypeVar("T")


class NoAnswerError(ConnectionError):
    """Raised when a request has no answer, or the server failed, such as at a database that is locked."""


class RestError(Exception):
    """Raised when Airflow refuses a request."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class AirflowRest:
    """
    An Airflow that answers at an address.

    :param password: The administrator's; None if only what anybody may ask is asked.
    """

    def __init__(self, base_url: str, *, password: str | None = None) -> None:
        self.base_url, self.password = base_url, password
        self.token: str | None = None
        # No proxy of the environment's, and no connection that a server may close while it is idle.
        self._client = httpx.Client(
            base_url=base_url,
            timeout=TIMEOUT,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def ensure_alive(self) -> None:
        """Raise if waiting any longer makes no sense; called before every request of a wait."""

    def request(self, method: str, path: str, *, root: str = "api/v2", **content: Any) -> Any:
        """Send a request with a token, again for a while if the server fails; ``content`` is httpx's."""
        deadline = time.monotonic() + RETRY_TIMEOUT
        while True:
            self.ensure_alive()
            try:
                if self.token is None:
                    user = {"username": ADMIN, "password": self.password}
                    self.token = self.send("POST", "auth/token", json=user)["access_token"]
                return self.send(method, f"{root}/{path}", **content)
            except NoAnswerError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def send(self, method: str, path: str, **content: Any) -> Any:
        """Send a request to a path below the base URL, and return the JSON; None for an empty answer."""
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        try:
            answer = self._client.request(method, f"/{path}", headers=headers, **content)
        except httpx.HTTPError as error:
            msg = f"Airflow does not answer: {method} /{path}: {error}"
            raise NoAnswerError(msg) from error
        msg = f"{method} /{path}: {answer.status_code}: {answer.text}"
        if answer.is_server_error:
            raise NoAnswerError(msg)
        if not answer.is_success:
            raise RestError(msg, answer.status_code)
        return answer.json() if answer.content else None

    def find(self, path: str, **params: Any) -> Any:
        """Return what is there; None if there is nothing."""
        try:
            return self.request("GET", path, params=params)
        except RestError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return None

    def pages(self, path: str, key: str, **params: Any) -> list[dict[str, Any]]:
        """Read all pages of a collection whose entries are under ``key``."""
        entries: list[dict[str, Any]] = []
        while True:
            page = self.request("GET", path, params={**params, "limit": PAGE, "offset": len(entries)})
            entries += page[key]
            if not page[key] or len(entries) >= page["total_entries"]:
                return entries

    def poll(self, probe: Callable[[], T | None], *, timeout: float, condition: Callable[[], str]) -> T:
        """
        Ask until there is an answer; None, a server's error and no answer mean "not yet".

        :param condition: Says what was waited for, and how far it got.
        :raises TimeoutError: If there is no answer in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.ensure_alive()
            with suppress(NoAnswerError):
                if (answer := probe()) is not None:
                    return answer
            if time.monotonic() > deadline:
                msg = f"{condition()} (waited {timeout:g} s)"
                raise TimeoutError(msg)
            time.sleep(0.25)

    def import_errors(self) -> list[dict[str, Any]]:
        """Return the Dag files that could not be imported: ``filename`` and ``stack_trace``."""
        return self.pages("importErrors", "import_errors")

    def wait_for_dag(self, dag_id: str, *, timeout: float = 60) -> None:
        """Wait until the Dag processor has found a Dag."""
        self.poll(
            lambda: self.find(f"dags/{dag_id}"),
            timeout=timeout,
            condition=lambda: f"No Dag {dag_id!r}; files that can't be imported: {self.import_errors()}",
        )

    def trigger(self, dag_id: str, **fields: Any) -> str:
        """Start a run and return its id; ``fields`` are more of the request's, such as ``conf``."""
        body = {"logical_date": None, **fields}
        return str(self.request("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a run, with its ``state``, ``start_date`` and ``end_date``."""
        run: dict[str, Any] = self.request("GET", run_path(dag_id, run_id))
        return run

    def report(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return the report of a run that the Fan-out tab shows."""
        path = f"dags/{dag_id}/report/{quote(run_id)}"
        report: dict[str, Any] = self.request("GET", path, root="fan-out")["report"]
        return report

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run, in the order in which Airflow made them."""
        path = f"{run_path(dag_id, run_id)}/taskInstances"
        instances = self.pages(path, "task_instances", order_by="id")
        # A page boundary can repeat an instance if one is added meanwhile.
        unique = {(instance["task_id"], instance["map_index"]): instance for instance in instances}
        return list(unique.values())

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1
    ) -> Any:
        """Return an XCom that is plain JSON; None if the task pushed nothing under that key."""
        path = f"{task_path(dag_id, run_id, task_id)}/xcomEntries/{key}"
        return (self.find(path, map_index=map_index) or {}).get("value")

    def log_entries(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> list[Any]:
        """Return the events in the log of one try of a task: mappings with ``event``, or plain text."""
        path = f"{task_path(dag_id, run_id, task_id)}/logs/{try_number}"
        answer = self.request("GET", path, params={"map_index": map_index, "full_content": True})
        entries: list[Any] = answer["content"]
        return entries


def run_path(dag_id: str, run_id: str) -> str:
    """Return the path of a run below ``/api/v2``."""
    return f"dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"


def task_path(dag_id: str, run_id: str, task_id: str) -> str:
    """Return the path of a task instance below ``/api/v2``."""
    return f"{run_path(dag_id, run_id)}/taskInstances/{quote(task_id, safe='')}"
