"""Wall-clock time, processor time and peak memory of the stages of a program."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any

import sicnn_app
from benchmarks.common.cells import cpu_name
from sicnn_app.system.memory import forget_peak, peak_memory, resident_memory

OUTSIDE = "rest"
"""Stage of whatever no stage was named for."""

MEASURES = ("wall", "cpu", "host", "device")
"""Seconds, seconds of all threads, GB of resident memory, GB that torch holds on a CUDA device."""


class Stages:
    """Clocks that are switched from stage to stage.

    A stage inside another one stops the clocks of the outer one: times add up to the whole. Memory is the
    highest of the stage; on CUDA the device is waited for at every switch.

    Attributes
    ----------
    found : dict of str to dict
        :data:`MEASURES` of every stage so far.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, float]] = {}
        self._names = [OUTSIDE]
        self._start()

    def _start(self) -> None:
        forget_peak()
        self._since = time.perf_counter(), time.process_time()

    def _settle(self) -> None:
        """Book what happened since the last switch on the stage under way."""
        device = _device_peak()
        wall, cpu = self._since
        passed = time.perf_counter() - wall, time.process_time() - cpu
        row = self.found.setdefault(self._names[-1], dict.fromkeys(MEASURES, 0.0))
        row["wall"] += passed[0]
        row["cpu"] += passed[1]
        row["host"] = max(row["host"], peak_memory())
        row["device"] = max(row["device"], device)
        self._start()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Context whose time and memory belong to the stage ``name``; a stage may come several times."""
        self._settle()
        self._names.append(name)
        try:
            yield
        finally:
            self._settle()
            self._names.pop()

    def finish(self) -> dict[str, dict[str, float]]:
        """Book the rest and return everything."""
        self._settle()
        return self.found

    def watch(self, module: Any, attribute: str, name: str) -> None:
        """Make every call of a module's function a stage.

        Raises
        ------
        AttributeError
            When the module has no such function: the stages have to be named anew.
        """
        function = getattr(module, attribute)

        @wraps(function)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            with self.stage(name):
                return function(*args, **kwargs)

        setattr(module, attribute, clocked)


def _device_peak() -> float:
    """Highest memory, GB, that torch held on CUDA since the last call; 0 where it was not used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return 0.0
    peak = 0
    for index in range(torch.cuda.device_count()):
        torch.cuda.synchronize(index)
        peak = max(peak, torch.cuda.max_memory_allocated(index))
        torch.cuda.reset_peak_memory_stats(index)
    return peak / 1e9


def wait_for(device: str) -> None:
    """Until a CUDA device has done all it was given; nothing to wait for on the CPU."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize(device)


def timed(work: Callable[[], object], device: str = "cpu") -> tuple[float, float]:
    """Wall-clock and processor seconds of one call."""
    wait_for(device)
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wait_for(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_of(work: Callable[[], object]) -> tuple[float, float]:
    """Memory that a call takes besides what was held, GB: of the host, and of a CUDA device."""
    # What is held now is the peak of nothing being done; the first reading goes back further.
    _device_peak()
    held = _device_peak()
    _give_back()
    before = resident_memory() / 1e9
    forget_peak()
    work()
    return peak_memory() - before, _device_peak() - held


def _give_back() -> None:
    """Hand memory that was freed back to the system, where the C library can: it would hide what is taken."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def device_name(device: str) -> str:
    """Model of the processor, or of the CUDA device and the processor beside it."""
    if device == "cpu":
        return cpu_name()
    import torch

    return f"{torch.cuda.get_device_name(device)}, {cpu_name()}"


def code_digest() -> str:
    """Short hash of the app's code: results of other code are none of this one's."""
    root = Path(sicnn_app.__file__).parent
    found = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:12]
