"""What killed processes leave in a work directory, and how it goes."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path

from sicnn_app.locks.mark import NEW, look
from sicnn_app.locks.owned import OWNER_FILE
from sicnn_app.locks.shared import LOCK_FILE, FolderLock, HeldElsewhere

_SHARED_NAME = re.compile(r"(dataset|group|(report|run|study)-.+)-[0-9a-f]{8}")
_NETWORK_NAME = re.compile(r"study-[0-9a-f]{8}-[0-9a-f]{8}\.pt")
_OWNED_NAME = re.compile(r"[a-z]+-.+-\d+-\w{8}")


def remove_leftovers(work_dir: Path, *, checkpoints: bool = False) -> list[str]:
    """Remove what processes that are no more left in the work directory; nothing a user put there.

    Parameters
    ----------
    work_dir : Path
        It may be absent.
    checkpoints : bool
        Remove also what the same command would continue from, and the networks of studies.

    Returns
    -------
    list of str
        What was taken over, in words.
    """
    said = []
    with suppress(OSError):
        for folder in sorted(path for path in work_dir.iterdir() if path.is_dir()):
            with suppress(OSError, HeldElsewhere):
                if _SHARED_NAME.fullmatch(folder.name):
                    said += _free(folder, checkpoints=checkpoints)
                elif _OWNED_NAME.fullmatch(folder.name):
                    _remove_owned(folder)
        for path in work_dir.iterdir() if checkpoints else ():
            if _NETWORK_NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
        work_dir.rmdir()
    return said


def _remove_owned(folder: Path) -> None:
    with look(folder / OWNER_FILE) as seen:
        if seen is not None and seen.dead:
            shutil.rmtree(folder, ignore_errors=True)
    if seen is None:
        # Its process was killed before it could mark it, or does so now and will start anew.
        with suppress(FileNotFoundError):
            (folder / f"{OWNER_FILE}{NEW}").unlink()
        folder.rmdir()


def _free(folder: Path, *, checkpoints: bool) -> list[str]:
    with look(folder / LOCK_FILE) as seen:
        abandoned = seen.dead if seen is not None else any(folder.glob(f"{LOCK_FILE}{NEW}*"))
    interrupted = checkpoints and seen is None and folder.name.startswith(("run-", "study-"))
    if abandoned or interrupted:
        lock = FolderLock(folder)
        try:
            lock.acquire(0.0)
        finally:
            lock.release(() if checkpoints else None)
        return [f"{folder}: {lock.recovered}"] if lock.recovered else []
    if seen is None:
        folder.rmdir()
    return []
