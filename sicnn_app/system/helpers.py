"""Other processes that take over a part of this one's work, where a library uses one core."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import IO

import numpy as np

HELPER_BYTES = 60_000_000
"""Resident memory of a helper, without what it is given: numpy and scipy's linear algebra."""

PR_SET_PDEATHSIG = 1
"""Of prctl(2)."""

_allowed: ContextVar[int] = ContextVar("helpers", default=0)


@contextmanager
def helpers(count: int) -> Iterator[None]:
    """Allow so many processes beside this one for a while."""
    token = _allowed.set(count)
    try:
        yield
    finally:
        _allowed.reset(token)


def helpers_allowed() -> int:
    """Processes that may work beside this one; 0 where nobody allowed any."""
    return _allowed.get()


def shared_out(
    module: str, work: Callable[..., Sequence[np.ndarray]], parts: Sequence[Sequence[np.ndarray]]
) -> list[Sequence[np.ndarray]]:
    """What ``work`` makes of every part, one of them here and the others in a process each at the same time.

    Parameters
    ----------
    module : str
        Calls :func:`serve` with ``work`` when it is run as a program.
    work : callable (*ndarray) -> sequence of ndarray
        Does the first part here, and those whose process could not be started or ended without an answer.
    parts : sequence of sequences of ndarray
    """
    here, *others = parts
    with ExitStack() as running:
        started = [_Started(module, part) for part in others]
        for one in started:
            running.callback(one.end)
        found = [work(*here)]
        for one, part in zip(started, others, strict=True):
            answer = one.answer()
            found.append(work(*part) if answer is None else answer)
        return found


def serve(work: Callable[..., Sequence[np.ndarray]]) -> None:
    """Do a part of the work: arrays come by the standard input, what was made of them goes to the output."""
    die_with(int(sys.argv[1]))
    part = _load(sys.stdin.buffer)
    # What a library prints must not stand between the arrays.
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answer:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _save(answer, work(*part))


def die_with(parent: int) -> None:
    """Let the system kill this process as soon as its parent is no more.

    Strictly the signal comes when the thread that started this process ends; a worker keeps its threads.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the worker has ended")


def memory_file() -> IO[bytes]:
    """A file that needs no folder: a worker may have none to write to."""
    return os.fdopen(os.memfd_create("sicnn-app"), "w+b")


class _Started:
    """A process at work on a part; files in memory hand over arrays, so that neither waits for the other."""

    def __init__(self, module: str, part: Sequence[np.ndarray]) -> None:
        self._answer = memory_file()
        self._process: subprocess.Popen[bytes] | None = None
        with memory_file() as given:
            _save(given, part)
            given.seek(0)
            with suppress(OSError):
                # -P as installed commands do: a file in the current directory is no module.
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-m", module, str(os.getpid())],
                    stdin=given,
                    stdout=self._answer,
                    stderr=subprocess.DEVNULL,
                )

    def answer(self) -> list[np.ndarray] | None:
        if self._process is None or self._process.wait() != 0:
            return None
        self._answer.seek(0)
        return _load(self._answer)

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._answer.close()


def _save(file: IO[bytes], arrays: Sequence[np.ndarray]) -> None:
    np.save(file, np.array(len(arrays)))
    for one in arrays:
        np.save(file, one)
    file.flush()


def _load(file: IO[bytes]) -> list[np.ndarray]:
    return [np.load(file) for _ in range(int(np.load(file)))]
