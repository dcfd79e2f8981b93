"""Says how to install what an example Dag imports; on the worker, where the import is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_fanout.exceptions import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """
    Turn a failed import into an error that names the extra to install, which no retry delays.

    :param extra: Name of the extra of this package, such as ``examples``.
    :raises MissingExtraError: If a module that is imported in the ``with`` block isn't installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(extra, module=str(error.name)) from error
