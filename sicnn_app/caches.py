"""Where libraries may write: below the work directory, whatever HOME and /tmp are like."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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

FOLDER_PREFIX = "caches-"


def ensure_home() -> None:
    """Give HOME a value: pybids does not import without one for a user that has no account."""
    os.environ.setdefault("HOME", "/")


def limit_library_threads(threads: int) -> None:
    """Set the thread variables that numerical libraries read when they are first imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)


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
    folder = work_dir / f"{FOLDER_PREFIX}{socket.gethostname()}-{os.getpid()}"
    before = {name: os.environ.get(name) for name in CACHE_VARIABLES}
    try:
        for name, part in CACHE_VARIABLES.items():
            (folder / part).mkdir(parents=True, exist_ok=True)
            os.environ[name] = str(folder / part)
    except OSError as error:
        raise OutputError(
            f"{work_dir}: cannot be created ({error.strerror}): choose a writable output or --work-dir"
        ) from error
    tempfile.tempdir = str(folder / CACHE_VARIABLES["TMPDIR"])
    try:
        yield folder
    finally:
        tempfile.tempdir = None
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):
            work_dir.rmdir()
