"""Tiles: slices cut into pieces of equal size, at other seams in every epoch."""

from __future__ import annotations

import math

import torch.nn.functional as functional
from torch import Tensor

TILE_SIZE = 64
"""Voxels; slices larger than about this are cut, so that an epoch has several optimiser steps."""

TILE_GAP = 4
"""Zeros between the two ends of a slice that is shifted in a circle: the reach of the kernels."""


def tile_grid(length: int, tile_size: int = TILE_SIZE) -> tuple[int, int]:
    """Number of tiles along an axis and the size of each; an axis of about one tile is not cut."""
    count = max(1, round(length / tile_size))
    return (1, length) if count == 1 else (count, math.ceil((length + TILE_GAP) / count))


def cut_tiles(values: Tensor, shift: list[int], tile_size: int = TILE_SIZE) -> Tensor:
    """Cut slices into equal tiles after shifting them in a circle.

    The seams move with the shift, so no voxel stays at one, and no tile is padded beyond the gap.

    Parameters
    ----------
    values : Tensor, shape (slices, C, X, Y)
    shift : list of two int
        Voxels along X and Y, drawn anew in every epoch; ignored along an axis that is not cut.
    tile_size : int
        Voxels, about.

    Returns
    -------
    Tensor, shape (tiles, C, tile X, tile Y)
    """
    slices, channels, size_x, size_y = values.shape
    (count_x, tile_x), (count_y, tile_y) = tile_grid(size_x, tile_size), tile_grid(size_y, tile_size)
    padded = functional.pad(values, (0, count_y * tile_y - size_y, 0, count_x * tile_x - size_x))
    for axis, count, tile, distance in ((2, count_x, tile_x, shift[0]), (3, count_y, tile_y, shift[1])):
        if count > 1:
            padded = padded.roll(distance % (count * tile), dims=axis)
    tiles = padded.reshape(slices, channels, count_x, tile_x, count_y, tile_y).permute(0, 2, 4, 1, 3, 5)
    return tiles.reshape(-1, channels, tile_x, tile_y)
