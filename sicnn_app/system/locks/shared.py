"""Folders that processes share, one after the other."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from sicnn_app.errors import OutputError, TryAgainError
from sicnn_app.files import made_again, why_not_private
from sicnn_app.system.locks.folders import (
    MADE_FILE,
    empty_folder,
    is_marked,
    mark_as_made,
    open_folder,
    open_work_folder,
    remove_if_empty,
)
from sicnn_app.system.locks.mark import NEW, STALE, Mark, Seen, content_of, holder_of, is_mark, look

LOCK_FILE = "lock"
"""The mark in such a folder."""

SETTLE = 0.3
"""Seconds in which processes that take the same thing at the same time have seen one another."""

POLL = 0.05

HANDOVER = 10.0
"""Seconds for which a lock may be found without an owner, though it cannot be taken."""


class HeldElsewhere(TryAgainError):
    """Another living process holds the lock."""


class FolderLock:
    """The right to work in a folder; see :func:`locked_folder`.

    ``recovered`` tells in words what was taken over from a process that is no more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recovered: str | None = None
        self.mark: Mark | None = None
        self._work: int | None = None
        self._inside: int | None = None
        self._opened = ExitStack()

    def acquire(self, wait: float) -> None:
        """Take the lock.

        Raises HeldElsewhere and OutputError as :func:`locked_folder` does, and OSError when the folder cannot
        be made or written.
        """
        started, patience = time.monotonic(), max(wait, SETTLE)
        refused_since = None
        while True:
            refusal = self._enter()
            if refusal is None and self._put_mark():
                break
            now = time.monotonic()
            with nullcontext() if self._inside is None else look(LOCK_FILE, self._inside) as seen:
                if refusal is None and seen is not None and self._take_over(seen, now - started):
                    break
                held = seen is not None and not seen.dead
                over = now - started > patience
                # A folder that another process is just making, or removing, may look like anything.
                refused_since = (refused_since or now) if refusal and not held else None
                if refused_since and (over if self._inside is None else now - refused_since > SETTLE):
                    raise OutputError(
                        f"{self.folder}: {refusal}, so it is neither used nor emptied: have it removed, or "
                        "name another work directory with --work-dir"
                    )
                # The lock may change hands between two looks that find nobody, but not for ever.
                if over and (held or now - started > patience + HANDOVER):
                    raise HeldElsewhere(
                        f"{self.folder / LOCK_FILE}: held by another process "
                        f"({holder_of(seen.content if seen else {})}): try again when it has ended"
                    )
            time.sleep(POLL)
        mark_as_made(self._inside, self.folder.name)

    def check(self) -> None:
        """Make sure that nobody took the lock over; raises TryAgainError."""
        if not self._is_ours():
            holder = holder_of(content_of(LOCK_FILE, self._inside))
            raise TryAgainError(
                f"{self.folder / LOCK_FILE}: taken over by another process ({holder}) because this one was "
                "suspended for ten minutes or more: try again when that one has ended"
            )

    def clear(self, keep: Collection[str] | None) -> None:
        """Remove everything from the folder but the lock and the names to keep; None keeps all but marks."""
        names = os.listdir(self._inside) if keep is None else keep
        kept = [name for name in names if not name.startswith(f"{LOCK_FILE}{NEW}")]
        empty_folder(self._inside, keep=(LOCK_FILE, MADE_FILE, *kept))

    def release(self, keep: Collection[str] | None = ()) -> None:
        """Give the lock back, if it is still ours, and the folder with it when nothing to keep is in it.

        With ``keep`` None whatever is there stays.
        """
        if self.mark is not None:
            self.mark.remove()
            if self._is_ours():
                with suppress(OSError):
                    self.clear(keep)
                # Still locked: whoever looks at it now sees a living owner or nothing.
                with suppress(OSError):
                    if set(os.listdir(self._inside)) <= {LOCK_FILE, MADE_FILE}:
                        os.unlink(MADE_FILE, dir_fd=self._inside)
                with suppress(OSError):
                    os.unlink(LOCK_FILE, dir_fd=self._inside)
            remove_if_empty(self.folder, dir_fd=self._work)
        self._leave()
        remove_if_empty(self.folder.parent)

    def _enter(self) -> str | None:
        """Open the folder, made when it is absent; why it may not be worked in, in words, or None."""
        if self.mark is not None:
            with suppress(OSError):
                # The mark of this process is still beside the place where it belongs.
                os.stat(self.mark.name, dir_fd=self._inside, follow_symlinks=False)
                return None
        # Another process may remove the folders when they are empty.
        return made_again(self._open)

    def _open(self) -> str | None:
        self._leave()
        self._work = self._opened.enter_context(open_work_folder(self.folder.parent))
        with suppress(FileExistsError):
            # Others may see who works here, but put nothing into it.
            os.mkdir(self.folder.name, 0o755, dir_fd=self._work)
        try:
            self._inside = self._opened.enter_context(open_folder(self.folder, dir_fd=self._work))
        except PermissionError:
            return "is not readable, and may be in use by another user"
        return why_not_ours(self._inside, self._work, self.folder.name)

    def _leave(self) -> None:
        self._opened.close()
        self.mark = self._inside = self._work = None

    def _is_ours(self) -> bool:
        if self.mark is None or content_of(LOCK_FILE, self._inside).get("token") != self.mark.token:
            return False
        with suppress(OSError):
            # Another folder may have its name by now.
            return os.path.samestat(os.stat(self.folder, follow_symlinks=False), os.fstat(self._inside))
        return False

    def _put_mark(self) -> bool:
        """Put a mark where there is none; what stands there is complete at any moment."""
        try:
            if self.mark is None:
                self.mark = Mark(f"{LOCK_FILE}{NEW}{uuid.uuid4().hex}", self._inside)
                self._opened.callback(self.mark.close)
        except FileNotFoundError:
            # Another process removed the empty folder.
            return False
        self.mark.beat()
        try:
            os.link(self.mark.name, LOCK_FILE, src_dir_fd=self._inside, dst_dir_fd=self._inside)
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError:
            # No hard links on this file system.
            return LOCK_FILE not in os.listdir(self._inside) and self._rename()
        return True

    def _take_over(self, seen: Seen, waited: float) -> bool:
        """Put the mark in the place of one whose process is no more."""
        # A suspended process keeps its file locked, but so does, for a moment, one that looks.
        silent = seen.locked is not False and seen.silence > STALE and waited > SETTLE
        if self.mark is None or not ((seen.dead and seen.locked is False) or silent):
            return False
        # As text: JSON knows values that are not equal to themselves.
        if str(content_of(LOCK_FILE, self._inside).get("token")) != str(seen.content.get("token")):
            return False
        # Nobody else can be here where it is unlocked: they would have to lock the same mark.
        if not self._rename(settle=seen.locked is not False):
            return False
        self.recovered = (
            f"took over the lock of a process that ended without a word ({holder_of(seen.content)}; last "
            f"sign of life {max(seen.silence, 0) / 60:.0f} minutes ago)"
        )
        return True

    def _rename(self, *, settle: bool = True) -> bool:
        """Put the mark there; without any protection the last one to do so has it, when all have settled."""
        with suppress(FileNotFoundError):
            self.mark.rename(LOCK_FILE)
        if settle:
            time.sleep(SETTLE)
        return self._is_ours()


