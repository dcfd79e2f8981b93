"""``Reuse``: where the values of earlier runs are kept, and what makes them unusable."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow_fanout.exceptions import DeclarationTypeError, DeclarationValueError
from airflow_fanout.rules.wording import typed

if TYPE_CHECKING:
    from airflow.sdk import ObjectStoragePath

OWNER = "Reuse"


class Reuse:
    """
    Values of earlier runs, for a group with ``items_per_task``: an item that has one isn't run again.

    An item has one if an item with the same fingerprint has succeeded in a run whose fan-in succeeded. The
    fingerprint is made of the item (of an object in storage: of its path and version), the bound arguments as
    resolved in the run, the function's name, with ``count`` the index, and ``version``.

    :param path: Folder of the store, on any file system of ``ObjectStoragePath`` that all workers reach; one
        for each group. (templated)
    :param version: A text or a number that says which values are still right: change it with the function,
        and with whatever else it reads.
    :param expire_after: Age at which a value is made anew; None for never.
    :raises DeclarationValueError: If an argument has an unusable value; a ``ValueError``.
    :raises DeclarationTypeError: If an argument has the wrong type; a ``TypeError``.
    """

    def __init__(
        self,
        path: str | ObjectStoragePath,
        *,
        version: str | float,
        expire_after: timedelta | None = None,
    ) -> None:
        if not isinstance(path, str) and type(path).__name__ != "ObjectStoragePath":
            problem = f"expected a text or an ObjectStoragePath, found {typed(path)}"
            raise DeclarationTypeError(OWNER, "path", problem)
        if not str(path):
            raise DeclarationValueError(OWNER, "path", "expected a folder for the values, found ''")
        if isinstance(version, bool) or not isinstance(version, str | int | float):
            problem = f"expected a text or a number, found {typed(version)}"
            raise DeclarationTypeError(OWNER, "version", problem)
        if expire_after is not None and not isinstance(expire_after, timedelta):
            problem = f"expected a timedelta, found {typed(expire_after)}; write timedelta(days=…)"
            raise DeclarationTypeError(OWNER, "expire_after", problem)
        if expire_after is not None and expire_after <= timedelta():
            problem = f"expected more than 0 s, found {expire_after}; leave it out for no limit"
            raise DeclarationValueError(OWNER, "expire_after", problem)
        self.path, self.version, self.expire_after = str(path), version, expire_after

    def __repr__(self) -> str:
        """Return what it was made with."""
        expiry = "" if self.expire_after is None else f", expire_after={self.expire_after!r}"
        return f"Reuse({self.path!r}, version={self.version!r}{expiry})"
