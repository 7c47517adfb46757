"""Folders that processes share, one after the other."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sicnn_app.errors import OutputError, TryAgainError
from sicnn_app.locks.mark import HEARTBEAT, NEW, STALE, Mark, Seen, content_of, look

LOCK_FILE = "lock"
"""The mark in such a folder."""

SETTLE = 0.3
"""Seconds in which processes that take the same thing at the same time have seen one another."""

POLL = 0.05


class HeldElsewhere(TryAgainError):
    """Another living process holds the lock."""


class FolderLock:
    """The right to work in a folder; see :func:`locked_folder`.

    Attributes
    ----------
    folder : Path
    recovered : str or None
        What was taken over from a process that is no more, in words.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recovered: str | None = None
        self.mark: Mark | None = None
        self._path = folder / LOCK_FILE

    def acquire(self, wait: float) -> None:
        """Take the lock; raises HeldElsewhere when another process still holds it after ``wait`` seconds."""
        started = time.monotonic()
        while True:
            if self._put_mark():
                return
            waited = time.monotonic() - started
            with look(self._path) as seen:
                if seen is None:
                    continue
                # A suspended process keeps its file locked, but so does, for a moment, one that looks.
                silent = seen.locked is not False and seen.silence > STALE and waited > SETTLE
                if (seen.dead and seen.locked is False) or silent:
                    if self._replace(seen):
                        self.recovered = (
                            f"took over the lock of a process that ended without a word ({seen.holder}; last "
                            f"sign of life {max(seen.silence, 0) / 60:.0f} minutes ago)"
                        )
                        return
                    continue
                if waited > max(wait, SETTLE) and not seen.dead:
                    raise HeldElsewhere(
                        f"{self._path}: held by another process ({seen.holder}): try again when it has ended"
                    )
            time.sleep(POLL)

    def check(self) -> None:
        """Make sure that nobody took the lock over; raises TryAgainError."""
        if not self._is_ours():
            with look(self._path) as seen:
                holder = "gone" if seen is None else seen.holder
            raise TryAgainError(
                f"{self._path}: taken over by another process ({holder}) because this one was suspended for "
                "ten minutes or more: try again when that one has ended"
            )

    def clear(self, keep: Collection[str] | None) -> None:
        """Remove everything from the folder but the lock and the names to keep; None keeps all but marks."""
        for path in self.folder.iterdir():
            mark = path.name.startswith(f"{LOCK_FILE}{NEW}")
            if path.name == LOCK_FILE or (not mark and (keep is None or path.name in keep)):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()

    def release(self, keep: Collection[str] | None = ()) -> None:
        """Give the lock back, if it is still ours, and the folder with it when nothing to keep is in it.

        With ``keep`` None whatever is there stays.
        """
        if self.mark is None:
            return
        with suppress(OSError):
            self.mark.path.unlink()
        if self._is_ours():
            with suppress(OSError):
                self.clear(keep)
            # Still locked: whoever looks at it now sees a living owner or nothing.
            with suppress(OSError):
                self._path.unlink()
        self.mark.close()
        self.mark = None
        for folder in (self.folder, self.folder.parent):
            with suppress(OSError):
                folder.rmdir()

    def _is_ours(self) -> bool:
        return self.mark is not None and content_of(self._path).get("token") == self.mark.token

    def _put_mark(self) -> bool:
        """Put a mark where there is none."""
        if self.mark is None or not self.mark.path.exists():
            self._prepare()
        self.mark.beat()
        try:
            os.link(self.mark.path, self._path)
        except (FileExistsError, FileNotFoundError):
            return False
        except OSError:
            # No hard links on this file system.
            return not self._path.exists() and self._rename()
        return True

    def _prepare(self) -> None:
        """Write a mark beside the place where it belongs: what stands there is complete at any moment."""
        if self.mark is not None:
            self.mark.close()
            self.mark = None
        while self.mark is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Another process may remove an empty folder between the two calls.
            with suppress(FileNotFoundError):
                self.mark = Mark(self.folder / f"{LOCK_FILE}{NEW}{uuid.uuid4().hex}")

    def _replace(self, seen: Seen) -> bool:
        if content_of(self._path).get("token") != seen.content.get("token"):
            return False
        if seen.locked is False:
            # Nobody else can be here: they would have to lock the same mark.
            with suppress(FileNotFoundError):
                os.rename(self.mark.path, self._path)
            return self._is_ours()
        return self._rename()

    def _rename(self) -> bool:
        """Put the mark there without any protection; the last one to do so has it."""
        with suppress(FileNotFoundError):
            os.rename(self.mark.path, self._path)
        time.sleep(SETTLE)
        return self._is_ours()


@contextmanager
def locked_folder(
    folder: Path, *, keep: Collection[str] = (), wait: float = 0.0, interval: float = HEARTBEAT
) -> Iterator[FolderLock]:
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
    interval : float
        Seconds between two signs of life.

    Raises
    ------
    HeldElsewhere
        When another living process holds it.
    OutputError
        When it cannot be created.
    """
    lock = FolderLock(folder)
    stopped = True
    try:
        try:
            lock.acquire(wait)
            lock.clear(keep)
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be locked ({error.strerror}): make the work directory writable, "
                "or name another one with --work-dir"
            ) from error
        with lock.mark.beating(interval):
            yield lock
        stopped = False
    except (OutputError, TryAgainError):
        raise
    except Exception:
        stopped = False
        raise
    finally:
        lock.release(keep if stopped else ())


def shared_folder(work_dir: Path, what: str, output_dir: Path) -> Path:
    """The folder that everybody who works on ``what`` for this output has to lock."""
    digest = hashlib.sha256(b"\0".join(map(os.fsencode, (what, os.path.realpath(output_dir))))).hexdigest()
    # Long enough to tell runs apart by eye, short enough for any file system.
    return Path(work_dir) / f"{what[:50]}-{digest[:8]}"
