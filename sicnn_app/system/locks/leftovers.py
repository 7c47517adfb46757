"""Leftovers of killed processes in a work directory, and how they go."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from sicnn_app.errors import OutputError
from sicnn_app.system.locks.folders import MADE_FILE, open_folder, remove_if_empty
from sicnn_app.system.locks.mark import NEW, look
from sicnn_app.system.locks.owned import remove_owned
from sicnn_app.system.locks.shared import LOCK_FILE, FolderLock, HeldElsewhere, why_not_ours

_SHARED_NAME = re.compile(r"(dataset|group|(report|run|study)-.+)-[0-9a-f]{8}")
_OWNED_NAME = re.compile(r"[a-z]+-.+-\d+-\w{8}")


def remove_leftovers(work_dir: Path, *, checkpoints: bool = False) -> list[str]:
    """Remove what processes that are no more left in the work directory; nothing a user put there.

    A name tells where to look. What goes belongs to this user and holds a mark of this app; with
    ``checkpoints`` also what the same command would continue from. Gives in words what was taken over, and
    with ``checkpoints`` what stays under a name of ours. The work directory may be absent; raises OutputError
    when it is a link or no folder.
    """
    said = []
    with suppress(OSError):
        with open_folder(work_dir) as work:
            for name in sorted(os.listdir(work)):
                # A link, a pipe or a file under such a name is not of ours.
                with suppress(OSError, OutputError, HeldElsewhere):
                    if _SHARED_NAME.fullmatch(name):
                        said += _free(work_dir / name, work, checkpoints=checkpoints)
                    elif _OWNED_NAME.fullmatch(name):
                        remove_owned(work_dir / name, work)
        remove_if_empty(work_dir)
    return said


def _free(folder: Path, work: int, *, checkpoints: bool) -> list[str]:
    with open_folder(folder, dir_fd=work) as inside:
        reason = why_not_ours(inside, work, folder.name)
        if reason is not None:
            return [f"{folder}: left as it is: {reason}"] if checkpoints else []
        if not _is_abandoned(inside, checkpoints=checkpoints):
            return []
    lock = FolderLock(folder)
    try:
        lock.acquire(0.0)
    finally:
        lock.release(() if checkpoints else None)
    return [f"{folder}: {lock.recovered}"] if lock.recovered else []


def _is_abandoned(folder: int, *, checkpoints: bool) -> bool:
    with look(LOCK_FILE, folder) as seen:
        if seen is not None:
            return seen.dead
        names = os.listdir(folder)
        unfinished = any(name.startswith(f"{LOCK_FILE}{NEW}") for name in names)
        return unfinished or names == [MADE_FILE] or (checkpoints and names != [])
