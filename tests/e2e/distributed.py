"""An Airflow with Celery workers, as in production, whose every part a test can kill and start again."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from airflow_fanout.demo import reaper
from airflow_fanout.demo.embedded import EmbeddedAirflow, free_port

if TYPE_CHECKING:
    from collections.abc import Mapping

    import psutil

__all__ = ["DistributedAirflow", "hostname"]

HOSTNAME = "FANOUT_E2E_HOSTNAME"


def hostname() -> str:
    """Tell the workers of one machine apart; Airflow's ``[core] hostname_callable``."""
    return os.environ.get(HOSTNAME) or socket.gethostname()


class DistributedAirflow(EmbeddedAirflow):
    """
    An :class:`EmbeddedAirflow` with a ``CeleryExecutor``, whose workers are the processes ``worker-1``, ….

    Each worker has a host name and a log server of its own, as if on a machine of its own. Beside the queue
    that all share it has one of its own, which has its name.

    :param broker_url: URL of the Redis that the workers get their tasks from.
    :param database_url: SQLAlchemy URL of the metadata database, which keeps Celery's results too.
    :param workers: Number of workers.
    :param concurrency: Tasks that a worker runs at once.
    :param env: Environment variables to add or replace.
    :param settings: What else ``EmbeddedAirflow`` takes.
    """

    def __init__(
        self,
        *,
        broker_url: str,
        database_url: str,
        workers: int = 2,
        concurrency: int = 5,
        env: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        # What the broker holds for a worker that was killed comes back after this many seconds.
        options = {
            "CORE__EXECUTOR": "CeleryExecutor",
            "CELERY__BROKER_URL": broker_url,
            "CELERY__RESULT_BACKEND": f"db+{database_url}",
            "CELERY__WORKER_CONCURRENCY": str(concurrency),
            "CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
            "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "30",
            "CORE__HOSTNAME_CALLABLE": "tests.e2e.distributed.hostname",
        }
        super().__init__(
            database_url=database_url,
            env={**{f"AIRFLOW__{name}": value for name, value in options.items()}, **(env or {})},
            **settings,
        )
        self.workers = tuple(f"worker-{number + 1}" for number in range(workers))
        self._ports = {name: free_port() for name in self.workers}
        self._commands |= {
            # Without gossip and mingle: a worker need not wait for the others when it starts.
            name: [
                "celery",
                "worker",
                "--celery-hostname",
                f"{name}@%h",
                "--queues",
                f"default,{name}",
                "--without-gossip",
                "--without-mingle",
            ]
            for name in self.workers
        }

    def tasks_of(self, worker: str) -> list[psutil.Process]:
        """Return the living processes of a worker, tasks included."""
        return reaper.find(f"{self.marker}/{worker}")

    def wait_for_worker(self, worker: str, *, starts: int = 1, timeout: float) -> None:
        """
        Wait until a worker takes tasks.

        :param worker: Its name.
        :param starts: How often it has been started by now.
        :param timeout: Seconds that it may take.
        """
        log = self._log_path(worker)
        self.poll(
            lambda: log.read_text(encoding="utf-8", errors="replace").count(" ready.") >= starts or None,
            timeout=timeout,
            what=lambda: f"{worker} does not start: {self.log_tail(worker)}",
        )

    def _env_of(self, name: str) -> dict[str, str]:
        if name not in self.workers:
            return super()._env_of(name)
        return {
            **super()._env_of(name),
            HOSTNAME: name,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self._ports[name]),
        }
