"""Reads what holds tasks back outside of their Dag: configuration, pools, executors; for CLI and UI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.configuration import conf
from airflow.models.pool import Pool
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_fanout.reports.group_capacity import CELERY, Executor, Surroundings, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


__all__ = ["read_pools", "read_surroundings"]

CELERY_PATIENCE = 1.0
"""Seconds that Celery workers have to answer."""


def read_pools() -> dict[str, int]:
    """Return the slots of every pool by its name; -1 for unlimited."""
    with create_session() as session:
        return {str(name): slots for name, slots in session.execute(select(Pool.pool, Pool.slots))}


def read_surroundings(pools: Mapping[str, int] | None = None) -> Surroundings:
    """
    Read what is outside of Dags from the metadata database and the configuration, and ask Celery's workers.

    :param pools: Slots of the pools by name, if they have been read; -1 for unlimited.
    :raises SQLAlchemyError: If the database can't be read.
    """
    executors = tuple(_executors())
    is_celery = any(executor.name == CELERY for executor in executors)
    return Surroundings(
        parallelism=conf.getint("core", "parallelism"),
        schedulers=max(1, _schedulers()),
        pools=read_pools() if pools is None else pools,
        executors=executors,
        workers=_celery_workers() if is_celery else None,
        worker_concurrency=conf.getint("celery", "worker_concurrency", fallback=16),
        max_map_length=conf.getint("core", "max_map_length"),
    )


def _schedulers() -> int:
    from airflow.jobs.job import Job

    with create_session() as session:
        jobs = session.scalars(select(Job).where(Job.job_type == "SchedulerJob", Job.state == "running"))
        return sum(job.is_alive() for job in jobs)


def _executors() -> Iterable[Executor]:
    from airflow.executors.executor_loader import ExecutorLoader

    for each in ExecutorLoader.get_executor_names(validate_teams=False):
        aliases = {each.module_path, *([each.alias] if each.alias else [])}
        yield Executor(name=each.module_path.rpartition(".")[2], aliases=frozenset(aliases))


def _celery_workers() -> tuple[Worker, ...] | None:
    """Ask the workers how much they run at once; None if none answers."""
    from airflow.providers.celery.executors.celery_executor import app
    from kombu.exceptions import OperationalError

    inspect = app.control.inspect(timeout=CELERY_PATIENCE)
    try:
        stats = inspect.stats()
        queues = stats and inspect.active_queues()
    except (OperationalError, OSError):  # no broker
        return None
    if not stats or not queues:
        return None
    return tuple(
        Worker(
            concurrency=stats[name]["pool"]["max-concurrency"],
            queues=frozenset(queue["name"] for queue in queues[name]),
        )
        for name in sorted(stats.keys() & queues.keys())
    )
