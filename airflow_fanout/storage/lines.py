"""Lines of a file, with their bytes, so that it can be cut between them."""

from __future__ import annotations

import codecs
import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

CHUNK = 2**18

_MARKS = {
    "utf-8": {codecs.BOM_UTF8: "utf-8"},
    "utf-16": {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"},
    "utf-32": {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"},
}
"""Byte-order marks, and the encodings that they stand for."""

STATEFUL = ("hz", "iso2022", "utf-7")
"""Beginnings of the names of encodings in which a character may depend on lines before it."""


def known_encoding(name: str) -> str:
    """Return Python's own name of an encoding; ``utf-8-sig`` is UTF-8; ``LookupError`` if there is none."""
    return codecs.lookup(name).name.removesuffix("-sig")


def byte_lines(read: Callable[[int], bytes], rest: bytes = b"") -> Iterator[bytes]:
    r"""Cut after ``\n`` alone, as JSON Lines are; with all its bytes."""
    while chunk := read(max(CHUNK, len(rest))):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _cut_bytes(read: Callable[[int], bytes], rest: bytes) -> Iterator[bytes]:
    r"""Cut after ``\n``, ``\r`` and ``\r\n``, as ``open(newline="")`` does."""
    while chunk := read(max(CHUNK, len(rest))):
        lines = (rest + chunk).splitlines(keepends=True)
        rest = lines.pop()  # it may go on, or have \r and wait for its \n
        yield from lines
    yield from rest.splitlines(keepends=True)


def _cut_text(read: Callable[[int], bytes], rest: bytes, encoding: str) -> Iterator[tuple[str, bytes]]:
    """Cut what has line ends of several bytes, or of others than ASCII's."""
    decoder, text, is_last = codecs.getincrementaldecoder(encoding)(), "", False
    while not is_last:
        chunk = read(max(CHUNK, len(text)))
        is_last = not chunk
        lines = list(io.StringIO(text + decoder.decode(rest + chunk, final=is_last), newline=""))
        text, rest = "" if is_last or not lines else lines.pop(), b""
        for line in lines:
            yield line, line.encode(encoding)


class TextLines:
    r"""
    Lines of a file as ``open(newline="")`` gives them, without a byte-order mark.

    Its lines have to be taken one by one: ``offset`` is where the last one has ended.

    :param encoding: As :func:`known_encoding` gives it.
    :param keeps: Whether bytes of the lines are kept, for :meth:`take`.
    """

    def __init__(self, file: BinaryIO, encoding: str, *, keeps: bool = False) -> None:
        self._file, self._keeps, self._kept = file, keeps, bytearray()
        head = file.read(4)
        native = {"utf-16": f"utf-16-{sys.byteorder[0]}e", "utf-32": f"utf-32-{sys.byteorder[0]}e"}
        mark, self.encoding = next(
            ((mark, name) for mark, name in _MARKS.get(encoding, {}).items() if head.startswith(mark)),
            (b"", native.get(encoding, encoding)),
        )
        self.offset, self._head = len(mark), head[len(mark) :]

    def __iter__(self) -> Iterator[str]:
        for line, content in self._lines():
            self.offset += len(content)
            if self._keeps:
                self._kept += content
            yield line

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        if "\r\n".encode(self.encoding) != b"\r\n":
            yield from _cut_text(self._file.read, self._head, self.encoding)
            return
        for content in _cut_bytes(self._file.read, self._head):
            yield content.decode(self.encoding), content

    def take(self) -> bytes:
        """Return the bytes of the lines since the last call."""
        content, self._kept = bytes(self._kept), bytearray()
        return content
