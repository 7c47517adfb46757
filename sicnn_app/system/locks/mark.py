"""Marks: files by which processes show that they live, and others judge whether they do.

Every process keeps its mark locked (flock) and touches it twice a minute. An owner is dead when its
mark is not locked and it ran on this very kernel, so that a killed job can be repeated at once; anything
else counts as alive until it gave no sign of life for ten minutes. Host names and process numbers are
for people: containers share them.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from sicnn_app.files import open_regular, parse_json, read_regular, status_of_new_file
from sicnn_app.formats import printable, shorten

HEARTBEAT = 30.0
"""Seconds between two signs of life."""

STALE = 600.0
"""Seconds without a sign of life after which a mark counts for nothing, wherever its process ran."""

NEW = "-new-"
"""Part of the name of a mark that is not in its place yet."""

_MARK_SIZE = 65536
"""More bytes than any mark has."""

_WORD_LENGTH = 64
"""Letters that a message shows of what a mark says."""

_FIELDS = {"host": str, "pid": int, "since": str, "device": int, "token": str}
"""Content of every mark."""


@cache
def _boot_id() -> str | None:
    """Identifies the running kernel, the same in all its containers; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None


class Mark:
    """A file of this process that tells others that, and since when, it is at work.

    It gets a name that does not exist, in a folder given by its descriptor.
    """

    def __init__(self, name: str, folder: int) -> None:
        self.name = name
        self.token = uuid.uuid4().hex
        self._folder = folder
        # Others may read who it is, but only this user may write it.
        self._descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
        try:
            # Without locks on the file system the signs of life have to do.
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            content = {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": datetime.now(UTC).isoformat(timespec="seconds"),
                "kernel": _boot_id(),
                "device": os.fstat(self._descriptor).st_dev,
                "token": self.token,
            }
            os.write(self._descriptor, json.dumps(content).encode())
        except BaseException:
            self.remove()
            self.close()
            raise

    def rename(self, name: str) -> None:
        """Put the file in its place in the folder, over what is there."""
        os.rename(self.name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)

    def remove(self) -> None:
        """Remove the file, if it is still under its name."""
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self._folder)

    def beat(self) -> None:
        """Give a sign of life."""
        with suppress(OSError):
            os.utime(self._descriptor)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Context in which a thread gives a sign of life every :data:`HEARTBEAT` seconds."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT):
                self.beat()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def close(self) -> None:
        """Let go of the file, which stays."""
        with suppress(OSError):
            os.close(self._descriptor)


@dataclass(frozen=True)
class Seen:
    """A mark as a look shows it.

    Attributes
    ----------
    content : dict
        What its process wrote, as far as it can be read.
    locked : bool or None
        A process has it locked; None where the file system knows no locks. When False, this process has it
        locked during the look.
    here : bool
        Its process ran on this kernel and saw the file on the same mounted device, so that locks can be
        relied on.
    silence : float
        Seconds since the last sign of life, by the clock of the file system.
    """

    content: dict
    locked: bool | None
    here: bool
    silence: float

    @property
    def dead(self) -> bool:
        """True when the process is known, or after ten silent minutes supposed, to have ended."""
        if self.locked:
            return False
        return (self.locked is False and self.here) or self.silence > STALE


@contextmanager
def look(name: str, folder: int) -> Iterator[Seen | None]:
    """Look at a mark, None when there is none; of two processes that look only one sees it unlocked.

    Raises OSError when what has its name is a link, a folder, a pipe or a device, or cannot be read.
    """
    try:
        descriptor = _open(name, folder)
    except FileNotFoundError:
        yield None
        return
    try:
        locked: bool | None = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            locked = True if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
        status = os.fstat(descriptor)
        # Of the file that is locked: another one may have its name by now.
        content = _parsed(os.pread(descriptor, _MARK_SIZE, 0))
        ran_on = content.get("kernel"), content.get("device")
        here = _boot_id() is not None and ran_on == (_boot_id(), status.st_dev)
        yield Seen(content, locked, here, _now(folder) - status.st_mtime)
    finally:
        os.close(descriptor)


def _open(name: str, folder: int) -> int:
    try:
        return open_regular(name, os.O_RDWR, follow=False, dir_fd=folder)
    except PermissionError:
        # Another user's: where locks need a writable file, the signs of life have to do.
        return open_regular(name, follow=False, dir_fd=folder)


def content_of(name: str, folder: int) -> dict:
    """Content of a mark; nothing when it is absent or cannot be read."""
    try:
        return _parsed(read_regular(name, _MARK_SIZE, follow=False, dir_fd=folder))
    except OSError:
        return {}


def is_mark(content: dict) -> bool:
    """True for the content of a mark, which nothing but this app writes."""
    return all(isinstance(content.get(name), kind) for name, kind in _FIELDS.items())


def holder_of(content: dict) -> str:
    """Who wrote a mark, in words, whatever it holds: anybody may have written it."""

    def word(name: str) -> str:
        value = content.get(name)
        return shorten(printable(value), _WORD_LENGTH) if isinstance(value, _FIELDS[name]) else "unknown"

    return ", ".join(f"{name} {word(name)}" for name in ("host", "pid", "since"))


def _parsed(text: bytes) -> dict:
    try:
        content = parse_json(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _now(folder: int) -> float:
    """Time by the clock that stamps files in ``folder``, which may be another computer's."""
    try:
        return status_of_new_file(folder).st_mtime
    except OSError:
        return time.time()
