"""Objects in storage, by ``ObjectStoragePath``: found, pinned, opened."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_fanout.exceptions import ItemsError, MissingExtraError, StorageError, StoredItemsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import BinaryIO

    from fsspec import AbstractFileSystem


COMPRESSIONS = {
    ".bz2": "bz2",
    ".gz": "gzip",
    ".lzma": "lzma",
    ".xz": "xz",
    ".zip": "zip",
    ".zst": "zstd",
}
"""How a file is compressed, by the end of its name."""

MAGIC = re.compile(r"[*?\[]")
"""What makes a path a pattern."""

BLOCK_SIZE = 4 * 2**20
"""Bytes that are read ahead of an object on a server."""

REQUESTS_AT_ONCE = 64


class StoredObject(NamedTuple):
    """
    An object as it was found.

    :param path: Its path, as ``ObjectStoragePath`` takes it.
    :param version: Its ETag, or its size and time of change.
    :param name: Its path below the fixed part of the pattern by which it was found.
    """

    path: str
    version: str
    size: int
    name: str

    @property
    def compression(self) -> str | None:
        """How it is compressed, by its name."""
        return compression_of(self.path)


def compression_of(path: str) -> str | None:
    """How a file is compressed, by its name."""
    return next((kind for ending, kind in COMPRESSIONS.items() if path.endswith(ending)), None)


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """Name the path in whatever the storage says."""
    try:
        yield
    except (ItemsError, MissingExtraError, StorageError):
        raise
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] == "pyarrow":
            extra = "storage"
            raise MissingExtraError(extra, module="pyarrow") from error
        way_out = "install the storage's Airflow provider, such as apache-airflow-providers-amazon[s3fs]"
        raise StorageError(path, f"{error}; {way_out}") from error
    except Exception as error:  # each storage has errors of its own
        raise StorageError(path, f"{type(error).__name__}: {error}") from error


def located(path: str) -> tuple[AbstractFileSystem, str, str]:
    """Return a path's file system, its key there, and what makes a path of such a key again."""
    from airflow.sdk import ObjectStoragePath

    place: Any = ObjectStoragePath(path)
    conn = f"{place.conn_id}@" if place.conn_id else ""
    key: str = place.path
    is_whole = not place.protocol or key.startswith(f"{place.protocol}:")
    return place.fs, key, "" if is_whole else f"{place.protocol}://{conn}"


def version_of(info: Mapping[str, Any]) -> str:
    """Tell one state of an object from the next: by its ETag, or by its size and time of change."""
    tag = info.get("ETag") or info.get("etag")
    if tag:
        return str(tag).strip('"')
    times = (info.get(name) for name in ("mtime", "LastModified", "last_modified", "updated", "created"))
    return f"{info.get('size')} bytes, {next((time for time in times if time is not None), None)}"


def find_objects(path: str) -> list[StoredObject]:
    """
    Find the objects of a path, or of a pattern, in order of path.

    :raises StorageError: If the storage refuses, or a path that is no pattern doesn't exist.
    """
    with storage_errors(path):
        files, key, prefix = located(path)
        files.invalidate_cache()
        if magic := MAGIC.search(key):
            fixed = key[: key.rfind("/", 0, magic.start()) + 1]
            infos = files.glob(key, detail=True)
            found = {name: info for name, info in infos.items() if info["type"] == "file"}
            if not found and prefix and not key.startswith("/"):
                files.info(key.partition("/")[0])  # a bucket that isn't there, which has no objects either
        else:
            fixed = key[: key.rfind("/") + 1]
            info = files.info(key)
            if info["type"] == "directory":
                raise StorageError(
                    path, "it is a folder; name the objects in it, with …/*, or …/**/* for all below"
                )
            found = {key: info}
    fixed = fixed.removeprefix("/") if not key.startswith("/") else fixed
    return [
        StoredObject(
            path=f"{prefix}{name}",
            version=version_of(info),
            size=info["size"],
            name=_below(name, fixed),
        )
        for name, info in sorted(found.items())
    ]


def _below(name: str, fixed: str) -> str:
    """Return the part of a key that is below a folder; the folder may be relative, and the key isn't."""
    start = name.find(fixed)
    return name[start + len(fixed) :] if start >= 0 else name


def check_version(path: str, version: str) -> None:
    """Check that an object is as it was when it was planned; ``StoredItemsError`` if it isn't."""
    ((_, error),) = check_versions([(path, version)])
    if error is not None:
        raise error


def check_versions(objects: Sequence[tuple[str, str]]) -> list[tuple[str, StoredItemsError | None]]:
    """
    Check objects of one storage by path and version, several at once where the storage can.

    :raises StorageError: If the storage refuses.
    """
    if not objects:
        return []
    with storage_errors(objects[0][0]):
        files, *_ = located(objects[0][0])
        files.invalidate_cache()
    infos = _infos(files, [path for path, _ in objects])
    return [
        (path, _change(path, version, info)) for (path, version), info in zip(objects, infos, strict=True)
    ]


def _change(path: str, version: str, info: Mapping[str, Any] | None) -> StoredItemsError | None:
    if info is None:
        return StoredItemsError(path, "it has vanished since split planned it")
    if (now := version_of(info)) == version:
        return None
    return StoredItemsError(path, f"it has changed since split planned it: it was {version}, and is {now}")


def _infos(files: AbstractFileSystem, paths: Sequence[str]) -> list[Mapping[str, Any] | None]:
    """Ask for objects, None for one that isn't there."""
    with storage_errors(paths[0]):
        keys = [located(path)[1] for path in paths]
        answers: list[Any]
        if len(keys) == 1 or not getattr(files, "async_impl", False):
            answers = [_answer(lambda key=key: files.info(key)) for key in keys]
        else:
            from fsspec.asyn import sync

            answers = sync(files.loop, _ask_all, files, keys)
    for path, answer in zip(paths, answers, strict=True):
        with storage_errors(path):
            if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                raise answer
    return [None if isinstance(answer, Exception) else answer for answer in answers]


def _answer(ask: Any) -> Any:
    try:
        return ask()
    except Exception as error:  # told apart by the caller
        return error


async def _ask_all(files: Any, keys: Sequence[str]) -> list[Any]:
    import asyncio

    slots = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def ask(key: str) -> Any:
        async with slots:
            return await files._info(key)  # noqa: SLF001  # what fsspec's own bulk calls use

    return await asyncio.gather(*map(ask, keys), return_exceptions=True)


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """Open an object for reading from its beginning, uncompressed if its name says that it is compressed."""
    with storage_errors(path):
        files, key, _ = located(path)
        with files.open(key, "rb", block_size=BLOCK_SIZE) as file:
            yield _uncompressed(path, file)


def _uncompressed(path: str, file: Any) -> Any:
    from fsspec.compression import compr

    kind = compression_of(path)
    if kind is None:
        return file
    if kind in compr:
        return compr[kind](file, mode="rb")
    import pyarrow as pa  # knows zstd, which Python does from 3.14 on

    return pa.CompressedInputStream(pa.PythonFile(file, mode="r"), kind)


def read_range(path: str, start: int, stop: int, version: str) -> bytes:
    """
    Read some bytes of an object that is to be as it was planned.

    :raises StoredItemsError: If it has changed, or vanished.
    :raises StorageError: If the storage refuses.
    """
    check_version(path, version)
    with storage_errors(path):
        files, key, _ = located(path)
        try:
            content: bytes = files.cat_file(key, start=start, end=stop)
        except FileNotFoundError:
            content = b""
    check_version(path, version)  # it may have changed meanwhile
    return content
