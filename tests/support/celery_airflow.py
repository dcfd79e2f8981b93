"""An Airflow with Celery workers, as in production, whose every part a test can kill and start again."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any

from airflow_fanout.demo.embedded import free_port
from tests.support.airflow import ControlledAirflow

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CeleryAirflow", "hostname"]

HOSTNAME = "FANOUT_E2E_HOSTNAME"


def hostname() -> str:
    """Tell the workers of one machine apart; Airflow's ``[core] hostname_callable``."""
    return os.environ.get(HOSTNAME) or socket.gethostname()


class CeleryAirflow(ControlledAirflow):
    """
    An Airflow with a ``CeleryExecutor``, whose workers are the processes ``worker-1``, ….

    Each worker has a host name and a log server of its own, as if on a machine of its own. Beside the queue
    that all share it has one of its own, which has its name.

    :param broker_url: URL of the Redis that the workers get their tasks from.
    :param database_url: SQLAlchemy URL of the metadata database, which keeps Celery's results too.
    :param concurrency: Tasks that a worker runs at once.
    :param settings: The other parameters of ``ControlledAirflow``.
    """

    workers = ("worker-1", "worker-2")

    def __init__(
        self,
        *,
        broker_url: str,
        database_url: str,
        env: Mapping[str, str],
        concurrency: int = 5,
        **settings: Any,
    ) -> None:
        options = {
            "CORE__EXECUTOR": "CeleryExecutor",
            "CELERY__BROKER_URL": broker_url,
            "CELERY__RESULT_BACKEND": f"db+{database_url}",
            "CELERY__WORKER_CONCURRENCY": str(concurrency),
            "CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
            # What the broker holds for a worker that was killed comes back after this many seconds.
            "CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "30",
            "CORE__HOSTNAME_CALLABLE": "tests.support.celery_airflow.hostname",
        }
        super().__init__(
            database_url=database_url,
            env={**{f"AIRFLOW__{name}": value for name, value in options.items()}, **env},
            **settings,
        )
        self._log_ports = {name: free_port() for name in self.workers}
        # Without gossip and mingle: a worker need not wait for the others when it starts.
        options_of_all = ["--without-gossip", "--without-mingle"]
        for name in self.workers:
            own_options = ["--celery-hostname", f"{name}@%h", "--queues", f"default,{name}"]
            self._commands[name] = ["celery", "worker", *own_options, *options_of_all]

    def wait_for_worker(self, worker: str, *, starts: int = 1, timeout: float) -> None:
        """Wait until a worker takes tasks; ``starts`` is how often it has been started by now."""
        log = self.log_path(worker)
        self.poll(
            lambda: log.read_text(encoding="utf-8", errors="replace").count(" ready.") >= starts or None,
            timeout=timeout,
            condition=lambda: f"{worker} does not start: {self.log_tail(worker)}",
        )

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of a process."""
        environment = super().environment(name)
        if name in self.workers:
            environment |= {
                HOSTNAME: name,
                "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(self._log_ports[name]),
            }
        return environment
