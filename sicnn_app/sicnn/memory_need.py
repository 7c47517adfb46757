"""How much host memory an estimation takes, and how to make do with less."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from sicnn_app.errors import TryAgainError
from sicnn_app.settings import EstimationSettings, NetworkSettings
from sicnn_app.sicnn.memory_fallback import Attempt, smaller, tiles_of
from sicnn_app.sicnn.rewrite import VOXELS_AT_ONCE
from sicnn_app.sicnn.tiles import tile_gap, tile_length

DEFAULT = NetworkSettings()

FIXED_BYTES = 110_000_000
"""Libraries that the first convolution loads, and what the allocator keeps."""

VALUE = 4
"""Bytes of a float32."""

SIGNAL_COPIES = 7
"""Arrays of the size of all signals in the box at once: signals, training signals, predictions, tiles ..."""

VOXEL_COPIES = 12
"""Arrays of one value per voxel: mask, weight, noise, normaliser, maps, counts."""

DRAWN_COPIES = 2
"""Arrays of the size of all signals that every member of an ensemble takes besides."""

STEP_COPIES = {"width": 11, "bvals": 19, "rician": 11}
"""Values per voxel of a batch that one optimiser step keeps: times the channels of a hidden layer, and
times the b-values; the Rician model adds to the latter."""

FURTHER_COPIES = {"layer": 8, "channel": 6}
"""The same for the channels of every layer that a network has more than the default one, and for every
channel that its layers are wider."""

WEIGHT_COPIES = 8
"""Of all weights: the network's, their averages, gradients, what Adam keeps, the best and those being saved.
The fixed bytes hold those of the default network."""

SLICE_COPIES = {"width": 5, "bvals": 3}
"""The same per voxel of a slice that is predicted."""

NEIGHBOUR_COPIES = {"means": 12, "floor": 18}
"""Values per b-value and voxel of the slices that are rewritten together; taking the noise floor off adds
the latter."""


def needed_bytes(
    shape: tuple[int, int, int],
    n_bvals: int,
    settings: EstimationSettings,
    *,
    attempt: Attempt | None = None,
) -> int:
    """Host memory that :func:`sicnn_app.sicnn.estimate.estimate` takes besides its arguments.

    Parameters
    ----------
    shape : tuple of int
        (X, Y, slices) of the bounding box of the mask; the whole volume gives an upper limit.
    n_bvals : int
    settings : EstimationSettings
    attempt : Attempt, optional
        Device, batch and tiles; by default those of the settings on the CPU.

    Returns
    -------
    int
        Bytes. Measured peaks lie between 0.7 and 1.15 times this on the CPU; of a CUDA device, whose own
        libraries are not counted, only what lies on the host.
    """
    attempt = Attempt("cpu", settings.batch_size) if attempt is None else attempt
    size_x, size_y, slices = shape
    voxels = size_x * size_y * slices
    members = settings.ensemble
    copies = SIGNAL_COPIES + (DRAWN_COPIES if members > 1 else 0)
    arrays = FIXED_BYTES + VALUE * voxels * members * (copies * n_bvals + VOXEL_COPIES)
    if attempt.device != "cpu":
        return arrays
    width = settings.network.width
    per_bval = STEP_COPIES["bvals"] + (STEP_COPIES["rician"] if settings.predicts_floor else 0)
    gap = tile_gap(settings.network)
    tile = math.prod(tile_length(length, attempt.tile_size, gap) for length in (size_x, size_y))
    batch = min(attempt.batch_size, tiles_of(shape, attempt.tile_size))
    step = members * batch * tile * (_step_values(settings.network) + per_bval * n_bvals)
    step += members * WEIGHT_COPIES * _further_weights(settings.network, n_bvals)
    one_slice = members * size_x * size_y * (SLICE_COPIES["width"] * width + SLICE_COPIES["bvals"] * n_bvals)
    together = max(size_x * size_y, min(members * voxels, VOXELS_AT_ONCE))
    copies = NEIGHBOUR_COPIES["means"] + (NEIGHBOUR_COPIES["floor"] if settings.takes_floor_off_means else 0)
    rewriting = together * copies * n_bvals if settings.described.searches_neighbours else 0
    return arrays + VALUE * max(step, one_slice, rewriting)


def _step_values(network: NetworkSettings) -> int:
    """Values per voxel of a batch that one optimiser step keeps of the hidden layers."""
    layers, channels = max(0, network.depth - DEFAULT.depth), max(0, network.width - DEFAULT.width)
    copies = STEP_COPIES["width"] + FURTHER_COPIES["layer"] * layers
    return copies * network.width + FURTHER_COPIES["channel"] * channels


def _further_weights(network: NetworkSettings, n_bvals: int) -> int:
    """Weights that a network has more than the default one."""
    found, usual = (
        shape.kernel_size**2 * shape.width * (n_bvals + (shape.depth - 1) * shape.width)
        for shape in (network, DEFAULT)
    )
    return max(0, found - usual)


def least_bytes(shape: tuple[int, int, int], n_bvals: int, settings: EstimationSettings) -> int:
    """:func:`needed_bytes` with the smallest batches and tiles: with less, nothing can be estimated."""
    asked = Attempt("cpu", settings.batch_size)
    return min(
        needed_bytes(shape, n_bvals, settings, attempt=attempt) for attempt in (asked, *smaller(asked, shape))
    )


def within_limit(
    asked: Attempt,
    shape: tuple[int, int, int],
    n_bvals: int,
    settings: EstimationSettings,
    limit: int | None,
) -> Attempt:
    """The largest attempt from ``asked`` on that takes at most ``limit`` bytes; None: no limit.

    Raises
    ------
    TryAgainError
        When even the smallest one takes more.
    """
    if limit is None:
        return asked
    needed = 0
    for attempt in (asked, *smaller(asked, shape)):
        needed = needed_bytes(shape, n_bvals, settings, attempt=attempt)
        if needed <= limit:
            return attempt
    smaller_one = " or use a smaller --ensemble" if settings.ensemble > 1 else ""
    raise TryAgainError(
        f"the estimation takes at least about {needed / 1e9:.2g} GB of memory, and {max(limit, 0) / 1e9:.2g} "
        f"are left for it: allow more (--mem, or the limit of the container or job){smaller_one}"
    )


def attempts(
    first: Attempt,
    asked: Attempt,
    shape: tuple[int, int, int],
    n_bvals: int,
    settings: EstimationSettings,
    *,
    fall_back: bool,
    limit: int | None,
) -> Iterator[Attempt]:
    """``first``, then ever smaller ones, and in the end the CPU in the place of a CUDA device if it may."""
    yield first
    yield from smaller(first, shape)
    if fall_back and first.device != "cpu":
        on_cpu = within_limit(replace(asked, device="cpu"), shape, n_bvals, settings, limit)
        yield on_cpu
        yield from smaller(on_cpu, shape)
