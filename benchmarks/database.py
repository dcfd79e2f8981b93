"""The metadata database of a measured Airflow: PostgreSQL if a server is named, or else SQLite."""

from __future__ import annotations

import os
import secrets
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SERVER", "kind_of_database", "metadata_database", "temporary_database"]

SERVER = "FANOUT_E2E_POSTGRES"
"""Environment variable with a server on which databases may be made: ``postgresql://user@host:port``."""


def kind_of_database() -> str:
    """Name what Airflow keeps its state in."""
    return "PostgreSQL" if SERVER in os.environ else "SQLite"


@contextmanager
def metadata_database() -> Iterator[str | None]:
    """Make a database, yield its SQLAlchemy URL and drop it; None stands for SQLite in Airflow's home."""
    server = os.environ.get(SERVER)
    if server is None:
        yield None
        return
    with temporary_database(server) as url:
        yield url


@contextmanager
def temporary_database(server: str) -> Iterator[str]:
    """
    Make a database, yield its SQLAlchemy URL and drop it.

    :param server: URL without a database: ``postgresql://user@host:port``.
    """
    import psycopg2

    name = f"airflow_fanout_{secrets.token_hex(6)}"
    with closing(psycopg2.connect(f"{server}/postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            try:
                yield f"postgresql+psycopg2{server.removeprefix('postgresql')}/{name}"
            finally:
                cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
