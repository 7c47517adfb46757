"""Where libraries may write: below the work directory, whatever HOME and /tmp are like."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sicnn_app.system.locks.folders import opened
from sicnn_app.system.surroundings import environment

CACHE_VARIABLES = {
    "MPLCONFIGDIR": "matplotlib",
    "XDG_CACHE_HOME": "xdg",
    "TORCHINDUCTOR_CACHE_DIR": "torchinductor",
    "NUMBA_CACHE_DIR": "numba",
    "TMPDIR": "tmp",
}
"""Environment variables of the libraries, and the folder each gets."""


SPINS = "2000"
"""Turns of a waiting loop of GNU OpenMP, tens of microseconds, after which a thread sleeps. The default is a
hundred times as many: where other processes share the machine, or a container has fewer cores than threads,
waiting threads then take the core from the very thread they wait for. Threads that sleep at once wake too
slowly for short steps."""


def thread_variables(threads: int) -> dict[str, str]:
    """The environment variables that numerical libraries read when they are first imported.

    How threads wait is left to the environment where that says anything about it.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    variables = dict.fromkeys(names, str(threads))
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        variables["GOMP_SPINCOUNT"] = SPINS
    return variables


def limit_library_threads(threads: int) -> None:
    """Set these variables for this process."""
    os.environ.update(thread_variables(threads))


@contextmanager
def private_caches(folder: Path) -> Iterator[None]:
    """Point every cache into ``folder``, which belongs to this process; as before at the end.

    The container's root is read-only and HOME may be anything, so nothing else can be relied on. Raises
    OSError when a folder cannot be created there.
    """
    folder = Path(os.path.abspath(folder))
    # Not through a link that somebody put in its place meanwhile.
    with opened(folder) as descriptor:
        for part in CACHE_VARIABLES.values():
            os.mkdir(part, dir_fd=descriptor)
    places = {name: str(folder / part) for name, part in CACHE_VARIABLES.items()}
    with environment(os.environ | places):
        try:
            tempfile.tempdir = places["TMPDIR"]
            yield
        finally:
            tempfile.tempdir = None
