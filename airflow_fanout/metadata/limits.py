"""Limits on tasks that are set outside of their Dag: configuration, pools, executors, workers."""

from __future__ import annotations

from airflow.configuration import conf
from airflow.models.pool import Pool
from airflow.utils.session import create_session
from sqlalchemy import select

from airflow_fanout.reports.group_capacity import CELERY, SchedulingLimits, Worker

CELERY_PATIENCE = 1.0  # seconds that Celery workers have to answer


def read_scheduling_limits() -> SchedulingLimits:
    """Read the limits from the metadata database and the configuration, and ask Celery's workers."""
    from airflow.jobs.job import Job

    with create_session() as session:
        pools = {str(name): slots for name, slots in session.execute(select(Pool.pool, Pool.slots))}
        jobs = session.scalars(select(Job).where(Job.job_type == "SchedulerJob", Job.state == "running"))
        schedulers = sum(job.is_alive() for job in jobs)
    executors = _executors()
    return SchedulingLimits(
        parallelism=conf.getint("core", "parallelism"),
        schedulers=max(1, schedulers),
        pools=pools,
        executors=executors,
        workers=_celery_workers() if CELERY in executors else None,
        worker_concurrency=conf.getint("celery", "worker_concurrency", fallback=16),
        max_map_length=conf.getint("core", "max_map_length"),
        storage_path=conf.get("fanout", "storage_path", fallback=None) or None,
    )


def _executors() -> dict[str, set[str]]:
    """Aliases and paths of the configured executors, by class; the default one first."""
    from airflow.executors.executor_loader import ExecutorLoader

    executors: dict[str, set[str]] = {}
    for name in ExecutorLoader.get_executor_names(validate_teams=False):
        aliases = executors.setdefault(name.module_path.rpartition(".")[2], set())
        aliases.update(filter(None, (name.module_path, name.alias)))
    return executors


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
    slots = {name: stats[name]["pool"]["max-concurrency"] for name in sorted(stats.keys() & queues.keys())}
    names = {worker: frozenset(queue["name"] for queue in queues[worker]) for worker in slots}
    return tuple(Worker(concurrency=slots[worker], queues=names[worker]) for worker in slots)
