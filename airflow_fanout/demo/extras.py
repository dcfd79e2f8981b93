"""Says how to install what an example Dag imports; on the worker, where the import is."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_fanout.exceptions import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a failed import in the ``with`` block into an error that names the extra, without a retry."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(extra, module=str(error.name)) from error
