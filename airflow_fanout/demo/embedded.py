"""An Airflow of its own, in a throwaway home."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_fanout.demo.loopback import HOST, PLUGIN
from airflow_fanout.demo.reaper import MARKER
from airflow_fanout.demo.rest import ADMIN, AirflowRest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


LOOPBACK = HOST

SIMPLE_AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"

LAUNCH = """
import gc, runpy
gc.set_threshold(50_000)
runpy.run_module("airflow", run_name="__main__", alter_sys=True)
"""
"""``python -m airflow`` with less garbage collection: 30 % of the time that its imports take."""


class EmbeddedAirflowError(Exception):
    """Raised when the Airflow can't start, or a process of it has ended by itself."""


class EmbeddedAirflow(AirflowRest):
    """
    An Airflow that lives until it is stopped, and leaves nothing even if this process is killed.

    The scheduler (``LocalExecutor``), the Dag processor and the API server run as child processes that see
    only their own configuration: every ``AIRFLOW…`` variable of this process is kept from them. Everything
    listens on loopback, answers under no other name, and lets in who has the administrator's password, which
    is made anew each time: other users of the machine don't. Schedules are switched off
    (``[scheduler] use_job_schedule``): the only runs are those that are triggered.

    Logs of the processes are ``<home>/logs/<name>.log``, of the tasks below ``<home>/logs``.

    :param dag_files: Dag files to copy to ``<home>/dags``.
    :param env: Environment variables to add or replace, ``AIRFLOW__SECTION__KEY`` among them.
    :param home: ``AIRFLOW_HOME``, which stays afterwards; None for a temporary one, which doesn't.
    :param keep: Whether the temporary home stays too.
    :param port: Port of the API server; None for a free one.
    """

    start_timeout = 120.0
    """Seconds until all has to be healthy."""

    components: tuple[str, ...] = ("metadatabase", "scheduler", "dag_processor")
    """Parts of the health check that have to be healthy."""

    def __init__(
        self,
        *,
        dag_files: Sequence[Path],
        env: Mapping[str, str],
        home: Path | None = None,
        keep: bool = False,
        port: int | None = None,
    ) -> None:
        self.port = free_port(port or 0)
        super().__init__(f"http://{LOOPBACK}:{self.port}", password=secrets.token_urlsafe(12))
        self.marker = secrets.token_hex(8)
        self._throwaway = home is None and not keep
        self.home = (home or Path(tempfile.gettempdir(), f"airflow-fanout-{self.marker}")).resolve()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._dag_files = dag_files
        self._watcher: subprocess.Popen[bytes] | None = None
        self._env = isolated_environment(os.environ, home=self.home, base_url=self.base_url, extra=env)
        self._commands = {
            "api-server": ["api-server", "--host", LOOPBACK, "--port", str(self.port)],
            # Log servers listen on a fixed port, on every address; the API server reads the files instead.
            "scheduler": ["scheduler", "--skip-serve-logs"],
            "dag-processor": ["dag-processor"],
        }

    def start(self) -> None:
        """Migrate the database, start all processes at once and wait until all are healthy."""
        try:
            self._watcher = subprocess.Popen(
                [
                    *(sys.executable, "-m", "airflow_fanout.demo.reaper"),
                    *(self.marker, str(self.home) if self._throwaway else ""),
                ],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in ("logs", "dags"):
                (self.home / name).mkdir(exist_ok=True)
            for file in self._dag_files:
                shutil.copy(file, self.home / "dags")
            self._write_own_files()
            migration = self.command("db", "migrate", timeout=self.start_timeout)
            if migration.returncode:
                msg = f"airflow db migrate ended with exit code {migration.returncode}:\n{migration.stderr}"
                raise EmbeddedAirflowError(msg)
            for name, arguments in self._commands.items():
                self.processes[name] = self._spawn(name, arguments)
            self.wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def _write_own_files(self) -> None:
        """Write the administrator's password, for nobody else to read, and the plugin that checks names."""
        passwords = passwords_file(self.home)
        passwords.touch(mode=0o600)
        passwords.chmod(0o600)
        passwords.write_text(json.dumps({ADMIN: self.password}), encoding="utf-8")
        plugins = self.home / "plugins"
        plugins.mkdir(exist_ok=True)
        (plugins / "loopback.py").write_text(PLUGIN, encoding="utf-8")

    def stop(self, *, grace: float = 3) -> None:
        """End everything; whatever is left after the grace, in seconds, is killed."""
        # In that time a scheduler reaps its workers, which would be left to init as zombies.
        deadline = time.monotonic() + grace
        try:
            for name, process in self.processes.items():
                # The API server has nothing to lose, and would take 3 s.
                process.send_signal(signal.SIGKILL if name == "api-server" else signal.SIGTERM)
            for process in self.processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, deadline - time.monotonic()))
        finally:
            if self._watcher is not None:
                self._watcher.communicate()  # Closes its pipe: it kills what is left and removes the home.
                self._watcher = None
            for process in self.processes.values():
                process.wait()
            self.processes.clear()

    def wait_until_healthy(self) -> None:
        """Wait until all is healthy, and the first task need not wait for the Task API."""
        unhealthy = list(self.components)

        def probe() -> bool | None:
            health = self.send("GET", "api/v2/monitor/health")
            states = {name: (health[name] or {}).get("status") for name in self.components}
            unhealthy[:] = [name for name in states if states[name] != "healthy"]
            # Its first request makes the Task API build its routes: 4.5 s that the first task would wait.
            return None if unhealthy else self.send("GET", "execution/health") or True

        def condition() -> str:
            tail = self.log_tail("api-server")
            return (
                f"Airflow does not become healthy: {', '.join(unhealthy)}. Its API server's log ends:\n{tail}"
            )

        self.poll(probe, timeout=self.start_timeout, condition=condition)

    def command(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run an ``airflow`` command in this Airflow's environment; it may take ``timeout`` seconds."""
        try:
            return subprocess.run(
                [sys.executable, "-c", LAUNCH, *arguments],
                cwd=self.home,
                env=self.environment("command"),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            msg = f"airflow {' '.join(arguments)} has not ended within {timeout:g} s"
            raise EmbeddedAirflowError(msg) from error

    def ensure_alive(self) -> None:
        """Raise if a process has ended that nobody stopped."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                msg = (
                    f"Airflow's {name} ended with exit code {process.returncode}. "
                    f"The end of {self.log_path(name)}:\n{self.log_tail(name)}"
                )
                raise EmbeddedAirflowError(msg)

    def log_path(self, name: str) -> Path:
        """Return the log file of a process."""
        return self.home / "logs" / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """Return the last lines that a process has written."""
        with self.log_path(name).open(encoding="utf-8", errors="replace") as log:
            return "".join(deque(log, maxlen=20)).rstrip()

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a process."""
        return {**self._env, MARKER: f"{self.marker}/{name}"}

    def _spawn(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        with self.log_path(name).open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", LAUNCH, *arguments],
                cwd=self.home,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in the terminal is for this process alone.
            )


def free_port(wanted: int = 0) -> int:
    """
    Return a port of the loopback interface on which nothing listens just now.

    :param wanted: The port to return; 0 for any.
    :raises EmbeddedAirflowError: If something listens on that.
    """
    with socket.socket() as listener:
        # As servers do: connections of the last run that linger are no obstacle.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((LOOPBACK, wanted))
        except OSError as error:
            msg = f"Port {wanted} is in use: choose another, or none for a free one"
            raise EmbeddedAirflowError(msg) from error
        port: int = listener.getsockname()[1]
        return port


def passwords_file(home: Path) -> Path:
    """Return where Airflow looks for passwords."""
    return home / "passwords.json"


def isolated_environment(
    inherited: Mapping[str, str],
    *,
    home: Path,
    base_url: str = f"http://{LOOPBACK}:1",
    extra: Mapping[str, str],
) -> dict[str, str]:
    """
    Make an environment in which nothing of another Airflow's configuration is left.

    :param inherited: The environment to start from.
    :param home: ``AIRFLOW_HOME``, with ``dags`` and a SQLite database.
    :param base_url: The API server's; by default nothing listens there.
    :param extra: Variables to add or replace.
    """
    options: dict[str, Any] = {
        "CORE__DAGS_FOLDER": home / "dags",
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
        "CORE__EXECUTION_API_SERVER_URL": f"{base_url}/execution/",
        "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "CORE__AUTH_MANAGER": SIMPLE_AUTH_MANAGER,
        "CORE__PLUGINS_FOLDER": home / "plugins",
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": False,
        "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{ADMIN}:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": passwords_file(home),
        # SQLite has one writer; its 5 s of patience are too few for dozens of tasks on two cores.
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
        "API__BASE_URL": base_url,
        "API__SECRET_KEY": secrets.token_hex(32),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "SCHEDULER__USE_JOB_SCHEDULE": False,
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.25,
        "DAG_PROCESSOR__REFRESH_INTERVAL": 2,
        "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": 2,
        "LOGGING__BASE_LOG_FOLDER": home / "logs",
        "USAGE_DATA_COLLECTION__ENABLED": False,
    }
    kept = {name: value for name, value in inherited.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    without_proxy = ",".join(
        filter(None, [kept.get("NO_PROXY"), kept.get("no_proxy"), LOOPBACK, "localhost"])
    )
    return {
        **kept,
        **{f"AIRFLOW__{name}": str(value) for name, value in options.items()},
        "AIRFLOW_HOME": str(home),
        "NO_PROXY": without_proxy,
        "no_proxy": without_proxy,
        "SPT_NOENV": "1",  # setproctitle would write over the environment that the reaper reads.
        **extra,
    }
