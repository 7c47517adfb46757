"""Folders that a process makes for itself."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sicnn_app.locks.mark import HEARTBEAT, NEW, Mark

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
    """
    mark = None
    try:
        mark = _make_owned(Path(parent), f"{kind}-{socket.gethostname()}-{os.getpid()}-")
        with mark.beating(interval):
            yield mark.path.parent
    finally:
        if mark is not None:
            shutil.rmtree(mark.path.parent, ignore_errors=True)
            mark.close()
        with suppress(OSError):
            Path(parent).rmdir()


def _make_owned(parent: Path, prefix: str) -> Mark:
    while True:
        parent.mkdir(parents=True, exist_ok=True)
        # Another process may remove the empty parent, or the folder before it is marked.
        with suppress(FileNotFoundError):
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
            mark = Mark(folder / f"{OWNER_FILE}{NEW}")
            try:
                mark.path = mark.path.rename(folder / OWNER_FILE)
            except BaseException:
                mark.close()
                raise
            return mark
