"""Files and folders that anybody may have put where they lie.

A pipe in the place of a file would make a reader wait for ever, a device may never end, a link may lead
anywhere, and a small file may unfold to more than the memory holds. Every file that this process has not just
made is read through here, and every folder below one that the user named is reached through here.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from sicnn_app.errors import UsageError

MAX_TEXT_BYTES = 16 << 20
"""A gradient table of 100,000 volumes has three megabytes; whatever is larger is something else."""

MAKING_ATTEMPTS = 100
"""How often a folder is made anew that others remove at once."""

T = TypeVar("T")

MAX_NESTING = 64
"""Levels of a JSON text; whoever walks through it does so level by level, and Python's stack has an end."""


def open_regular(
    path: Path | str, flags: int = os.O_RDONLY, *, follow: bool = True, dir_fd: int | None = None
) -> int:
    """Descriptor of a regular file, opened without waiting for anything; the caller closes it.

    Parameters
    ----------
    flags, dir_fd : int
        As for ``os.open``.
    follow : bool
        ``path`` may be a link.

    Raises
    ------
    OSError
        The file cannot be opened, is a link that must not be followed, or a folder, pipe, socket or device.
    """
    extra = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    # Looked at first: opening alone can already change a device.
    _require_regular(os.stat(path, dir_fd=dir_fd, follow_symlinks=follow), path)
    descriptor = os.open(path, flags | extra, 0o666, dir_fd=dir_fd)
    try:
        _require_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(status: os.stat_result, path: Path | str) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "a link, which is not followed here", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no file but a folder, pipe or device", str(path))


def read_regular(
    path: Path | str, limit: int = MAX_TEXT_BYTES, *, follow: bool = True, dir_fd: int | None = None
) -> bytes:
    """Content of a regular file; raises OSError as :func:`open_regular`, ``EFBIG`` above ``limit`` bytes."""
    with os.fdopen(open_regular(path, follow=follow, dir_fd=dir_fd), "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"more than {limit >> 20 or 1} MB", str(path))
    return content


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file of any size, hexadecimal; raises OSError as :func:`open_regular`."""
    with os.fdopen(open_regular(path), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_file(path: Path | None) -> str | None:
    """SHA-256 of a file; None for no file or one that cannot be read, which loading will report."""
    try:
        return None if path is None else sha256_of(path)
    except OSError:
        return None


@contextmanager
def folder_below(root: Path, folder: Path, *, create: bool = False) -> Iterator[int]:
    """Descriptor of a folder, for the ``dir_fd`` of functions of :mod:`os`; reached through no link.

    ``root`` is a folder that the user named, which may be a link; ``folder`` is the same or below it. With
    ``create`` folders that are missing are made. Raises OSError where a folder on the way is missing, cannot
    be made, or is a link or a file.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    descriptor = os.open(root, flags)
    try:
        place = Path(root)
        for name in Path(folder).relative_to(root).parts:
            place /= name
            try:
                inner = _enter(name, flags, descriptor, create=create)
            except NotADirectoryError:
                what = "a link, through which nothing is written" if place.is_symlink() else "no folder"
                raise NotADirectoryError(errno.ENOTDIR, what, str(place)) from None
            os.close(descriptor)
            descriptor = inner
        yield descriptor
    finally:
        os.close(descriptor)


def _enter(name: str, flags: int, parent: int, *, create: bool) -> int:
    def enter() -> int:
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)

    return made_again(enter) if create else enter()


def made_again(make: Callable[[], T]) -> T:
    """Result of a function that makes and opens folders: anew when others removed an empty one meanwhile."""
    for _ in range(MAKING_ATTEMPTS - 1):
        with suppress(FileNotFoundError):
            return make()
    return make()


def status_of_new_file(folder: int) -> os.stat_result:
    """Answer of the file system on a private file that this process makes in a folder; it is gone again.

    Its owner is this user as the file system knows them, and its time is that of the clock that stamps files
    there.

    ``folder`` is a descriptor. Raises OSError where the folder cannot be written.
    """
    try:
        descriptor = os.open(".", getattr(os, "O_TMPFILE", 0) | os.O_RDWR, 0o600, dir_fd=folder)
    except OSError:
        # Not every file system has files without a name.
        name = f".new-{uuid.uuid4().hex}"
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        os.unlink(name, dir_fd=folder)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def why_not_private(status: os.stat_result, folder: int) -> str | None:
    """Why somebody else may have made or changed a file or folder, in words; None when nobody else can.

    File systems without owners or permissions show all files alike: there nobody can be told from another.
    ``folder`` is the descriptor of a folder on the same file system.
    """
    try:
        user = status_of_new_file(folder).st_uid
    except OSError:
        user = os.geteuid()
    if status.st_uid != user:
        return f"belongs to another user (number {status.st_uid})"
    shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    # Nothing is made beside it to compare with where there is nothing to compare.
    if shared and shared & ~_permissions_of_new(folder, status.st_mode):
        return "other users may change it"
    return None


def _permissions_of_new(folder: int, like: int) -> int:
    """Mode that the file system shows for a private file, or folder where ``like`` is the mode of one."""
    try:
        if not stat.S_ISDIR(like):
            return status_of_new_file(folder).st_mode
        name = f".new-{uuid.uuid4().hex}"
        os.mkdir(name, 0o700, dir_fd=folder)
        try:
            return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        finally:
            os.rmdir(name, dir_fd=folder)
    except OSError:
        return 0


@contextmanager
def from_here() -> Iterator[None]:
    """Context in which relative paths are made absolute; raises UsageError where they begin nowhere."""
    try:
        yield
    except FileNotFoundError:
        raise UsageError(
            "the current folder was deleted, and relative paths begin there: go to one that exists"
        ) from None


def parse_json(content: bytes | str) -> Any:
    r"""Content of a JSON text, in which every string can be written as UTF-8.

    Half a pair of surrogates can be written in JSON but never as UTF-8: it becomes a question mark.

    Raises
    ------
    ValueError
        It is no JSON, no UTF-8, or nested too deeply.

    Examples
    --------
    >>> parse_json('{"Name": "\\ud800!"}')
    {'Name': '?!'}
    """
    text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [value]
    for _ in range(MAX_NESTING):
        inner = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [child for item in inner if isinstance(item, list) for child in item]
        if not level:
            return value
    raise ValueError("nested too deeply")
