"""What the commands that look at Dags and runs have in common."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from sqlalchemy.exc import SQLAlchemyError

from airflow_fanout.exceptions import UnreadableValueError
from airflow_fanout.metadata.dags import UnreadableDagError
from airflow_fanout.metadata.runs import NOT_FOUND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session


CANNOT_TELL = 2  # exit code where there is nothing to say anything about


@contextmanager
def while_read() -> Iterator[None]:
    """End a command as a broken pipe does, quietly, when nobody reads its output any more: ``… | head``."""
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
    """Give a session, committed at the end; stop the command if something can't be found or read."""
    from airflow.utils.session import create_session

    with stopping_with_reason(command), create_session() as session:
        yield session


@contextmanager
def stopping_with_reason(command: str) -> Iterator[None]:
    """Stop the command, with one line, if something can't be found or read."""
    try:
        yield
    except (*NOT_FOUND, UnreadableDagError, UnreadableValueError) as error:
        stop(command, str(error))
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        way_out = "Is it there (airflow db check), and up to date (airflow db migrate)?"
        stop(command, f"the metadata database can't be read: {reason}. {way_out}")


def stop(command: str, problem: str, code: int = CANNOT_TELL) -> NoReturn:
    """End a command with one line on standard error."""
    print(f"airflow fanout {command}: {problem}", file=sys.stderr)
    sys.exit(code)
