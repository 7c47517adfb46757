"""The surroundings of a training that decide its last bits: generators, algorithms, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

VOXELS_PER_THREAD = 8192
"""Of an optimiser step: with less to share, CPU threads wait for one another more than they compute."""


@contextmanager
def reproducible(device: torch.device, seed: int) -> Iterator[None]:
    """Seeded generators and, on the CPU, deterministic algorithms; both as before afterwards."""
    on_cuda = device.type == "cuda"
    algorithms = torch.get_deterministic_debug_mode()
    # A module that gives its flag a property, of which its types know nothing.
    memory: Any = torch.utils.deterministic
    filled = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        else:
            # Its newer door, use_deterministic_algorithms, loads torch's compiler.
            torch.set_deterministic_debug_mode("error")
            # Nothing here reads memory that it has not written, so nobody need fill it.
            memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            memory.fill_uninitialized_memory = filled
            torch.set_deterministic_debug_mode(algorithms)


@contextmanager
def threads_for(voxels: int) -> Iterator[None]:
    """As many CPU threads as a step of so many voxels keeps busy, at least one; as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, min(before, voxels // VOXELS_PER_THREAD)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
