"""Parts in child processes: several at a time on this machine, or one in each worker of a cluster.

A process per participant is what a user would start by hand: it has its own memory, threads, caches, log and
signals, and nothing of one participant stays behind for the next.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import cycle, islice
from queue import SimpleQueue
from typing import Any

from sicnn_app.errors import InternalError, SicnnAppError, TryAgainError, one_line
from sicnn_app.pipeline.tasks.part import Part, PartResult
from sicnn_app.system.caches import thread_variables
from sicnn_app.system.helpers import memory_file

CHILD = "sicnn_app.cli.task"

RETRIES = 2
"""How often a part whose process died is tried again."""


class ChildKilledError(Exception):
    """A signal ended the process of a part, by its name."""


class Children:
    """The processes that this worker runs, by the call of the app that they belong to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[subprocess.Popen, str] = {}
        self._stopped: set[str] = set()

    def run(self, call: str, command: Sequence[str], **options: Any) -> int:
        """Start a process and wait for its exit code; none starts for a call that was stopped."""
        with self._lock:
            if call in self._stopped:
                raise ChildKilledError("a stop before it began")
            process = subprocess.Popen(command, **options)
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


def run_in_child(part: Part, *, call: str, device: str | None = None) -> PartResult:
    """Process a part in a child of this process, which sees one CUDA device, or all that this process sees.

    ``call`` tells the call of the app that the part belongs to from others at the same scheduler. Raises
    ChildKilledError when the child was killed, or stopped by somebody else than the call, and InternalError
    when it ended without an answer.
    """
    environment = os.environ | thread_variables(part.settings.resources.omp_nthreads)
    # Libraries compute with their docstrings.
    environment.pop("PYTHONOPTIMIZE", None)
    if device is not None:
        environment["CUDA_VISIBLE_DEVICES"] = device
    with memory_file() as given, memory_file() as answer, memory_file() as said:
        pickle.dump(part, given)
        given.seek(0)
        code = children.run(
            call,
            # -P as installed commands do: a file in the current directory is no module.
            [sys.executable, "-P", "-m", CHILD, str(answer.fileno()), str(os.getpid())],
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=said,
            pass_fds=[answer.fileno()],
            env=environment,
            # Ctrl-C in a terminal reaches the app alone, which stops its children in order.
            start_new_session=True,
        )
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


def process_here(
    parts: Sequence[Part], *, at_a_time: int, devices: Sequence[str] = ()
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
                    return run_in_child(part, call=call, device=device)
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
