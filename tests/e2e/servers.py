"""A Redis and a PostgreSQL that a test starts, stops and kills as it likes, on loopback."""

from __future__ import annotations

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

from airflow_fanout.demo.embedded import free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["PostgresServer", "RedisServer", "missing_servers"]

UNPRIVILEGED = ("postgres", "nobody")
"""Whom PostgreSQL runs as where the tests run as root, as which it refuses to."""


def missing_servers() -> list[str]:
    """Names of the programs that these need and that are not installed."""
    return [name for name in ("redis-server", "initdb", "postgres") if _program(name) is None]


def _program(name: str) -> str | None:
    folders = [os.environ.get("PATH", ""), *map(str, Path("/usr/lib/postgresql").glob("*/bin"))]
    return shutil.which(name, path=os.pathsep.join(folders))


class _Server:
    """A process that listens on a port; the same port again after every start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *ended: object) -> None:
        self.stop(signal.SIGKILL)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        raise NotImplementedError

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, and wait until it has ended."""
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(30)
            self.process = None

    def restart(self, sig: signal.Signals = signal.SIGTERM) -> None:
        """Stop it and start it again."""
        self.stop(sig)
        self.start()

    def _run(self, command: list[str], **settings: Any) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **settings
            )

    def _wait(self, answers: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not answers():
            if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "server.log").read_text(errors="replace")
                message = f"{type(self).__name__} did not start:\n{log[-2000:]}"
                raise RuntimeError(message)
            time.sleep(0.05)


class RedisServer(_Server):
    """
    A Redis server.

    :param folder: Where its log and its data are.
    :param keeps: Whether it writes every change to disk, and so has all of them after a restart.
    """

    def __init__(self, folder: Path, *, keeps: bool = False) -> None:
        super().__init__(folder)
        self._keeps = keeps

    @property
    def url(self) -> str:
        """Where it answers, as a Celery broker."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run(
            [
                str(_program("redis-server")),
                *("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder), "--save", ""),
                *("--appendonly", "yes" if self._keeps else "no", "--appendfsync", "always"),
            ]
        )
        self._wait(self._answers)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(7) == b"+PONG\r\n"
        return False


class PostgresServer(_Server):
    """
    A PostgreSQL cluster with one superuser, ``postgres``, whom it trusts.

    Its data lie in a folder of its own: where the tests run as root, PostgreSQL doesn't, and each start of
    pytest takes the right to enter pytest's temporary folders from everybody else.

    :param folder: Where its log is.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._user = _unprivileged_user()
        self._home = tempfile.TemporaryDirectory(prefix="airflow-fanout-postgres-")
        self._data = Path(self._home.name, "data")
        if self._user is not None:
            shutil.chown(self._home.name, self._user.pw_name)
        subprocess.run(
            [
                str(_program("initdb")),
                *("--pgdata", str(self._data), "--username", "postgres", "--auth", "trust"),
                *("--no-sync", "--encoding", "UTF8", "--locale", "C"),
            ],
            check=True,
            capture_output=True,
            cwd=self._home.name,
            **self._as_user(),
        )

    def __exit__(self, *ended: object) -> None:
        super().__exit__(*ended)
        self._home.cleanup()

    @property
    def url(self) -> str:
        """Where it answers: ``postgresql://user@host:port``."""
        return f"postgresql://postgres@127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._run(
            [
                str(_program("postgres")),
                *("-D", str(self._data), "-p", str(self.port), "-h", "127.0.0.1", "-k", self._home.name),
                *("-c", "fsync=off", "-c", "max_connections=200"),
            ],
            cwd=self._home.name,
            **self._as_user(),
        )
        self._wait(self._answers)

    def stop(self, sig: signal.Signals = signal.SIGINT) -> None:
        """Stop it; by default without waiting for its clients ("fast shutdown")."""
        # Killed, it would leave its children to shut down by themselves, and their memory segment behind.
        super().stop(signal.SIGQUIT if sig is signal.SIGKILL else sig)

    def cut_connections(self) -> int:
        """End all connections but its own, as a failing network would; return how many there were."""
        with closing(psycopg2.connect(f"{self.url}/postgres")) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
            (count,) = cursor.fetchone() or (0,)
            return int(count)

    def create_database(self, name: str) -> str:
        """Make a database; return its SQLAlchemy URL."""
        with closing(psycopg2.connect(f"{self.url}/postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg2{self.url.removeprefix('postgresql')}/{name}"

    def _answers(self) -> bool:
        try:
            psycopg2.connect(f"{self.url}/postgres", connect_timeout=1).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def _unprivileged_user() -> pwd.struct_passwd | None:
    """Whom to run PostgreSQL as; None for whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in UNPRIVILEGED:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    message = f"PostgreSQL does not run as root, and there is none of the users {', '.join(UNPRIVILEGED)}"
    raise RuntimeError(message)
