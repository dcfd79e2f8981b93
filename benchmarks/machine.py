"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

from benchmarks.database import kind_of_database

__all__ = ["machine_facts"]


def machine_facts() -> dict[str, str | int]:
    """Return what someone needs to compare the figures with others."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return {
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 0,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "airflow": version("apache-airflow-core"),
        "task_sdk": version("apache-airflow-task-sdk"),
        "database": kind_of_database(),
        "airflow_fanout": version("airflow-fanout"),
    }
