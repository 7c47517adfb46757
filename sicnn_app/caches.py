"""Where libraries may write: below the work directory, whatever HOME and /tmp are like."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from sicnn_app.errors import OutputError

CACHE_VARIABLES = {
    "MPLCONFIGDIR": "matplotlib",
    "XDG_CACHE_HOME": "xdg",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "NUMBA_CACHE_DIR": "numba",
    "TMPDIR": "tmp",
}
"""Environment variables of the libraries, and the folder each gets."""

OWNER_FILE = ".owner"
"""File in every folder of :func:`owned_folder`, locked as long as its process lives."""

ATTEMPTS = 20
"""Another job may remove an empty parent between the two calls that make parent and folder."""


def ensure_home() -> None:
    """Give HOME a value: pybids does not import without one for a user that has no account."""
    os.environ.setdefault("HOME", "/")


def limit_library_threads(threads: int) -> None:
    """Set the thread variables that numerical libraries read when they are first imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)


@contextmanager
def owned_folder(parent: Path, kind: str) -> Iterator[Path]:
    """A new folder of this process below ``parent``, removed at the end with its parent when empty.

    Parameters
    ----------
    parent : Path
    kind : str
        Start of the folder's name, before host and process number.

    Raises
    ------
    OSError
        When it cannot be created.
    """
    folder = _make_folder(parent, f"{kind}-{socket.gethostname()}-{os.getpid()}-")
    try:
        with (folder / OWNER_FILE).open("wb") as owner:
            # Without locks on the file system clean_work_folder leaves the folder alone.
            with suppress(OSError):
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            parent.rmdir()


def _make_folder(parent: Path, prefix: str) -> Path:
    for _ in range(ATTEMPTS):
        parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    raise FileNotFoundError(errno.ENOENT, "another process keeps removing the folder")


def clean_work_folder(work_dir: Path) -> None:
    """Remove what killed processes left there; nothing of a living one, nothing a user put there."""
    for owner in work_dir.glob(f"*/{OWNER_FILE}"):
        if not _is_locked(owner):
            shutil.rmtree(owner.parent, ignore_errors=True)


def _is_locked(path: Path) -> bool:
    try:
        with path.open("r+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


@contextmanager
def private_caches(work_dir: Path) -> Iterator[Path]:
    """Point every cache into a folder of this process below ``work_dir``; remove it at the end.

    The container's root is read-only and HOME may be anything, so nothing else can be relied on.

    Raises
    ------
    OutputError
        When the folder cannot be created.
    """
    ensure_home()
    before = {name: os.environ.get(name) for name in CACHE_VARIABLES}
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(owned_folder(work_dir, "caches"))
            for part in CACHE_VARIABLES.values():
                (folder / part).mkdir()
        except OSError as error:
            raise OutputError(
                f"{work_dir}: cannot be created ({error.strerror}): choose a writable output or --work-dir"
            ) from error
        os.environ.update({name: str((folder / part).resolve()) for name, part in CACHE_VARIABLES.items()})
        tempfile.tempdir = os.environ["TMPDIR"]
        try:
            yield folder
        finally:
            tempfile.tempdir = None
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
