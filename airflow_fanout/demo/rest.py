"""Talks to a running Airflow over its REST API; used by the demo and by end-to-end tests."""

from __future__ import annotations

import time
from http import HTTPStatus
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


PAGE = 100

FINISHED_RUN_STATES = frozenset({"success", "failed"})

T = TypeVar("T")


class RestError(Exception):
    """
    Raised when Airflow refuses a request.

    :param request: Method and path.
    :param status: The HTTP status.
    :param detail: What Airflow said.
    """

    def __init__(self, request: str, *, status: int, detail: str) -> None:
        super().__init__(f"{request}: {status}: {detail}")
        self.request = request
        self.status = status
        self.detail = detail


class AirflowRest:
    """
    An Airflow whose API answers to anybody: a simple auth manager with ``simple_auth_manager_all_admins``.

    :param base_url: Where the API server answers, such as ``http://127.0.0.1:8080``.
    """

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        # A proxy from the environment has no business between this process and loopback.
        self._http = httpx.Client(base_url=base_url, timeout=120, trust_env=False)

    def ensure_alive(self) -> None:
        """Raise if waiting any longer makes no sense; called between the requests of every wait."""

    def request(self, method: str, path: str, **arguments: Any) -> Any:
        """
        Send a request to ``/api/v2`` and return what was answered.

        :param method: HTTP method.
        :param path: Path below ``/api/v2/``.
        :param arguments: ``params``, ``json`` and ``headers``, as httpx takes them.
        :return: The decoded JSON; None for an empty answer.
        :raises RestError: If the answer isn't a success.
        """
        if "authorization" not in self._http.headers:
            token = _checked(self._http.get("/auth/token"))["access_token"]
            self._http.headers["authorization"] = f"Bearer {token}"
        return _checked(self._http.request(method, f"/api/v2/{path}", **arguments))

    def pages(self, path: str, key: str, **params: Any) -> list[dict[str, Any]]:
        """Read all pages of a collection whose entries are under ``key``."""
        entries: list[dict[str, Any]] = []
        while True:
            query = {**params, "limit": PAGE, "offset": len(entries)}
            page = self.request("GET", path, params=query)
            entries += page[key]
            if not page[key] or len(entries) >= page["total_entries"]:
                return entries

    def poll(self, probe: Callable[[], T | None], *, timeout: float, what: Callable[[], str]) -> T:
        """
        Ask again and again until there is an answer.

        :param probe: What to ask; None, a server's error and no connection mean "not yet".
        :param timeout: Seconds after which to give up.
        :param what: Says what was waited for, and how far it got, for the error.
        :return: The first answer that isn't None.
        :raises TimeoutError: If there is none in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            self.ensure_alive()
            try:
                answer = probe()
            except httpx.TransportError:
                answer = None
            except RestError as error:
                if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise
                answer = None
            if answer is not None:
                return answer
            if time.monotonic() > deadline:
                msg = f"{what()} (waited {timeout:g} s)"
                raise TimeoutError(msg)
            time.sleep(0.25)

    def health(self) -> dict[str, Any]:
        """Return what each component says about itself; it needs no token."""
        health: dict[str, Any] = _checked(self._http.get("/api/v2/monitor/health"))
        return health

    def import_errors(self) -> list[dict[str, Any]]:
        """Return the Dag files that could not be imported: ``filename`` and ``stack_trace``."""
        return self.pages("importErrors", "import_errors")

    def wait_for_dag(self, dag_id: str, *, timeout: float = 60) -> dict[str, Any]:
        """
        Wait until the Dag processor has found a Dag.

        :raises RuntimeError: If the file named after the Dag cannot be imported.
        :raises TimeoutError: If the Dag doesn't come; with the import errors there are.
        """

        def probe() -> dict[str, Any] | None:
            for error in self.import_errors():
                if PurePath(error["filename"]).stem == dag_id:
                    msg = f"{error['filename']} cannot be imported:\n{error['stack_trace']}"
                    raise RuntimeError(msg)
            try:
                dag: dict[str, Any] = self.request("GET", f"dags/{_quoted(dag_id)}")
            except RestError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                return None
            return dag

        def what() -> str:
            traces = "\n".join(
                f"{error['filename']}: {error['stack_trace']}" for error in self.import_errors()
            )
            return f"No Dag {dag_id!r}; import errors: {traces or 'none'}"

        return self.poll(probe, timeout=timeout, what=what)

    def trigger(
        self,
        dag_id: str,
        *,
        conf: Mapping[str, Any] | None = None,
        run_id: str | None = None,
        note: str | None = None,
        logical_date: str | None = None,
    ) -> str:
        """Start a run and return its id."""
        body = {
            "conf": dict(conf or {}),
            "dag_run_id": run_id,
            "note": note,
            "logical_date": logical_date,
        }
        answer = self.request("POST", f"dags/{_quoted(dag_id)}/dagRuns", json=body)
        return str(answer["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a run, with its ``state``, ``start_date`` and ``end_date``."""
        run: dict[str, Any] = self.request("GET", _run_path(dag_id, run_id))
        return run

    def wait_for_run(self, dag_id: str, run_id: str, *, timeout: float = 120) -> str:
        """
        Wait until a run has ended and return its state, ``success`` or ``failed``.

        :raises TimeoutError: If it hasn't ended in time; with the states of its tasks.
        """

        def probe() -> str | None:
            state = str(self.run(dag_id, run_id)["state"])
            return state if state in FINISHED_RUN_STATES else None

        def what() -> str:
            states = {
                f"{ti['task_id']}[{ti['map_index']}]" if ti["map_index"] >= 0 else ti["task_id"]: ti["state"]
                for ti in self.task_instances(dag_id, run_id)
            }
            return f"Run {run_id!r} of {dag_id!r} has not ended; tasks: {states}"

        return self.poll(probe, timeout=timeout, what=what)

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a run as ``success``, ``failed`` or ``queued``."""
        self.request("PATCH", _run_path(dag_id, run_id), json={"state": state})

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run, in the order in which Airflow made them."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances"
        found = self.pages(path, "task_instances", order_by="id")
        # A page boundary can repeat an instance if one is added meanwhile.
        return list({(ti["task_id"], ti["map_index"]): ti for ti in found}.values())

    def task_instance(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """Return an unmapped task instance; with ``rendered_fields``, which the list on 3.2 lacks."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{_quoted(task_id)}"
        instance: dict[str, Any] = self.request("GET", path)
        return instance

    def xcom(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        key: str = "return_value",
        map_index: int = -1,
    ) -> Any:
        """
        Return the value of an XCom that is plain JSON; others come as Airflow's serialized form.

        :raises KeyError: If the task pushed nothing under that key.
        """
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{_quoted(task_id)}/xcomEntries/{_quoted(key)}"
        try:
            entry = self.request("GET", path, params={"map_index": map_index})
        except RestError as error:
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            raise KeyError((task_id, map_index, key)) from error
        return entry["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task, a line for each event."""
        entries = self.log_entries(dag_id, run_id, task_id, try_number=try_number, map_index=map_index)
        return "\n".join(_log_line(entry) for entry in entries)

    def log_entries(
        self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1
    ) -> list[Any]:
        """Return the events in the log of one try of a task: mappings with ``event``, or plain text."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{_quoted(task_id)}/logs/{try_number}"
        answer = self.request(
            "GET",
            path,
            params={"map_index": map_index, "full_content": True},
            headers={"accept": "application/json"},
        )
        entries: list[Any] = answer["content"]
        return entries

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_ids: Sequence[str | tuple[str, int]] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """
        Clear tasks so that they run again.

        :param task_ids: Task ids, or pairs of one and a map index; None for all of the run.
        :param options: More of the request's fields: ``include_downstream``, ``only_failed``, ``dry_run``, …
        :return: The task instances that were cleared.
        """
        body = {"dry_run": False, "only_failed": False, "dag_run_id": run_id, **options}
        if task_ids is not None:
            body["task_ids"] = list(task_ids)
        answer = self.request("POST", f"dags/{_quoted(dag_id)}/clearTaskInstances", json=body)
        cleared: list[dict[str, Any]] = answer["task_instances"]
        return cleared

    def set_state(self, dag_id: str, run_id: str, task_id: str, state: str, *, map_index: int = -1) -> None:
        """Mark a task instance as ``success``, ``failed`` or ``skipped``."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{_quoted(task_id)}"
        self.request("PATCH", path, params={"map_index": map_index}, json={"new_state": state})

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


def _checked(response: httpx.Response) -> Any:
    if response.is_success:
        return response.json() if response.content else None
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = response.text
    request = f"{response.request.method} {response.request.url.path}"
    raise RestError(request, status=response.status_code, detail=str(detail))


def _quoted(part: str) -> str:
    return quote(part, safe="")


def _run_path(dag_id: str, run_id: str) -> str:
    return f"dags/{_quoted(dag_id)}/dagRuns/{_quoted(run_id)}"


def _log_line(entry: Any) -> str:
    if not isinstance(entry, dict):
        return str(entry)
    rest = {name: value for name, value in entry.items() if name not in {"event", "timestamp"}}
    return " ".join([str(entry.get("event", "")), *(f"{name}={value}" for name, value in rest.items())])
