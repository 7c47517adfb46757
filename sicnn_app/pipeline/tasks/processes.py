"""Parts in child processes: several at a time on this machine, or one in each worker of a cluster.

A process per participant is what a user would start by hand: it has its own memory, threads, caches, log and
signals, and nothing of one participant stays behind for the next. On this machine they are forks of a process
that has loaded the libraries, which takes longer than the fit of a small image.
"""

from __future__ import annotations

import importlib
import os
import pickle
import pkgutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from queue import SimpleQueue
from typing import Protocol

from sicnn_app.errors import InternalError, SicnnAppError, TryAgainError, one_line
from sicnn_app.pipeline.tasks.part import Part, PartResult
from sicnn_app.system.caches import thread_variables
from sicnn_app.system.fork_server import ForkServer
from sicnn_app.system.helpers import memory_file

CHILD = "sicnn_app.cli.task"

SERVE = "serve"
"""Argument of the program with which it forks processes instead of being one."""

LOADED = ("bids", "derivatives", "ivim", "lsq", "pipeline", "preprocess", "report", "sicnn", "system")
"""Packages of which parts may need any module."""

RETRIES = 2
"""How often a part whose process died is tried again."""


class Process(Protocol):
    """What is needed of a process."""

    def wait(self) -> int:
        """Wait for the exit code, minus the number of a signal."""

    def terminate(self) -> None:
        """Send SIGTERM."""


class ChildKilledError(Exception):
    """A signal ended the process of a part, by its name."""


class Children:
    """The processes that this worker runs, by the call of the app that they belong to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[Process, str] = {}
        self._stopped: set[str] = set()

    def run(self, call: str, start: Callable[[], Process]) -> int:
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
        """True when the call has stopped its processes."""
        with self._lock:
            return call in self._stopped

    def stop(self, call: str) -> None:
        """Stop the processes of a call, each after its checkpoint, and wait until they have ended."""
        with self._lock:
            self._stopped.add(call)
            processes = [process for process, owner in self._running.items() if owner == call]
            for process in processes:
                process.terminate()
        for process in processes:
            process.wait()


children = Children()


@contextmanager
def fork_server(threads: int) -> Iterator[ForkServer]:
    """Context with a process that has loaded the libraries; it belongs to the thread that enters it."""
    server = ForkServer(_command(SERVE), _environment(threads))
    try:
        yield server
    finally:
        server.end()


def load_everything() -> None:
    """Import all that the work on a part imports."""
    for name in LOADED:
        package = importlib.import_module(f"sicnn_app.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)


def run_in_child(
    part: Part, *, call: str, device: str | None = None, server: ForkServer | None = None
) -> PartResult:
    """Process a part in a child of this process, which sees one CUDA device, or all that this process sees.

    ``call`` tells the call of the app that the part belongs to from others at the same scheduler. The child
    is a fork of a server where there is one. Raises ChildKilledError when the child was killed, or stopped by
    somebody else than the call, and InternalError when it ended without an answer.
    """
    environment = _environment(part.settings.resources.omp_nthreads)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    with memory_file() as given, memory_file() as answer, memory_file() as said:
        pickle.dump(part, given)
        given.seek(0)

        def start() -> Process:
            if server is not None:
                # Without it they go on one by one.
                with suppress(OSError):
                    return server.fork(device or "", [given.fileno(), answer.fileno(), said.fileno()])
            return subprocess.Popen(
                [*_command(str(answer.fileno())), str(os.getpid())],
                stdin=given,
                stdout=subprocess.DEVNULL,
                stderr=said,
                pass_fds=[answer.fileno()],
                env=environment,
                # Ctrl-C in a terminal reaches the app alone, which stops its children in order.
                start_new_session=True,
            )

        code = children.run(call, start)
        if code < 0:
            raise ChildKilledError(signal.Signals(-code).name)
        if code > 0:
            said.seek(0)
            *_, last = ["nothing said", *said.read().decode(errors="replace").strip().splitlines()]
            raise InternalError(
                f"internal error (the process of a participant ended with {code}: {last}): please report it"
            )
        answer.seek(0)
        result = pickle.load(answer)
    if result.stopped and not children.is_stopped(call):
        # Somebody else stopped this one; its checkpoint is written.
        raise ChildKilledError(signal.SIGTERM.name)
    return result


def _command(*arguments: str) -> list[str]:
    # -P as installed commands do: a file in the current directory is no module.
    return [sys.executable, "-P", "-m", CHILD, *arguments]


def _environment(threads: int) -> dict[str, str]:
    environment = os.environ | thread_variables(threads)
    # Libraries compute with their docstrings.
    environment.pop("PYTHONOPTIMIZE", None)
    return environment


def process_here(
    parts: Sequence[Part],
    *,
    at_a_time: int,
    devices: Sequence[str] = (),
    server: ForkServer | None = None,
) -> Generator[tuple[Part, PartResult], None, None]:
    """Process parts in children of this process, each watched by a thread, see :data:`.participants.Workers`.

    They take the CUDA devices in turn; with none given all see what this process sees.
    """
    free: SimpleQueue[str | None] = SimpleQueue()
    for device in islice(cycle(devices or (None,)), at_a_time):
        free.put(device)
    call = uuid.uuid4().hex

    def process(part: Part) -> PartResult:
        device = free.get()
        try:
            tried = 0
            while True:
                try:
                    return run_in_child(part, call=call, device=device, server=server)
                except ChildKilledError:
                    tried += 1
                    if tried > RETRIES or children.is_stopped(call):
                        raise
        except Exception as error:
            return PartResult(error=readable(error))
        finally:
            free.put(device)

    pool = ThreadPoolExecutor(at_a_time)
    try:
        submitted = {pool.submit(process, part): part for part in parts}
        for future in as_completed(submitted):
            yield submitted[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        children.stop(call)
        pool.shutdown()


def readable(error: BaseException) -> SicnnAppError:
    """The end of the process of a part, as an error that a user can act on."""
    if isinstance(error, SicnnAppError):
        return error
    if isinstance(error, ChildKilledError):
        return TryAgainError(
            f"its process was killed {RETRIES + 1} times, by {error}, often for want of memory: try again "
            "with a lower --nprocs or --mem"
        )
    wrapped = InternalError(f"internal error ({one_line(error)}): please report it")
    wrapped.__cause__ = error
    return wrapped
