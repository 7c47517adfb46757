"""Folders in the work directory: no link leads out of them, and only those of this app are emptied.

Whoever may write into an output can put a link, a pipe or another folder under any name that the app
computes. So no folder is opened through a link, what lies in it is named from its descriptor, and nothing is
removed from it unless only this user can have made it and it holds a mark of this app.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from sicnn_app.errors import OutputError
from sicnn_app.files import read_regular

MADE_FILE = ".sicnn-app"
"""The mark of a folder that stays when no process works in it: it says the name under which it was made."""


@contextmanager
def opened(path: Path | str, *, dir_fd: int | None = None) -> Iterator[int]:
    """Context with the descriptor of a folder that is no link; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_folder(path: Path, *, dir_fd: int | None = None) -> Iterator[int]:
    """Context with the descriptor of a folder of this app; ``dir_fd`` is that of its parent, if it is open.

    Raises OutputError when it is a link or no folder, and OSError when it is absent, or not for this user.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(opened(path if dir_fd is None else path.name, dir_fd=dir_fd))
        except OSError as error:
            # Without a descriptor a folder on the way may be what is none: nothing at all is in this place.
            there = dir_fd is not None or os.path.lexists(path)
            if error.errno not in (errno.ENOTDIR, errno.ELOOP) or not there:
                raise
            raise OutputError(
                f"{path}: is a link or no folder, and sicnn-app keeps a folder of its own there: name "
                "another one with --work-dir, or have it removed"
            ) from error
        yield folder


def open_work_folder(path: Path) -> AbstractContextManager[int]:
    """Open the work directory, made when it is absent, whoever it belongs to; see :func:`open_folder`."""
    # A file in the place of a folder above it is told below, by the system's own word for that.
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True)
    with suppress(FileExistsError):
        # Sticky: where several users share it, none of them can move or remove what another one has in it.
        path.mkdir(0o777 | stat.S_ISVTX)
    return open_folder(path)


def require_folder(path: Path) -> None:
    """Refuse a work directory that is a link or no folder, not one that is absent; raises OutputError."""
    with suppress(OSError), open_folder(path):
        pass


def mark_as_made(folder: int, name: str) -> None:
    """Leave the mark of this app in a folder."""
    with suppress(FileExistsError):
        descriptor = os.open(MADE_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(_made(name))


def is_marked(folder: int, name: str) -> bool:
    """True when a folder holds the mark left in it under this name: a copy elsewhere is the user's."""
    with suppress(OSError):
        return read_regular(MADE_FILE, len(_made(name)), follow=False, dir_fd=folder) == _made(name)
    return False


def _made(name: str) -> bytes:
    return b"sicnn-app made this folder, empties and removes it: " + os.fsencode(name) + b"\n"


def empty_folder(folder: int, *, keep: Collection[str] = ()) -> None:
    """Remove everything from a folder but the names to keep; what cannot be removed stays."""
    names: list[str] = []
    with suppress(OSError):
        names = os.listdir(folder)
    for name in set(names).difference(keep):
        with suppress(OSError):
            if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
            else:
                os.unlink(name, dir_fd=folder)


def remove_if_empty(path: Path, *, dir_fd: int | None = None) -> None:
    """Remove a folder that holds nothing; anything else stays as it is."""
    with suppress(OSError):
        os.rmdir(path if dir_fd is None else path.name, dir_fd=dir_fd)
