"""What an embedded Airflow is told: the environment variables of its processes, made before they start."""

from __future__ import annotations

import base64
import secrets
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["LOOPBACK", "isolated_environment"]

LOOPBACK = "127.0.0.1"
SIMPLE_AUTH_MANAGER = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"


def isolated_environment(
    inherited: Mapping[str, str],
    *,
    home: Path,
    dags_folder: Path,
    base_url: str,
    database_url: str,
    extra: Mapping[str, str],
) -> dict[str, str]:
    """
    Make an environment in which nothing of another Airflow's configuration is left.

    :param inherited: The environment to start from; what is Airflow's in it is dropped.
    :param home: ``AIRFLOW_HOME``.
    :param dags_folder: Folder with the Dag files.
    :param base_url: Where the API server answers.
    :param database_url: SQLAlchemy URL of the metadata database.
    :param extra: What to add or replace.
    """
    options: dict[str, Any] = {
        "CORE__DAGS_FOLDER": dags_folder,
        "CORE__EXECUTOR": "LocalExecutor",
        "CORE__LOAD_EXAMPLES": False,
        "CORE__DAGS_ARE_PAUSED_AT_CREATION": False,
        "CORE__EXECUTION_API_SERVER_URL": f"{base_url}/execution/",
        "CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "CORE__AUTH_MANAGER": SIMPLE_AUTH_MANAGER,
        "CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": True,
        "DATABASE__SQL_ALCHEMY_CONN": database_url,
        "API__BASE_URL": base_url,
        "API__SECRET_KEY": secrets.token_hex(32),
        "API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "SCHEDULER__USE_JOB_SCHEDULE": False,
        "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.5,
        "DAG_PROCESSOR__REFRESH_INTERVAL": 2,
        "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": 2,
        "LOGGING__BASE_LOG_FOLDER": home / "logs",
        "USAGE_DATA_COLLECTION__ENABLED": False,
    }
    kept = {name: value for name, value in inherited.items() if not name.startswith(("AIRFLOW", "_AIRFLOW"))}
    direct = ",".join(filter(None, [kept.get("NO_PROXY"), kept.get("no_proxy"), LOOPBACK, "localhost"]))
    return {
        **kept,
        **{f"AIRFLOW__{name}": str(value) for name, value in options.items()},
        "AIRFLOW_HOME": str(home),
        "NO_PROXY": direct,
        "no_proxy": direct,
        "SPT_NOENV": "1",  # setproctitle would write over the environment that the reaper reads.
        **extra,
    }
