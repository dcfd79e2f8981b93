"""
Values by fingerprint, in a folder that several runs read and write at once.

Parts (``part-….jsonl``) are written once and never changed; ``current.json`` names those that count. It is
swapped whole: renamed on a file system, one put on an object store. Whoever loses a race about it loses
entries, which costs a later run their work. A part that no longer counts is kept for a week, because a run
that has found values in it may not have read them yet.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
import uuid
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from airflow_fanout.exceptions import ReuseStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from airflow.sdk import ObjectStoragePath

POINTER = "current.json"
OURS = ("part-", "plan-", f".{POINTER}-")
"""What the names of all other files of a store begin with."""

MOST_PARTS = 16
"""Parts that count, at most: more are put into one."""

KEPT_SECONDS = timedelta(days=7).total_seconds()
"""For how long a part that no longer counts, and a plan, are kept."""

SWAPS = 5
"""How often to try to name a part beside those that others name at the same time."""

ROWS = 10_000
INDEX_KILOBYTES = 128 * 1024
"""Memory that an index may take, enough for those of two million values; of more some lie on the disk."""

GAP = 256 * 1024
"""Bytes that are read in vain rather than asked for separately."""

DIGITS = 32
"""Length of a fingerprint."""

FINGERPRINT, AFTER, TIME = slice(2, 2 + DIGITS), slice(2 + DIGITS, 4 + DIGITS), slice(4 + DIGITS, 14 + DIGITS)
"""Where they are in a line, ``["<fingerprint>",<seconds, 10 digits>,<value>]``."""


class Part(NamedTuple):
    """A part that counts; ``digest`` is the SHA-256 of its bytes."""

    name: str
    size: int
    digest: str


class Pointer(NamedTuple):
    """Which parts count, the oldest first; and since when others no longer do, by name."""

    parts: tuple[Part, ...] = ()
    retired: tuple[tuple[str, float], ...] = ()


class Place(NamedTuple):
    """Where a value lies: number of the part, first byte of its line, and the one after it."""

    part: int
    start: int
    stop: int


class Index:
    """
    Where the value of each fingerprint lies, in a temporary database; of two the newer holds.

    :param parts: The parts that places are in.
    """

    def __init__(self, connection: sqlite3.Connection, parts: Sequence[Part]) -> None:
        self._connection, self.parts = connection, parts

    def find(self, fingerprints: Iterable[str]) -> dict[str, Place]:
        """Find the places of values, as far as there are any; one look for up to some hundreds."""
        wanted = [fingerprint.encode() for fingerprint in fingerprints]
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT fingerprint, part, start, stop FROM entries WHERE fingerprint IN ({marks})"  # noqa: S608
        rows = self._connection.execute(query, wanted)
        return {fingerprint.decode(): Place(*place) for fingerprint, *place in rows}

    def places(self) -> Iterator[Place]:
        """All places, in the order of the parts."""
        query = "SELECT part, start, stop FROM entries ORDER BY part, start"
        return map(Place._make, self._connection.execute(query))


class ReuseStore:
    """
    The values in one folder.

    Errors of the storage are its own; what is there and can't be used is a ``ReuseStoreError``.

    :param now: Tells the time, in seconds since 1970.
    """

    def __init__(self, root: ObjectStoragePath, *, now: Callable[[], float] = time.time) -> None:
        self.root, self._now = root, now

    @contextmanager
    def index(self, expire_after: timedelta | None = None) -> Iterator[Index]:
        """
        Read which values there are, and check every part.

        :param expire_after: Age from which on they don't count.
        """
        parts = self._read_pointer()[0].parts
        connection = sqlite3.connect("", isolation_level=None)  # on disk as far as memory doesn't do
        try:
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute(f"PRAGMA cache_size = -{INDEX_KILOBYTES}")
            columns = "fingerprint BLOB PRIMARY KEY, part INT, start INT, stop INT"
            connection.execute(f"CREATE TABLE entries ({columns}) WITHOUT ROWID")
            oldest = 0.0 if expire_after is None else self._now() - expire_after.total_seconds()
            for number, part in enumerate(parts):
                _fill(connection, number, self._lines(part, oldest))
            yield Index(connection, parts)
        finally:
            connection.close()

    def add(
        self,
        entries: Iterable[tuple[str, Any]],
        *,
        expire_after: timedelta | None = None,
        mends: bool = False,
    ) -> int:
        """
        Add values by fingerprint, in place of older ones; return how many.

        :param entries: Fingerprints, and values of JSON.
        :param expire_after: Age at which those in merged parts are left out.
        :param mends: Whether to leave out what is damaged instead of raising an error.
        """
        seconds = f"{int(self._now()):010d}"
        count = 0

        def lines() -> Iterator[bytes]:
            nonlocal count
            for fingerprint, value in entries:
                count += 1
                yield f'["{fingerprint}",{seconds},{json.dumps(value)}]\n'.encode()

        written = lines()
        if not (first := list(islice(written, 1))):
            return 0
        part = self._write_part(chain(first, written))
        before = self._sound_pointer() if mends else None
        self._swap(lambda pointer: pointer._replace(parts=(*pointer.parts, part)), before=before)
        if len(self._read_pointer()[0].parts) > MOST_PARTS:
            self._merge(expire_after)
        return count

    def read(self, part: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """
        Read ranges of bytes of a part; those that lie near each other are read together.

        :raises FileNotFoundError: If the part is gone.
        """
        path = self.root / part
        order = sorted(range(len(ranges)), key=lambda index: ranges[index])
        spans: list[tuple[int, int, list[int]]] = []
        for index in order:
            start, stop = ranges[index]
            if spans and start - spans[-1][1] <= GAP:
                first, last, members = spans.pop()
            else:
                first, last, members = start, stop, []
            members.append(index)
            spans.append((first, max(last, stop), members))
        starts, stops = [span[0] for span in spans], [span[1] for span in spans]
        bodies = path.fs.cat_ranges([path.path] * len(spans), starts, stops)
        found = [b""] * len(ranges)
        for (first, _, members), body in zip(spans, bodies, strict=True):
            if isinstance(body, FileNotFoundError):
                raise FileNotFoundError(str(path))
            if isinstance(body, BaseException):
                raise body
            for index in members:
                start, stop = ranges[index]
                found[index] = body[start - first : stop - first]
        return found

    def has(self, part: str, size: int) -> bool:
        """Whether a part is there with all of its bytes."""
        path = self.root / part
        try:
            return int(path.fs.info(path.path)["size"]) >= size
        except FileNotFoundError:
            return False

    def values_in(self, part: str, body: bytes, count: int) -> list[Any]:
        """Values of so many lines, which are a range of a part."""
        try:
            values = [json.loads(line)[2] for line in body.splitlines()]
        except (ValueError, LookupError, TypeError) as cause:
            raise self._damaged(part, "a line in it is no value") from cause
        if len(values) != count:
            raise self._damaged(part, f"{len(values):,} lines are where {count:,} were")
        return values

    def write_plan(self, lines: Iterable[str]) -> str:
        """Write what a run reuses; return the file's name."""
        name = f"plan-{uuid.uuid4().hex}.jsonl"
        self.root.mkdir(parents=True, exist_ok=True)
        with _open(self.root / name, "wb") as file:
            for line in lines:
                file.write(f"{line}\n".encode())
        return name

    def plan_lines(self, name: str) -> Iterator[Any]:
        """Yield what was written as a plan, line by line; ``ReuseStoreError`` if it isn't whole."""
        line: Any = None
        try:
            with _open(self.root / name, "rb") as file:
                for text in file:
                    line = json.loads(text)
                    yield line
        except ValueError as cause:
            raise self._plan_lost(name, "can't be read") from cause
        except FileNotFoundError:
            raise self._plan_lost(name, "is gone") from None
        if not isinstance(line, dict) or "total" not in line:
            raise self._plan_lost(name, "is not whole")

    def _plan_lost(self, name: str, what: str) -> ReuseStoreError:
        message = f"{self.root / name}, what the run was to reuse, {what}; clear the group's split"
        return ReuseStoreError(message, path=str(self.root / name))

    def _damaged(self, name: str, what: str) -> ReuseStoreError:
        path = self.root / name
        message = (
            f"{path} is damaged: {what}. Delete {self.root / POINTER} to begin anew, or run all items once "
            "more without what is stored: airflow fanout rerun --no-reuse"
        )
        return ReuseStoreError(message, path=str(path))

    def _lines(self, part: Part, oldest: float) -> Iterator[tuple[bytes, int, int]]:
        """Fingerprint, start and stop of the lines of a part that are not too old; checks all of it."""
        digest, start = hashlib.sha256(), 0
        try:
            with _open(self.root / part.name, "rb") as file:
                for line in file:
                    digest.update(line)
                    stop = start + len(line)
                    if line[:2] != b'["' or line[AFTER] != b'",':
                        raise self._damaged(part.name, f"no entry at byte {start:,}")
                    if int(line[TIME]) >= oldest:
                        yield line[FINGERPRINT], start, stop
                    start = stop
        except FileNotFoundError:
            raise self._damaged(part.name, f"{POINTER} names it, and it is gone") from None
        except ValueError as cause:
            raise self._damaged(part.name, f"no time at byte {start:,}") from cause
        if (start, digest.hexdigest()) != (part.size, part.digest):
            raise self._damaged(part.name, "it is not what was written")

    def _write_part(self, lines: Iterable[bytes]) -> Part:
        name = f"part-{uuid.uuid4().hex}.jsonl"
        digest, size = hashlib.sha256(), 0
        self.root.mkdir(parents=True, exist_ok=True)
        with _open(self.root / name, "wb") as file:
            for line in lines:
                digest.update(line)
                size += len(line)
                file.write(line)
        return Part(name=name, size=size, digest=digest.hexdigest())

    def _merge(self, expire_after: timedelta | None) -> None:
        with self.index(expire_after) as index:
            merged = self._write_part(self._copied(index))
            old = {part.name for part in index.parts}
        now = self._now()

        def replace(pointer: Pointer) -> Pointer:
            others = [part for part in pointer.parts if part.name not in old]
            retired = [*pointer.retired, *((part.name, now) for part in pointer.parts if part.name in old)]
            return Pointer(parts=(merged, *others), retired=tuple(retired))

        self._swap(replace)

    def _copied(self, index: Index) -> Iterator[bytes]:
        places = index.places()
        while page := list(islice(places, ROWS)):
            for number in dict.fromkeys(place.part for place in page):
                ranges = [(place.start, place.stop) for place in page if place.part == number]
                yield from self.read(index.parts[number].name, ranges)

    def tidy(self) -> None:
        """Delete parts that have not counted for a week, what killed runs left, and plans of that age."""
        pointer, before = self._read_pointer()[0], self._now() - KEPT_SECONDS
        counting, retired = {part.name for part in pointer.parts}, dict(pointer.retired)
        deleted = set()
        for path in self.root.iterdir():
            is_ours = path.name.startswith(OURS) and path.name not in counting
            since = retired.get(path.name)
            if is_ours and (self._modified(path) if since is None else since) < before:
                with suppress(FileNotFoundError):  # by another run
                    path.unlink()
                deleted.add(path.name)
        if deleted:
            self._swap(
                lambda current: current._replace(
                    retired=tuple(r for r in current.retired if r[0] not in deleted)
                )
            )

    def _modified(self, path: ObjectStoragePath) -> float:
        try:
            return float(path.fs.modified(path.path).timestamp())
        except (FileNotFoundError, NotImplementedError):  # what a file system doesn't tell stays
            return self._now()

    def _sound_pointer(self) -> Pointer:
        """Read what there is without what is damaged."""
        try:
            pointer = self._read_pointer()[0]
        except ReuseStoreError:
            return Pointer()
        parts = []
        for part in pointer.parts:
            with suppress(ReuseStoreError):
                for _ in self._lines(part, 0.0):
                    pass
                parts.append(part)
        return pointer._replace(parts=tuple(parts))

    def _read_pointer(self) -> tuple[Pointer, bytes | None]:
        """Read which parts count, and the bytes that say so; None if nothing was ever stored."""
        try:
            with _open(self.root / POINTER, "rb") as file:
                text = file.read()
        except FileNotFoundError:
            return Pointer(), None
        try:
            stored = json.loads(text)
            parts = tuple(Part(str(name), int(size), str(digest)) for name, size, digest in stored["parts"])
            retired = tuple((str(name), float(since)) for name, since in stored["retired"].items())
        except (ValueError, LookupError, TypeError, AttributeError) as cause:
            raise self._damaged(POINTER, "it doesn't say which parts there are") from cause
        return Pointer(parts=parts, retired=retired), text

    def _swap(self, change: Callable[[Pointer], Pointer], *, before: Pointer | None = None) -> None:
        """
        Have other parts count.

        :param before: What to change in place of what is there now.
        """
        for _ in range(SWAPS):
            pointer, text = (before, None) if before is not None else self._read_pointer()
            new = change(pointer)
            parts = [[*part] for part in new.parts]
            written = json.dumps({"parts": parts, "retired": dict(new.retired)}, indent=1).encode()
            if before is None and self._read_pointer()[1] != text:
                continue
            self._put_pointer(written)
            if self._read_pointer()[1] == written:
                return
            before = None

    def _put_pointer(self, text: bytes) -> None:
        if self.root.protocol not in {"", "file"}:
            (self.root / POINTER).write_bytes(text)
            return
        folder = Path(self.root.path)
        temporary = folder / f".{POINTER}-{uuid.uuid4().hex}"
        with temporary.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / POINTER)


def _open(path: Any, mode: str) -> BinaryIO:
    file: BinaryIO = path.open(mode)
    return file


def _fill(connection: sqlite3.Connection, number: int, lines: Iterator[tuple[bytes, int, int]]) -> None:
    connection.execute("BEGIN")
    while rows := [(fingerprint, number, start, stop) for fingerprint, start, stop in islice(lines, ROWS)]:
        connection.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?)", rows)
    connection.execute("COMMIT")
