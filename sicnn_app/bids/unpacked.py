"""The bytes of a file that may be compressed, a piece at a time, and the hashes of what was read."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from sicnn_app.files import open_regular

CHUNK = 1 << 14
"""Bytes read at once; deflate expands at most 1032 times, so memory stays below 17 MB."""

MAX_EXPANSION = 1032
"""Bytes that one byte of a deflate stream can become."""

GZIP_MAGIC = b"\x1f\x8b"

COMPRESSED = (".gz", ".mgz")
"""Ends of the names of files that are compressed with gzip."""

_digests: ContextVar[dict[Path, str] | None] = ContextVar("digests", default=None)


@contextmanager
def digests_of_reads() -> Iterator[dict[Path, str]]:
    """Context that gathers the SHA-256 of every input file that is read to its end in it, by its path.

    A file that was hashed at another time may have been another one then.
    """
    found: dict[Path, str] = {}
    token = _digests.set(found)
    try:
        yield found
    finally:
        _digests.reset(token)


def note_read(path: Path, digest: str) -> None:
    """Tell :func:`digests_of_reads` of a file that was read to its end."""
    if (found := _digests.get()) is not None:
        found[path] = digest


class Unpacked:
    """Content of a regular file, unpacked when its name ends as :data:`COMPRESSED`; can be gone through once.

    Going through it raises ``OSError``, ``EOFError`` or ``zlib.error`` for a file that cannot be read.

    Attributes
    ----------
    trailing : bool
        Other bytes follow the gzip stream; known at the end.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.trailing = False

    def __iter__(self) -> Iterator[bytes]:
        digest = hashlib.sha256()
        with os.fdopen(open_regular(self._path), "rb") as stream:

            def read() -> bytes:
                data = stream.read(CHUNK)
                digest.update(data)
                return data

            yield from self._members(read) if self._path.name.endswith(COMPRESSED) else iter(read, b"")
            while read():
                # What follows the gzip stream is part of the file all the same.
                pass
        note_read(self._path, digest.hexdigest())

    def _members(self, read: Callable[[], bytes]) -> Iterator[bytes]:
        data = read()
        while data.startswith(GZIP_MAGIC):
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            while not member.eof:
                if not data:
                    raise EOFError("the gzip stream ends early")
                yield member.decompress(data)
                data = member.unused_data
                if len(data) < len(GZIP_MAGIC):
                    data += read()
        # Zeros are the padding of tape blocks, which gzip itself ignores.
        self.trailing = bool(data.strip(b"\0"))

    def start(self, size: int) -> bytes:
        """The first ``size`` bytes, or all when there are fewer."""
        found = bytearray()
        for piece in self:
            found += piece
            if len(found) >= size:
                break
        return bytes(found[:size])
