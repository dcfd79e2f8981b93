"""An embedded Airflow that knows its users, and a second API server on its database with rights by Dag."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from airflow_fanout.demo.embedded import LOOPBACK, free_port
from airflow_fanout.demo.rest import AirflowRest
from tests.support.airflow import ControlledAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["FAB", "USERS", "AirflowWithUsers", "log_in"]

FOLDER = Path(__file__).parent
FAB, STORAGE = "api-server-with-fab", "api-server-with-object-storage"
XCOM_BACKEND = "airflow.providers.common.io.xcom.backend.XComObjectStorageBackend"
FAB_MANAGER = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
USERS = {"admin": "admin", "viewer": "viewer"}
"""Who may log in where the simple auth manager answers: role by name; each password is the name."""


class AirflowWithUsers(ControlledAirflow):
    """
    An :class:`ControlledAirflow` to which only those who have logged in have access.

    :param env: Environment variables to add or replace.
    :param settings: What else ``ControlledAirflow`` takes.
    """

    def __init__(self, *, home: Path, env: Mapping[str, str], **settings: Any) -> None:
        passwords = home / "users.json"
        passwords.write_text(json.dumps({name: name for name in USERS}), encoding="utf-8")
        options = {
            "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            # `airflow db migrate` makes the tables of the other auth manager, too.
            "DATABASE__EXTERNAL_DB_MANAGERS": "airflow.providers.fab.auth_manager.models.db.FABDBManager",
        }
        users = {f"AIRFLOW__{name}": value for name, value in options.items()}
        super().__init__(home=home, env={**users, **env}, **settings)
        self._fab_port = free_port()

    @property
    def fab_url(self) -> str:
        """Where an API server beside the first answers."""
        return f"http://{LOOPBACK}:{self._fab_port}"

    def start(self) -> None:
        """Start it, and log in as its administrator."""
        super().start()
        self.token = log_in(self.base_url, "admin")

    @contextmanager
    def with_fab(self, roles: Mapping[str, Sequence[tuple[str, str]]]) -> Iterator[None]:
        """
        Start an API server whose users have rights by Dag, and stop it at the end.

        :param roles: What users may do, each by a name that is also the password: pairs of action and
            resource.
        """
        self.run_script(FOLDER / "add_users.py", roles, process=FAB)
        with self._beside(FAB):
            yield

    @contextmanager
    def with_object_storage(self, folder: Path) -> Iterator[None]:
        """Start an API server that finds values in files of a folder, and stop it at the end."""
        self._storage = folder
        with self._beside(STORAGE):
            yield

    @contextmanager
    def _beside(self, name: str) -> Iterator[None]:
        """Start an API server beside the first one."""
        port = urlsplit(self.fab_url).port
        self._commands[name] = ["api-server", "--host", LOOPBACK, "--port", str(port)]
        self.start_process(name)
        try:
            server = AirflowRest(self.fab_url)
            self.poll(
                lambda: server.send("GET", "api/v2/version"),
                timeout=180,
                condition=lambda: f"No answer; the end of its log:\n{self.log_tail(name)}",
            )
            yield
        finally:
            self.stop_process(name)

    def run_script(self, script: Path, given: Any, *arguments: str, process: str = "command") -> str:
        """
        Run one of the tests' scripts in a process's environment; what it is given it reads as JSON.

        :return: The last line that it has printed.
        """
        done = subprocess.run(
            [sys.executable, str(script), *arguments],
            cwd=self.home,
            env=self.environment(process),
            input=json.dumps(given),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            message = f"{script.name} ended with exit code {done.returncode}:\n{done.stdout[-3000:]}"
            raise RuntimeError(message)
        return done.stdout.strip().rpartition("\n")[2]

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a process."""
        environment = super().environment(name)
        if name == FAB:
            environment |= {
                "AIRFLOW__CORE__AUTH_MANAGER": FAB_MANAGER,
                "AIRFLOW__API__BASE_URL": self.fab_url,
            }
        if name == STORAGE:
            environment |= {
                "AIRFLOW__CORE__XCOM_BACKEND": XCOM_BACKEND,
                "AIRFLOW__COMMON_IO__XCOM_OBJECTSTORAGE_PATH": f"file://{self._storage}",
                "AIRFLOW__API__BASE_URL": self.fab_url,
            }
        return environment


def log_in(base_url: str, name: str) -> str:
    """
    Get a token.

    :param base_url: Where the API server answers.
    :param name: Name of the user, and password.
    """
    body = {"username": name, "password": name}
    answer = httpx.post(f"{base_url}/auth/token", json=body, timeout=120, trust_env=False)
    answer.raise_for_status()
    return str(answer.json()["access_token"])
