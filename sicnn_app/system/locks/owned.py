"""Folders that a process makes for itself."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sicnn_app.files import made_again, why_not_private
from sicnn_app.system.locks.folders import empty_folder, open_folder, open_work_folder, remove_if_empty
from sicnn_app.system.locks.mark import HEARTBEAT, NEW, Mark, is_mark, look

OWNER_FILE = ".owner"
"""The mark in such a folder."""


@contextmanager
def owned_folder(parent: Path, kind: str, *, interval: float = HEARTBEAT) -> Iterator[Path]:
    """A new folder of this process below ``parent``, removed at the end with its parent when empty.

    Parameters
    ----------
    parent : Path
    kind : str
        Start of the folder's name, in small letters, before host and process number.
    interval : float
        Seconds between two signs of life.

    Raises
    ------
    OSError
        When it cannot be created.
    OutputError
        When ``parent`` is a link or no folder.
    """
    made = None
    try:
        made = made_again(lambda: _make_owned(Path(parent), kind))
        with made.mark.beating(interval):
            yield made.path
    finally:
        if made is not None:
            made.remove()
            made.close()
        remove_if_empty(Path(parent))


@dataclass
class OwnedFolder:
    """A folder of one process, open.

    Attributes
    ----------
    path : Path
    parent, inside : int
        Descriptors of the work directory and of the folder.
    mark : Mark or None
        That of this process, where it made the folder.
    """

    path: Path
    parent: int
    inside: int
    mark: Mark | None = None

    def remove(self) -> None:
        """Remove the folder, its mark last: what a kill leaves of it can still be told from a user's."""
        empty_folder(self.inside, keep=(OWNER_FILE,))
        empty_folder(self.inside)
        remove_if_empty(self.path, dir_fd=self.parent)

    def close(self) -> None:
        """Let go of the folder."""
        if self.mark is not None:
            self.mark.close()
        os.close(self.inside)
        os.close(self.parent)


def _make_owned(parent: Path, kind: str) -> OwnedFolder:
    """Make the folder; another process may remove the empty parent, or the folder before it is marked."""
    path = parent / f"{kind}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    work = open_work_folder(parent)
    with ExitStack() as undo:
        undo.callback(os.close, work)
        os.mkdir(path.name, 0o700, dir_fd=work)
        undo.callback(remove_if_empty, path, dir_fd=work)
        inside = open_folder(path, dir_fd=work)
        undo.callback(os.close, inside)
        mark = Mark(f"{OWNER_FILE}{NEW}", inside)
        undo.callback(mark.close)
        mark.rename(OWNER_FILE)
        undo.pop_all()
    return OwnedFolder(path, work, inside, mark)


def remove_owned(path: Path, work: int) -> None:
    """Remove a folder of :func:`owned_folder` whose process is no more; anything else stays.

    Parameters
    ----------
    path : Path
    work : int
        Descriptor of the work directory.
    """
    inside = open_folder(path, dir_fd=work)
    folder = OwnedFolder(path, os.dup(work), inside)
    try:
        if why_not_private(os.fstat(folder.inside), work) is None:
            with look(OWNER_FILE, folder.inside) as seen:
                if seen is not None and seen.dead and is_mark(seen.content):
                    folder.remove()
    finally:
        folder.close()
