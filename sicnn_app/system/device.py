"""The device asked for, or a clear stop; and the threads that work on it."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch

from sicnn_app.errors import DeviceError, TryAgainError


def choose_device(requested: str) -> tuple[str, str]:
    """Resolve ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` to ``cpu`` or ``cuda:N``, and say what decided it.

    Raises DeviceError when a CUDA device was asked for and is not there: it never falls back silently.
    """
    if requested == "cpu":
        return "cpu", "--device cpu"
    if not torch.cuda.is_available():
        if requested == "auto":
            return "cpu", "no CUDA device was found"
        raise DeviceError(
            f"--device {requested}: no CUDA device is available; give the container its GPU "
            "(docker run --gpus all, apptainer run --nv) or use --device cpu"
        )
    index = int(requested.partition(":")[2] or 0)
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"--device {requested}: there are {count} CUDA devices, numbered from 0")
    return f"cuda:{index}", f"{torch.cuda.get_device_name(index)} was found"


def describe_device(device: str) -> str:
    """``cuda:0 NVIDIA H200`` for a CUDA device, ``cpu`` unchanged."""
    return device if device == "cpu" else f"{device} {torch.cuda.get_device_name(torch.device(device))}"


def visible_devices() -> tuple[str, ...]:
    """CUDA devices of this process, as ``CUDA_VISIBLE_DEVICES`` names them; none without a GPU."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = named.split(",") if named else map(str, range(count))
    return tuple(name.strip() for name in names)[:count]


def limit_threads(threads: int) -> None:
    """Use this many CPU threads, and sums of one order on CUDA as far as it offers them."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """:func:`limit_threads` for a while; all as before afterwards."""
    before = torch.get_num_threads(), torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    limit_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before[1:]


NO_MEMORY = ("out of memory", "not enough memory", "ALLOC_FAILED")
"""Words of CUDA, the CPU allocator and the CUDA libraries say, in errors that have no class of their own."""


def is_out_of_memory(error: BaseException) -> bool:
    """True for an error that says that the device, or the machine, has no memory left.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried ..."))
    True
    >>> is_out_of_memory(RuntimeError("shape mismatch"))
    False
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in NO_MEMORY)
    )


class OnDevice(Protocol):
    """A way to do something on a device; as text, how much it does at once."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda:N``."""


Way = TypeVar("Way", bound=OnDevice)
Result = TypeVar("Result")


def first_that_fits(
    ways: Iterable[Way],
    work: Callable[[Way, list[str]], Result],
    no_memory: Callable[[Way], str],
    *,
    given_up: Sequence[str] = (),
    again: Callable[[Way], None] | None = None,
) -> tuple[Result, Way, list[str]]:
    """Do something in the first of several ways that does not run out of memory.

    There is one way at least; the next is asked for when there was too little memory for the one before.

    Parameters
    ----------
    work : callable
        Gets the way and what was given up before it.
    no_memory : callable
        What the error says, a TryAgainError, when the last way took too much.
    given_up : sequence of str
        What was given up before the first way.
    again : callable, optional
        Called with every way after the first, before the work.

    Returns
    -------
    The result, the way that had enough memory, and one line for every way that had not.
    """
    given_up, remaining = list(given_up), iter(ways)
    way = next(remaining)
    while True:
        try:
            return work(way, given_up), way, given_up
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            following = next(remaining, None)
            if following is None:
                raise TryAgainError(no_memory(way)) from error
        given_up = [*given_up, f"{way.device} ran out of memory with {way}"]
        # Outside the handler: the error holds what the work had made.
        gc.collect()
        if torch.device(way.device).type == "cuda":
            torch.cuda.empty_cache()
        way = following
        if again is not None:
            again(way)
