"""What runs in a worker: a part is processed by a child process, so that a worker survives anything.

A process per participant is what a user would start by hand: it has its own memory, threads, caches, log and
signals, and nothing of one participant stays behind for the next.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO

from sicnn_app import __version__
from sicnn_app.errors import InternalError, UsageError
from sicnn_app.pipeline.tasks.part import Part, PartResult
from sicnn_app.system.caches import thread_variables

CHILD = "sicnn_app.cli.task"


class ChildKilledError(Exception):
    """A signal ended the process of a part, by its name."""


class _Children:
    """The processes that this worker runs, by the call of the app that they belong to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[subprocess.Popen, str] = {}
        self._stopped: set[str] = set()

    def run(self, call: str, start: Callable[[], subprocess.Popen]) -> int:
        """Start a process and wait for its exit code; none starts for a call that was stopped."""
        with self._lock:
            if call in self._stopped:
                raise ChildKilledError("a stop before it began")
            process = start()
            self._running[process] = call
        try:
            return process.wait()
        finally:
            with self._lock:
                del self._running[process]

    def is_stopped(self, call: str) -> bool:
        """Whether the call has stopped its processes."""
        with self._lock:
            return call in self._stopped

    def stop(self, call: str) -> list[subprocess.Popen]:
        """Send SIGTERM to the processes of a call and start no other ones."""
        with self._lock:
            self._stopped.add(call)
            processes = [process for process, owner in self._running.items() if owner == call]
            for process in processes:
                process.terminate()
        return processes


_children = _Children()


def run_in_child(part: Part, *, call: str, version: str, devices: Sequence[str]) -> PartResult:
    """Task: process a part in a child of this worker.

    Parameters
    ----------
    part : Part
    call : str
        Tells the call of the app that the task belongs to from others at the same scheduler.
    version : str
        That of the app which made the part.
    devices : sequence of str
        CUDA devices for the workers of one machine to take in turn; none: what this worker sees.

    Raises
    ------
    UsageError
        The worker has another version of the app.
    ChildKilledError
        The child was killed, or stopped by somebody else than the call.
    InternalError
        It ended without an answer.
    """
    if version != __version__:
        raise UsageError(
            f"--dask-scheduler: a worker has version {__version__} of the app, not {version}: start all from "
            "one installation or image"
        )
    environment = os.environ | thread_variables(part.settings.resources.omp_nthreads)
    # Libraries compute with their docstrings.
    environment.pop("PYTHONOPTIMIZE", None)
    if devices:
        from distributed import get_worker

        environment["CUDA_VISIBLE_DEVICES"] = devices[int(get_worker().name) % len(devices)]
    with _memory_file() as given, _memory_file() as answer, _memory_file() as said:
        pickle.dump(part, given)
        given.seek(0)
        # A session of its own: Ctrl-C in a terminal reaches the app alone, which stops its children in order.
        code = _children.run(
            call,
            lambda: subprocess.Popen(
                # -P as installed commands do: a file in the current directory is no module.
                [sys.executable, "-P", "-m", CHILD, str(answer.fileno()), str(os.getpid())],
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=[answer.fileno()],
                env=environment,
                start_new_session=True,
            ),
        )
        if code < 0:
            raise ChildKilledError(signal.Signals(-code).name)
        if code > 0:
            raise InternalError(
                f"internal error (the process of a participant ended with {code}: {_last_line(said)}): "
                "please report it"
            )
        answer.seek(0)
        result = pickle.load(answer)
    if result.stopped and not _children.is_stopped(call):
        # Somebody else stopped this one; its checkpoint is written.
        raise ChildKilledError(signal.SIGTERM.name)
    return result


async def stop_children(call: str) -> None:
    """Stop the processes of a call, each after its checkpoint, and wait until they have ended."""
    await asyncio.gather(*(asyncio.to_thread(process.wait) for process in _children.stop(call)))


def _memory_file() -> IO[bytes]:
    """A file that needs no folder: a worker may have none to write to."""
    return os.fdopen(os.memfd_create("sicnn-app"), "w+b")


def _last_line(said: IO[bytes]) -> str:
    said.seek(0)
    return ["nothing said", *said.read().decode(errors="replace").strip().splitlines()][-1]
