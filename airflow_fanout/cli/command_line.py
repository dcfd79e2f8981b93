"""What the commands that look at Dags and runs have in common; imported when one of them runs."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from sqlalchemy.exc import SQLAlchemyError

from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.metadata.runs import UnknownDagError, UnknownRunError
from airflow_fanout.reports.branches import UnknownGroupError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session


__all__ = ["CANNOT_TELL", "metadata_session", "stop", "while_read", "why_unreadable"]

CANNOT_TELL = 2
"""Exit code where there is nothing to say anything about."""


@contextmanager
def while_read() -> Iterator[None]:
    """
    End a command quietly when nobody reads its output any more, as when ``head`` has had enough.

    Also a decorator. The exit code is that of a program which the signal of a broken pipe has ended.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # What is left would be written, and fail once more, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)


@contextmanager
def metadata_session(command: str) -> Iterator[Session]:
    """
    Give a session of the metadata database, which is committed at the end.

    What can't be found, or a database that doesn't answer, ends the command: one line on standard error, and
    exit code 2.

    :param command: Name of the command.
    """
    from airflow.utils.session import create_session

    try:
        with create_session() as session:
            yield session
    except (UnknownDagError, UnknownGroupError, UnknownRunError) as unknown:
        stop(command, str(unknown))
    except UnreadableValueError as unreadable:
        stop(command, str(unreadable))
    except SQLAlchemyError as error:
        stop(command, why_unreadable(error))


def why_unreadable(error: SQLAlchemyError) -> str:
    """Say in one line that the metadata database can't be read, and why."""
    reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    return (
        f"the metadata database can't be read: {reason}. Is it there (airflow db check), and up to date "
        "(airflow db migrate)?"
    )


def stop(command: str, problem: str, code: int = CANNOT_TELL) -> NoReturn:
    """
    End a command with one line on standard error.

    :param command: Name of the command.
    :param problem: The line.
    :param code: Exit code.
    """
    print(f"airflow fanout {command}: {problem}", file=sys.stderr)
    sys.exit(code)
