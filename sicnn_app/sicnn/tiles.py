"""Tiles: slices cut into pieces of equal size, at other seams in every epoch."""

from __future__ import annotations

import math

import torch.nn.functional as functional
from torch import Tensor

from sicnn_app.settings import NetworkSettings

TILE_SIZE = 64
"""Voxels; slices larger than about this are cut, so that an epoch has several optimiser steps."""


def tile_gap(network: NetworkSettings) -> int:
    """Zeros between the two ends of a slice that is shifted in a circle: more than the kernels reach.

    Every layer lets a voxel see half a kernel farther; one voxel more keeps the ends apart for a network of
    single voxels too.
    """
    return network.depth * (network.kernel_size // 2) + 1


def tile_count(length: int, tile_size: int = TILE_SIZE) -> int:
    """Number of tiles along an axis; an axis of about one tile is not cut."""
    return max(1, round(length / tile_size))


def tile_length(length: int, tile_size: int, gap: int) -> int:
    """Voxels of each tile along an axis that all tiles together cover, and the gap where it is cut."""
    count = tile_count(length, tile_size)
    return length if count == 1 else math.ceil((length + gap) / count)


def cut_tiles(values: Tensor, shift: list[int], tile_size: int, gap: int) -> Tensor:
    """Cut slices into equal tiles after shifting them in a circle.

    The seams move with the shift, so no voxel stays at one, and no tile is padded beyond the gap.

    Parameters
    ----------
    values : Tensor, shape (slices, C, X, Y)
        They become tiles of shape (tiles, C, tile X, tile Y).
    shift : list of two int
        Voxels along X and Y, drawn anew in every epoch; ignored along an axis that is not cut.
    tile_size, gap : int
        Voxels, the size about; see :func:`tile_gap`.
    """
    slices, channels, size_x, size_y = values.shape
    count_x, count_y = tile_count(size_x, tile_size), tile_count(size_y, tile_size)
    tile_x, tile_y = tile_length(size_x, tile_size, gap), tile_length(size_y, tile_size, gap)
    padded = functional.pad(values, (0, count_y * tile_y - size_y, 0, count_x * tile_x - size_x))
    for axis, count, tile, distance in ((2, count_x, tile_x, shift[0]), (3, count_y, tile_y, shift[1])):
        if count > 1:
            padded = padded.roll(distance % (count * tile), dims=axis)
    tiles = padded.reshape(slices, channels, count_x, tile_x, count_y, tile_y).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(-1, channels, tile_x, tile_y)
