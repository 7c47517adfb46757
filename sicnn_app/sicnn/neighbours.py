"""Similar neighbours: voxels of the search window whose predicted curves agree."""

from __future__ import annotations

import torch
from torch import Tensor


def similar_neighbour_sum(
    curves: Tensor, values: Tensor, mask: Tensor, threshold: Tensor, radius: int
) -> tuple[Tensor, Tensor]:
    """Sum values over the similar neighbours of every voxel.

    N(v) holds the voxels u of the square window around v, inside the mask and in the same slice,
    with rms_b(curve_u - curve_v) < min(threshold_u, threshold_v); v itself always belongs to it.
    The smaller threshold keeps a noisy dark voxel from taking in its bright, precise neighbours.

    Parameters
    ----------
    curves : Tensor, shape (slices, B, X, Y)
        Predicted signals that are compared.
    values : Tensor, shape (slices, C, X, Y)
        What is summed.
    mask : Tensor, shape (slices, X, Y), bool
    threshold : Tensor, shape (slices, X, Y)
    radius : int
        Half width of the window in voxels.

    Returns
    -------
    sums : Tensor, shape (slices, C, X, Y)
    counts : Tensor, shape (slices, X, Y)
        Size of N(v), v included; 0 outside the mask.

    Notes
    -----
    Every pair is visited once: shifts (dx, dy) and (-dx, -dy) share their distances. Memory is
    a few copies of the inputs, whatever the radius.
    """
    inside = mask.to(values.dtype)
    squared_threshold = threshold.square()
    sums = values * inside[:, None]
    counts = inside.clone()
    size_x, size_y = mask.shape[1:]
    for dx in range(min(radius, size_x - 1) + 1):
        for dy in range(-min(radius, size_y - 1), min(radius, size_y - 1) + 1):
            if dx == 0 and dy <= 0:
                continue
            here = (slice(None), slice(0, size_x - dx), slice(max(0, -dy), size_y - max(0, dy)))
            there = (slice(None), slice(dx, size_x), slice(max(0, dy), size_y - max(0, -dy)))
            here_all = (here[0], slice(None), *here[1:])
            there_all = (there[0], slice(None), *there[1:])
            distance = (curves[there_all] - curves[here_all]).square().mean(dim=1)
            limit = torch.minimum(squared_threshold[here], squared_threshold[there])
            similar = (distance < limit).to(values.dtype) * inside[here] * inside[there]
            sums[here_all] += similar[:, None] * values[there_all]
            sums[there_all] += similar[:, None] * values[here_all]
            counts[here] += similar
            counts[there] += similar
    return sums, counts


def crop_to_mask(mask: Tensor) -> tuple[Tensor, slice, slice]:
    """Slices that hold mask voxels and the bounding box of all of them.

    Parameters
    ----------
    mask : Tensor, shape (slices, X, Y), bool, not empty

    Returns
    -------
    kept : Tensor of slice indices
    box_x, box_y : slice
    """
    kept = torch.nonzero(mask.any(dim=2).any(dim=1)).flatten()
    along_x = torch.nonzero(mask.any(dim=2).any(dim=0)).flatten()
    along_y = torch.nonzero(mask.any(dim=1).any(dim=0)).flatten()
    return kept, slice(int(along_x[0]), int(along_x[-1]) + 1), slice(int(along_y[0]), int(along_y[-1]) + 1)
