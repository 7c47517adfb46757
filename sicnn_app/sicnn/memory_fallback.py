"""How much memory a training takes, what is tried with less, and what next when memory runs out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch

from sicnn_app.errors import TryAgainError
from sicnn_app.settings import EstimationSettings, NetworkSettings
from sicnn_app.sicnn.iterate import Save
from sicnn_app.sicnn.rewrite import VOXELS_AT_ONCE
from sicnn_app.sicnn.tiles import TILE_SIZE, tile_count, tile_gap, tile_length
from sicnn_app.system.checkpoints import TrainingCheckpoint
from sicnn_app.system.device import first_that_fits

STATE_LAYOUT = 4
"""Raised whenever the meaning of a saved state changes."""

SMALLER_TILES = (32, 16)
"""Voxels; what follows when a batch is down to one tile."""

MEASURED = NetworkSettings(width=32, depth=3, kernel_size=3)
"""The network whose memory the numbers below were measured with, whatever the default one is."""

FIXED_BYTES = 35_000_000
"""Libraries that the first convolution loads, and what the allocator keeps."""

VALUE = 4
"""Bytes of a float32."""

SIGNAL_COPIES = 12
"""Arrays of the size of all signals in the box at once: signals, their noise, training signals, predictions,
tiles, and at the end means of similar voxels and residuals ..."""

VOXEL_COPIES = 12
"""Arrays of one value per voxel: mask, weight, noise, normaliser, maps, counts."""

DRAWN_COPIES = 2
"""Arrays of the size of all signals that every member of an ensemble takes besides."""

STEP_COPIES = {"width": 11, "bvals": 19, "rician": 11}
"""Values per voxel of a batch that one optimiser step keeps: times the channels of a hidden layer, and
times the b-values; the Rician model adds to the latter."""

FURTHER_COPIES = {"layer": 8, "channel": 6}
"""The same for the channels of every layer that a network has more than the measured one, and for every
channel that its layers are wider."""

WEIGHT_COPIES = 8
"""Of all weights: the network's, their averages, gradients, what Adam keeps, the best and those being saved.
The fixed bytes hold those of the measured network."""

SLICE_COPIES = {"width": 5, "bvals": 3}
"""The same per voxel of a slice that is predicted."""

NEIGHBOUR_COPIES = {"means": 12, "floor": 18}
"""Values per b-value and voxel of the slices that are rewritten together; taking the noise floor off adds
the latter."""


@dataclass(frozen=True)
class Attempt:
    """One way to train: where, and how much at once; everything else is the same for all."""

    device: str
    batch_size: int
    tile_size: int = TILE_SIZE

    def __str__(self) -> str:
        tiles = "1 tile" if self.batch_size == 1 else f"{self.batch_size} tiles"
        return f"{tiles} of {self.tile_size} x {self.tile_size} voxels at once"


Shape = tuple[int, int, int]
"""(X, Y, slices) of the bounding box of a mask."""

Result = TypeVar("Result")


def tiles_of(shape: Shape, tile_size: int) -> int:
    """Tiles of a box."""
    return tile_count(shape[0], tile_size) * tile_count(shape[1], tile_size) * shape[2]


def ever_smaller(attempt: Attempt, shape: Shape) -> Iterator[Attempt]:
    """The attempt, and those on its device that take less memory at once, as far as that changes anything."""
    yield attempt
    seen = tiles_of(shape, attempt.tile_size)
    batch = min(attempt.batch_size, seen)
    while batch > 1:
        batch //= 2
        yield replace(attempt, batch_size=batch)
    for size in SMALLER_TILES:
        if size < attempt.tile_size and tiles_of(shape, size) > seen:
            seen = tiles_of(shape, size)
            yield replace(attempt, batch_size=1, tile_size=size)


def needed_bytes(
    shape: Shape, n_bvals: int, settings: EstimationSettings, *, attempt: Attempt | None = None
) -> int:
    """Host memory, bytes, that :func:`sicnn_app.sicnn.estimate.estimate` takes besides its arguments.

    The shape of the whole volume gives an upper limit. Without an attempt, batch and tiles are those of the
    settings, on the CPU. Measured peaks lie between 0.7 and 1.15 times this on the CPU; of a CUDA device,
    whose own libraries are not counted, only what lies on the host.
    """
    attempt = attempt or Attempt("cpu", settings.batch_size)
    network, members = settings.network, settings.ensemble
    size_x, size_y, slices = shape
    voxels = size_x * size_y * slices
    copies = SIGNAL_COPIES + (DRAWN_COPIES if members > 1 else 0)
    arrays = FIXED_BYTES + VALUE * voxels * members * (copies * n_bvals + VOXEL_COPIES)
    if attempt.device != "cpu":
        return arrays
    per_bval = STEP_COPIES["bvals"] + (STEP_COPIES["rician"] if settings.predicts_floor else 0)
    gap = tile_gap(network)
    tile = math.prod(tile_length(length, attempt.tile_size, gap) for length in (size_x, size_y))
    batch = min(attempt.batch_size, tiles_of(shape, attempt.tile_size))
    step = members * batch * tile * (_step_values(network) + per_bval * n_bvals)
    step += members * WEIGHT_COPIES * max(0, _weights(network, n_bvals) - _weights(MEASURED, n_bvals))
    per_voxel = SLICE_COPIES["width"] * network.width + SLICE_COPIES["bvals"] * n_bvals
    one_slice = members * size_x * size_y * per_voxel
    together = max(size_x * size_y, min(members * voxels, VOXELS_AT_ONCE))
    copies = NEIGHBOUR_COPIES["means"] + (NEIGHBOUR_COPIES["floor"] if settings.takes_floor_off_means else 0)
    rewriting = together * copies * n_bvals if settings.described.searches_neighbours else 0
    return arrays + VALUE * max(step, one_slice, rewriting)


def _step_values(network: NetworkSettings) -> int:
    """Values per voxel of a batch that one optimiser step keeps of the hidden layers."""
    layers, channels = max(0, network.depth - MEASURED.depth), max(0, network.width - MEASURED.width)
    copies = STEP_COPIES["width"] + FURTHER_COPIES["layer"] * layers
    return copies * network.width + FURTHER_COPIES["channel"] * channels


def _weights(network: NetworkSettings, n_bvals: int) -> int:
    """Weights of the convolutions of a network."""
    return network.kernel_size**2 * network.width * (n_bvals + (network.depth - 1) * network.width)


def within_limit(
    asked: Attempt, shape: Shape, n_bvals: int, settings: EstimationSettings, limit: int | None
) -> Attempt:
    """The largest attempt from ``asked`` on that takes at most ``limit`` bytes; None: no limit.

    Raises
    ------
    TryAgainError
        When even the smallest one takes more.
    """
    needed = 0
    for attempt in ever_smaller(asked, shape):
        needed = needed_bytes(shape, n_bvals, settings, attempt=attempt)
        if limit is None or needed <= limit:
            return attempt
    smaller_one = " or use a smaller --ensemble" if settings.ensemble > 1 else ""
    raise TryAgainError(
        f"the estimation takes at least about {needed / 1e9:.2g} GB of memory, and "
        f"{max(limit or 0, 0) / 1e9:.2g} are "
        f"left for it: allow more (--mem, or the limit of the container or job){smaller_one}"
    )


def train_what_fits(
    train: Callable[[Attempt, Save | None, dict[str, Any] | None], Result],
    contents: Iterable[bytes | np.ndarray],
    *,
    first: Attempt,
    shape: Shape,
    n_bvals: int,
    settings: EstimationSettings,
    no_memory: Callable[[Attempt], str],
    checkpoint: TrainingCheckpoint | None,
    fall_back: bool,
    memory_limit: int | None,
    again: Callable[[Attempt], None] | None = None,
) -> tuple[Result, Attempt, list[str]]:
    """Train in the first attempt that does not run out of memory, from where an earlier process left off.

    Parameters
    ----------
    train : callable (attempt, save, saved)
        ``save`` keeps a state in the checkpoint; ``saved`` is one of this very training, to go on from.
    contents : iterable
        All that decides the bits of the result, besides the settings, the CPU model and CUDA.
    first : Attempt
        :func:`within_limit` of what is asked for; ever smaller ones follow, and in the end, with
        ``fall_back``, the CPU in the place of a CUDA device.
    no_memory, again
        As for :func:`sicnn_app.system.device.first_that_fits`, which says what is returned and raised.
    """
    asked = Attempt(first.device, settings.batch_size)
    given_up = [] if first == asked else [f"{first} instead of {asked}, to stay within the memory allowed"]
    identity = _identity(contents, first, settings)
    saved = None if checkpoint is None else checkpoint.load()
    if saved is not None and saved.get("identity") != identity:
        saved = None
    if saved is not None:
        first, given_up = Attempt(**saved["attempt"]), saved["given_up"]

    def attempts() -> Iterator[Attempt]:
        yield from ever_smaller(first, shape)
        if fall_back and first.device != "cpu":
            on_cpu = within_limit(replace(asked, device="cpu"), shape, n_bvals, settings, memory_limit)
            yield from ever_smaller(on_cpu, shape)

    def work(way: Attempt, given_up: list[str]) -> Result:
        labels = {"identity": identity, "attempt": asdict(way), "given_up": given_up}
        save = None if checkpoint is None else lambda state: checkpoint.save({**labels, "training": state})
        return train(way, save, saved["training"] if saved is not None and way == first else None)

    return first_that_fits(attempts(), work, no_memory, given_up=given_up, again=again)


def _identity(contents: Iterable[bytes | np.ndarray], first: Attempt, settings: EstimationSettings) -> str:
    found = hashlib.sha256()
    for content in contents:
        found.update(content)
    found.update(repr((STATE_LAYOUT, torch.__version__, torch.get_num_threads(), first, settings)).encode())
    return found.hexdigest()
