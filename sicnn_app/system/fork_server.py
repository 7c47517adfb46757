"""Processes that begin with their libraries loaded: forks of one that has done nothing but load them."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import NoReturn

FORK, STOP = "fork", "stop"

MAX_MESSAGE, MAX_FILES = 1024, 8


class ForkServer:
    """A process that forks others on request, each with files that it is handed.

    Its program starts no thread, computes nothing and touches no GPU, so that a fork has all of it: no lock
    is held by a thread that is missing. (OpenBLAS ends its idle threads for a fork and starts them again.)
    The processes have memory, signals and an end of their own, as if they had been started one by one. They
    end with the server, and that ends with the thread that started it.

    Parameters
    ----------
    command : sequence of str
        A program that calls :func:`serve`; gets the descriptor of its socket and the number of this process.
    environment : mapping of str to str
        Of the server, and so of all processes.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._numbers, self._lock = count(), threading.Lock()
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment,
                start_new_session=True,
            )

    def fork(self, text: str, files: Sequence[int]) -> Forked:
        """Start a process that gets a text, below 1000 letters, and open files; OSError without a server."""
        number = next(self._numbers)
        told, tell = os.pipe()
        try:
            self.ask(f"{FORK} {number} {text}", [tell, *files])
        except BaseException:
            os.close(told)
            raise
        finally:
            os.close(tell)
        return Forked(self, number, told)

    def ask(self, message: str, files: Sequence[int] = ()) -> None:
        """Send the server a request; raises OSError when it has ended."""
        with self._lock:
            socket.send_fds(self._requests, [message.encode()], files)

    def end(self) -> None:
        """Let the server end; its processes have ended."""
        self._requests.close()
        self._process.wait()


class Forked:
    """A process of a :class:`ForkServer`, with the methods of ``subprocess.Popen`` that are needed here."""

    def __init__(self, server: ForkServer, number: int, told: int) -> None:
        self._server, self._number, self._told = server, number, told
        self._lock = threading.Lock()
        self._code: int | None = None

    def wait(self) -> int:
        """Wait for the exit code, which is minus the number of a signal that ended the process.

        Several threads may wait, and again.
        """
        with self._lock:
            if self._code is None:
                with os.fdopen(self._told, "rb") as stream:
                    code = stream.read()
                # The processes of a server that was killed were killed with it.
                self._code = int(code) if code else -signal.SIGKILL
            return self._code

    def terminate(self) -> None:
        """Send SIGTERM to the process, which may have ended."""
        try:
            self._server.ask(f"{STOP} {self._number}")
        except OSError:
            # It has ended with the server.
            return


def serve(requests: socket.socket, work: Callable[[str, Sequence[int]], object]) -> None:
    """Fork a process for every request, do the work in it, and tell its exit code; until nobody asks more.

    Only for a process that has started no thread.
    """
    running: dict[int, tuple[str, int]] = {}
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno())
    while True:
        ready, *_ = select.select((woken, requests), (), ())
        if woken in ready:
            woken.recv(MAX_MESSAGE)
            while running and (found := os.waitpid(-1, os.WNOHANG))[0]:
                _, tell = running.pop(found[0])
                os.write(tell, str(os.waitstatus_to_exitcode(found[1])).encode())
                os.close(tell)
        if requests not in ready:
            continue
        message, files, *_ = socket.recv_fds(requests, MAX_MESSAGE, MAX_FILES)
        if not message:
            return
        kind, number, *text = message.decode().split(" ", 2)
        if kind == STOP:
            for pid in [pid for pid, (one, _) in running.items() if one == number]:
                os.kill(pid, signal.SIGTERM)
            continue
        tell, *others = files
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (requests, woken, wake):
                end.close()
            for descriptor in (tell, *(one for _, one in running.values())):
                os.close(descriptor)
            _do(work, text[0], others)
        running[pid] = number, tell
        for descriptor in others:
            os.close(descriptor)


def _do(work: Callable[[str, Sequence[int]], object], text: str, files: Sequence[int]) -> NoReturn:
    """Do the work and end this process as Python would, without what the server has to do at its end."""
    code = 1
    try:
        work(text, files)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
