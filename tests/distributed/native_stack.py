"""Runs the services of docker-compose.yaml as processes of this machine, where there are no containers."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import psycopg2
import redis

from airflow_fanout.demo import reaper
from airflow_fanout.demo.embedded import LOOPBACK, free_port
from tests.distributed.compose_file import REPOSITORY, interpolate, read
from tests.support.airflow import RestCalls
from tests.support.servers import PostgresServer, RedisServer, postgres_programs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

__all__ = ["NativeStack"]

SITE = """
import os, socket
socket.gethostname = lambda: os.environ["HOSTNAME"]
"""
"""Python imports it, as ``sitecustomize``, when it starts: each process has its container's host name."""


class NativeStack(RestCalls):
    """
    PostgreSQL, Redis, and whatever services of the file are started.

    What the file says of a service is taken as it is: its command, as the image's entrypoint understands it,
    its environment, its health check. What a container would give it is imitated: a host name, and an
    ``AIRFLOW_HOME`` of its own, in which ``dags`` is a copy of the repository's and ``logs`` is common.
    Names such as ``postgres:5432`` become addresses on loopback, with free ports. (The log servers of workers
    and triggerer listen on all addresses; Airflow can't be told otherwise.)
    """

    def __init__(self, folder: Path, variables: Mapping[str, str], more: Mapping[str, str]) -> None:
        self.marker = token_hex(8)
        self._api_port, self._health_port = free_port(), free_port()
        super().__init__(f"http://{LOOPBACK}:{self._api_port}")
        self._folder, self._more, self._variables = folder, more, variables
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._ending = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as failed:
            failed.push(self.__exit__)
            self._make_folders()
            self._watch()
            database = self._ending.enter_context(PostgresServer())
            broker = self._ending.enter_context(RedisServer(self._folder / "redis"))
            services = interpolate(read()["services"], self._variables)
            _as_the_image_does(database, services["postgres"]["environment"])
            with closing(redis.Redis(port=broker.port)) as client:
                client.config_set("requirepass", services["redis"]["environment"]["REDISCLI_AUTH"])
            addresses = {
                "postgres:5432": f"{LOOPBACK}:{database.port}",
                "redis:6379": f"{LOOPBACK}:{broker.port}",
                "redis-cli ": f"redis-cli -h {LOOPBACK} -p {broker.port} ",
                "apiserver:8080": f"{LOOPBACK}:{self._api_port}",
                "localhost:8080": f"{LOOPBACK}:{self._api_port}",
                "localhost:8974": f"{LOOPBACK}:{self._health_port}",
            }
            self.services: dict[str, Any] = _addressed(services, addresses)
            self.services["postgres"]["environment"] |= {"PGHOST": LOOPBACK, "PGPORT": str(database.port)}
            failed.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 10
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))
        reaper.kill(self.marker)
        for process in self._processes.values():
            process.wait()
        self._ending.close()

    def run_to_end(self, service: str, *, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """Run a service that ends by itself; its output comes back as text."""
        return subprocess.run(
            _entrypoint(self.services[service]["command"]),
            **self._container(service, service),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, service: str, container: str | None = None) -> None:
        """Start a service, without waiting for it; under another name if there are several of it."""
        name = container or service
        with self._log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                _entrypoint(self.services[service]["command"]),
                **self._container(service, name),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_healthy(self, service: str, container: str | None = None, *, timeout: float = 300) -> None:
        """Run a service's health check until it passes."""
        name = container or service
        kind, *words = self.services[service]["healthcheck"]["test"]
        command = ["sh", "-c", *words] if kind == "CMD-SHELL" else words
        last: subprocess.CompletedProcess[str] | None = None

        def probe() -> bool | None:
            nonlocal last
            last = subprocess.run(
                command,
                **self._container(service, name),
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
            return True if last.returncode == 0 else None

        def condition() -> str:
            said = f"{last.stdout}{last.stderr}" if last else ""
            return f"{name} is not healthy: {said}\nThe end of its log:\n{self.log_tail(name)}"

        self.poll(probe, timeout=timeout, condition=condition)

    def log_in(self, username: str, password: str) -> None:
        """Ask for a token, and use it from now on."""
        user = {"username": username, "password": password}
        self.token = self.send("POST", "auth/token", json=user)["access_token"]

    def ensure_alive(self) -> None:
        """Raise if a service has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                tail = self.log_tail(name)
                message = f"{name} ended with exit code {process.returncode}. The end of its log:\n{tail}"
                raise RuntimeError(message)

    def log_tail(self, name: str) -> str:
        """Return the end of what a service has written."""
        path = self._log(name)
        return path.read_text(encoding="utf-8", errors="replace")[-3000:] if path.exists() else ""

    def _container(self, service: str, name: str) -> dict[str, Any]:
        """Give a service what a container would: a home, a host name, and an environment."""
        home = self._folder / "containers" / name
        if not home.exists():
            home.mkdir(parents=True)
            (home / "logs").symlink_to(self._folder / "logs")
            (home / "dags").symlink_to(self._folder / "dags")
        environment = {
            "PATH": f"{Path(sys.executable).parent}:{postgres_programs()}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "HOSTNAME": name,
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__HOST": LOOPBACK,
            # Containers have their ports to themselves.
            "AIRFLOW__API__PORT": str(self._api_port),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(self._health_port),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "false",
            "NO_PROXY": f"{LOOPBACK},localhost",
            "PYTHONPATH": f"{self._folder / 'site'}:{REPOSITORY}",
            "SPT_NOENV": "1",  # setproctitle would write over the environment that the reaper reads.
            reaper.MARKER: f"{self.marker}/{name}",
            **self._more,
            **self.services[service].get("environment", {}),
        }
        return {"env": environment, "cwd": home, "stdin": subprocess.DEVNULL}

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def _make_folders(self) -> None:
        for name in ("site", "logs", "redis"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "site" / "sitecustomize.py").write_text(SITE, encoding="utf-8")
        compiled = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / "dags", self._folder / "dags", ignore=compiled)
        (self._folder / "dags").chmod(0o555)

    def _watch(self) -> None:
        """Have all that was started killed, even if this process is killed itself."""
        watcher = subprocess.Popen(
            [sys.executable, "-m", "airflow_fanout.demo.reaper", self.marker, ""],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        self._ending.callback(watcher.communicate)


def _as_the_image_does(database: PostgresServer, environment: Mapping[str, str]) -> None:
    """Make what PostgreSQL's image makes in an empty volume: a database, and a role with a password."""
    role, password = environment["POSTGRES_USER"], environment["POSTGRES_PASSWORD"]
    with closing(psycopg2.connect(f"{database.url}/postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {role} SUPERUSER LOGIN PASSWORD %s", [password])
            cursor.execute(f"CREATE DATABASE {environment['POSTGRES_DB']} OWNER {role}")
            cursor.execute("SHOW hba_file")
            (path,) = cursor.fetchone() or ("",)
            rules = Path(path).read_text(encoding="utf-8")
            Path(path).write_text(f"host all {role},celery all scram-sha-256\n{rules}", encoding="utf-8")
            cursor.execute("SELECT pg_reload_conf()")


def _addressed(value: Any, addresses: Mapping[str, str]) -> Any:
    """Replace the addresses of containers by those here."""
    if isinstance(value, dict):
        return {name: _addressed(part, addresses) for name, part in value.items()}
    if isinstance(value, list):
        return [_addressed(part, addresses) for part in value]
    if isinstance(value, str):
        for name, address in addresses.items():
            value = value.replace(name, address)
    return value


def _entrypoint(command: str | list[str]) -> list[str]:
    """Return what the image's entrypoint runs: what is neither a shell nor Python is a command of Airflow."""
    words = shlex.split(command) if isinstance(command, str) else command
    return words if words[0] in {"bash", "python"} else ["airflow", *words]
