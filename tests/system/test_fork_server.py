"""Forks of a process end as if they had been started one by one, and with it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sicnn_app.system.fork_server import ForkServer
from sicnn_app.system.helpers import memory_file

PROGRAM = """
import os, signal, socket, sys, time
from sicnn_app.system.fork_server import serve
from sicnn_app.system.helpers import die_with
die_with(int(sys.argv[2]))
parent = os.getpid()
def work(text, files):
    die_with(parent)
    os.write(files[0], f"{os.getpid()} {text}".encode())
    kind, _, value = text.partition(" ")
    if kind == "exit":
        sys.exit(int(value))
    if kind == "signal":
        os.kill(os.getpid(), int(value))
    if kind == "raise":
        raise ValueError(value)
    if kind == "sleep":
        time.sleep(60)
serve(socket.socket(fileno=int(sys.argv[1])), work)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer([sys.executable, "-c", PROGRAM], dict(os.environ))
    yield server
    server.end()


def done(server: ForkServer, text: str) -> tuple[int, str]:
    """Exit code of a fork and what it wrote."""
    with memory_file() as file:
        code = server.fork(text, [file.fileno()]).wait()
        file.seek(0)
        return code, file.read().decode()


def wait_for_text(file) -> int:
    """Number of the process that writes to a file."""
    while not os.fstat(file.fileno()).st_size:
        pass
    file.seek(0)
    return int(file.read().split()[0])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.integers(0, 255).map(lambda code: (f"exit {code}", code)),
        st.sampled_from([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM]).map(
            lambda number: (f"signal {int(number)}", -number)
        ),
        st.just(("raise something", 1)),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=50).map(
            lambda text: (f"say {text}", 0)
        ),
    )
)
def test_every_end_is_told(server, case):
    text, code = case
    found, written = done(server, text)
    assert found == code
    assert written.partition(" ")[2] == text


def test_many_at_a_time_get_their_own_answers(server):
    found: dict[int, tuple[int, str]] = {}
    threads = [
        threading.Thread(target=lambda number=number: found.update({number: done(server, f"exit {number}")}))
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: code for number, (code, _) in found.items()} == {number: number for number in range(20)}
    assert len({written.split()[0] for _, written in found.values()}) == 20


def test_one_is_stopped_and_the_others_are_not(server):
    with memory_file() as one, memory_file() as other:
        stopped, kept = server.fork("sleep", [one.fileno()]), server.fork("sleep", [other.fileno()])
        wait_for_text(one)
        pid = wait_for_text(other)
        waiting = threading.Thread(target=stopped.wait)
        waiting.start()
        stopped.terminate()
        assert stopped.wait() == -signal.SIGTERM
        waiting.join()
        assert stopped.wait() == -signal.SIGTERM
        assert psutil.pid_exists(pid)
        # Nobody is left to be stopped.
        stopped.terminate()
        kept.terminate()
        assert kept.wait() == -signal.SIGTERM


def test_forks_end_with_a_server_that_is_killed():
    server = ForkServer([sys.executable, "-c", PROGRAM], dict(os.environ))
    with memory_file() as file:
        fork = server.fork("sleep", [file.fileno()])
        process = psutil.Process(wait_for_text(file))
        process.parent().kill()
        assert fork.wait() == -signal.SIGKILL
        fork.terminate()
        assert psutil.wait_procs([process], timeout=10)[1] == []
        with pytest.raises(OSError):
            server.fork("exit 0", [file.fileno()])
    server.end()
