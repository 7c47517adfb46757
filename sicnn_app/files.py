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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

MAX_TEXT_BYTES = 16 << 20
"""A gradient table of 100,000 volumes has three megabytes; whatever is larger is something else."""

MAKING_ATTEMPTS = 100
"""How often a folder is made anew that others remove at once."""
MAX_NESTING = 64
"""Levels of a JSON text; whoever walks through it does so level by level, and Python's stack has an end."""


def open_regular(path: Path, flags: int = os.O_RDONLY, *, follow: bool = True) -> int:
    """Open a regular file without waiting for anything.

    Parameters
    ----------
    path : Path
    flags : int
        As for ``os.open``.
    follow : bool
        Whether ``path`` may be a link.

    Returns
    -------
    int
        Descriptor, which the caller closes.

    Raises
    ------
    OSError
        The file cannot be opened, is a link that must not be followed, or a folder, pipe, socket or device.
    """
    extra = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    # Looked at first: opening alone can already change a device.
    _require_regular(os.stat(path, follow_symlinks=follow), path)
    descriptor = os.open(path, flags | extra, 0o666)
    try:
        _require_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_regular(status: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "a link, which is not followed here", str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "no file but a folder, pipe or device", str(path))


def read_regular(path: Path, limit: int = MAX_TEXT_BYTES, *, follow: bool = True) -> bytes:
    """Content of a regular file of at most ``limit`` bytes.

    Raises
    ------
    OSError
        See :func:`open_regular`; also (``EFBIG``) when the file is larger.
    """
    with os.fdopen(open_regular(path, follow=follow), "rb") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"more than {limit >> 20 or 1} MB", str(path))
    return content


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file of any size, hexadecimal; raises OSError as :func:`open_regular`."""
    with os.fdopen(open_regular(path), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def folder_below(root: Path, folder: Path, *, create: bool = False) -> Iterator[int]:
    """Descriptor of a folder, for the ``dir_fd`` of functions of :mod:`os`; reached through no link.

    Parameters
    ----------
    root : Path
        Folder that the user named; it may be a link.
    folder : Path
        ``root`` or a folder below it.
    create : bool
        Make folders that are missing.

    Raises
    ------
    OSError
        A folder on the way is missing, cannot be made, or is a link or a file.
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
    # Another process may remove the folder, while it is empty, between the two calls.
    for _ in range(MAKING_ATTEMPTS if create else 0):
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=parent)
        with suppress(FileNotFoundError):
            return os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)
    return os.open(name, flags | os.O_NOFOLLOW, dir_fd=parent)


def parse_json(content: bytes | str) -> Any:
    """What a JSON text holds, in which every string can be written as UTF-8.

    Half a pair of surrogates can be written in JSON but never as UTF-8: it becomes a question mark.

    Raises
    ------
    ValueError
        It is no JSON, no UTF-8, or nested too deeply.

    Examples
    --------
    >>> parse_json('{"Name": "\\\\ud800!"}')
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
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return value
    raise ValueError("nested too deeply")