def why_not_ours(folder: int, work: int, name: str) -> str | None:
    """Why a shared folder of this name may neither be used nor emptied, in words; None when it may.

    ``folder`` and ``work`` are the descriptors of the folder and of the work directory.
    """
    reason = why_not_private(os.fstat(folder), work)
    if reason is not None:
        return reason
    names = os.listdir(folder)
    marks = (found for found in names if found.startswith(LOCK_FILE))
    if not names or is_marked(folder, name) or any(is_mark(content_of(mark, folder)) for mark in marks):
        return None
    return "holds files that sicnn-app has no record of"


@contextmanager
def locked_folder(folder: Path, *, keep: Collection[str] = (), wait: float = 0.0) -> Iterator[FolderLock]:
    """Work in ``folder`` as the only process; it is created when absent and removed at the end.

    Parameters
    ----------
    folder : Path
        See :func:`shared_folder`. What an earlier process left in it is removed first, but for ``keep``.
    keep : collection of str
        Names in the folder that stay when this process is stopped or killed, or ends in an error after
        which the same command may succeed (OutputError, TryAgainError); otherwise they go too.
    wait : float
        Seconds to wait for a process that holds the folder.

    Raises
    ------
    HeldElsewhere
        Another living process holds it.
    OutputError
        It cannot be created, is a link, may be another user's, or holds what this app has no record of.
    """
    lock = FolderLock(folder)
    kept = keep
    try:
        try:
            lock.acquire(wait)
            lock.clear(keep)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be locked ({error.strerror}): make the work directory writable, "
                "or name another one with --work-dir"
            ) from error
        with lock.mark.beating():
            yield lock
        kept = ()
    except Exception as error:
        if not isinstance(error, OutputError | TryAgainError):
            kept = ()
        raise
    finally:
        lock.release(kept)


def shared_folder(work_dir: Path, what: str, output_dir: Path) -> Path:
    """The folder that everybody who works on ``what`` for this output has to lock."""
    digest = hashlib.sha256(b"\0".join(map(os.fsencode, (what, os.path.realpath(output_dir))))).hexdigest()
    # Long enough to tell runs apart by eye, short enough for any file system.
    return Path(work_dir) / f"{what[:50]}-{digest[:8]}"
