"""What a process and all that it started cost."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INTERVAL = 0.05
"""Seconds between two looks at the memory."""


@dataclass(frozen=True)
class Cost:
    """Cost of one call.

    Attributes
    ----------
    wall, cpu : float
        Seconds; those of the CPU of all processes together.
    memory : float
        Highest sum of the resident memory of all processes at one moment, GB (10^9 bytes). What processes
        share, such as the code of libraries, counts once per process.
    """

    wall: float
    cpu: float
    memory: float


def measured(command: Sequence[str], *, cwd: Path | None = None) -> Cost:
    """Run a command to its end; raises CalledProcessError when that is not 0."""
    started = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, cwd=cwd)
    seen: dict[psutil.Process, float] = {}
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(INTERVAL):
            peak = max(peak, _look(process, seen))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        code = process.wait()
    finally:
        ended.set()
        watcher.join()
    wall = time.perf_counter() - started
    if code:
        raise subprocess.CalledProcessError(code, command)
    return Cost(wall, sum(seen.values()), peak / 1e9)


def _look(process: psutil.Process, seen: dict[psutil.Process, float]) -> int:
    """Resident memory of a process and what it started, bytes; notes the CPU seconds of each."""
    total = 0
    try:
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            with member.oneshot():
                total += member.memory_info().rss
                times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        seen[member] = times.user + times.system
    return total
