"""Folders that a process makes for itself."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sicnn_app.files import made_again, why_not_private
from sicnn_app.system.locks.folders import empty_folder, open_folder, open_work_folder, remove_if_empty
from sicnn_app.system.locks.mark import NEW, Mark, is_mark, look

OWNER_FILE = ".owner"
"""The mark in such a folder."""


@contextmanager
def owned_folder(parent: Path, kind: str) -> Iterator[Path]:
    """A new folder of this process below ``parent``, removed at the end with its parent when empty.

    Its name begins with ``kind``, in small letters, before host and process number. Raises OSError when it
    cannot be created, and OutputError when ``parent`` is a link or no folder.
    """
    with ExitStack() as stack:
        stack.callback(remove_if_empty, Path(parent))
        path, mark, made = made_again(lambda: _make(Path(parent), kind))
        stack.enter_context(made)
        stack.enter_context(mark.beating())
        yield path


def _make(parent: Path, kind: str) -> tuple[Path, Mark, ExitStack]:
    """Make the folder; another process may remove the empty parent, or the folder before it is marked.

    Returns its path, the mark in it, and what removes it at the end.
    """
    path = parent / f"{kind}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    with ExitStack() as made:
        work = made.enter_context(open_work_folder(parent))
        os.mkdir(path.name, 0o700, dir_fd=work)
        made.callback(remove_if_empty, path, dir_fd=work)
        inside = made.enter_context(open_folder(path, dir_fd=work))
        mark = Mark(f"{OWNER_FILE}{NEW}", inside)
        made.callback(mark.close)
        mark.rename(OWNER_FILE)
        made.callback(_empty, inside)
        return path, mark, made.pop_all()


def _empty(folder: int) -> None:
    """Empty a folder, its mark last: what a kill leaves of it can still be told from a user's."""
    empty_folder(folder, keep=(OWNER_FILE,))
    empty_folder(folder)


def remove_owned(path: Path, work: int) -> None:
    """Remove a folder of :func:`owned_folder` whose process is no more; anything else stays.

    ``work`` is the descriptor of the work directory.
    """
    with open_folder(path, dir_fd=work) as inside:
        if why_not_private(os.fstat(inside), work) is not None:
            return
        with look(OWNER_FILE, inside) as seen:
            if seen is not None and seen.dead and is_mark(seen.content):
                _empty(inside)
                remove_if_empty(path, dir_fd=work)
