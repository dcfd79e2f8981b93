"""Pieces of what can't be cut where it lies, below ``[fanout] storage_path``."""

from __future__ import annotations

from functools import cached_property
from typing import Any
from urllib.parse import quote

from airflow_fanout.exceptions import ItemsError
from airflow_fanout.storage.objects import located, storage_errors, version_of


class Pieces:
    """
    Where ``split`` writes items that a batch couldn't find by itself: of compressed files and of queries.

    Each try of it has a folder of its own; what earlier tries of the same run have left is removed.

    :param task: Ids of Dag, run and task: the folder below ``[fanout] storage_path``.
    """

    def __init__(self, *task: str, try_number: int) -> None:
        self._task, self._try_number = task, try_number
        self._number = 0

    def check(self, of: str) -> None:
        """Check that there is a place for pieces, before anything is read."""
        if not _storage_path():
            message = (
                f"{of} can't be cut where it lies, so that its items are written to pieces; say where, in "
                "[fanout] storage_path (AIRFLOW__FANOUT__STORAGE_PATH), which all workers have to reach"
            )
            raise ItemsError(message)

    def write(self, content: bytes, ending: str) -> dict[str, Any]:
        """Write a piece; return its path, version and size."""
        folder = self._folder
        path = f"{folder}/piece-{self._number:06}{ending}"
        self._number += 1
        with storage_errors(path):
            files, key, _ = located(path)
            files.pipe_file(key, content)
            files.invalidate_cache()
            return {"path": path, "version": version_of(files.info(key)), "size": len(content)}

    @cached_property
    def _folder(self) -> str:
        """The folder of this try, made anew; those of earlier tries are removed."""
        folder = "/".join(
            [_storage_path().rstrip("/"), "items", *(quote(part, safe="") for part in self._task)]
        )
        with storage_errors(folder):
            files, key, _ = located(folder)
            files.invalidate_cache()
            if files.exists(key):
                files.rm(key, recursive=True)
            folder = f"{folder}/{self._try_number}"
            files.makedirs(located(folder)[1], exist_ok=True)
        return folder


def _storage_path() -> str:
    from airflow.sdk.configuration import conf

    return conf.get("fanout", "storage_path", fallback="") or ""
