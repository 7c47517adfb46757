"""Similar neighbours: voxels of the search window whose predicted curves agree."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from sicnn_app.settings import SimilaritySettings

GAUSSIAN_REACH = 2.0
"""Thresholds; neighbours farther off weigh less than 2 % and are left out."""


class NeighbourSums(NamedTuple):
    """Sums over the similar neighbours of every voxel.

    Attributes
    ----------
    values : Tensor, shape (slices, C, X, Y), weighted
    weights : Tensor, shape (slices, X, Y)
    counts : Tensor, shape (slices, X, Y)
        Voxels within the threshold, the voxel itself included; 0 outside the mask.
    around : Tensor, shape (2, slices, X, Y)
        Voxels within half the threshold, and voxels with a weight: those within :data:`GAUSSIAN_REACH`
        thresholds where weights are Gaussian.
    """

    values: Tensor
    weights: Tensor
    counts: Tensor
    around: Tensor


def similar_neighbour_sum(
    curves: Tensor,
    values: Tensor,
    mask: Tensor,
    threshold: Tensor,
    radius: int,
    *,
    similarity: SimilaritySettings,
    s0: Tensor | None = None,
) -> NeighbourSums:
    """Sum values over the similar neighbours of every voxel.

    N(v) holds the voxels u of the square window around v, inside the mask and in the same slice, whose
    distance |curve_u - curve_v| over the b-values is below min(threshold_u, threshold_v) and, with
    ``similarity.s0_ratio``, whose S0 is neither brighter nor darker than that ratio; v itself always
    belongs to it. The smaller threshold keeps a noisy dark voxel from taking in its bright, precise
    neighbours.

    Parameters
    ----------
    curves : Tensor, shape (slices, B, X, Y)
        Predicted signals that are compared.
    values : Tensor, shape (slices, C, X, Y), that are summed
    radius : int
        Half width of the window in voxels.
    similarity : SimilaritySettings
        The distance: the largest difference over b, or the root mean square. The weights: 1 within the
        threshold t, or exp(-(distance / t)^2) up to :data:`GAUSSIAN_REACH` thresholds.
    s0 : Tensor, shape (slices, X, Y), optional
        Above 0 inside the mask; needed for ``similarity.s0_ratio``.

    Notes
    -----
    Every pair is visited once: shifts (dx, dy) and (-dx, -dy) share their distances. Memory is
    a few copies of the inputs, whatever the radius.
    """
    inside = mask.to(values.dtype)
    # Squares are compared; 0 stands for nothing but the voxel itself.
    limits = threshold.square()
    gaussian = similarity.weighting == "gaussian"
    reach = GAUSSIAN_REACH**2 if gaussian else 1.0
    brightness = None
    if similarity.s0_ratio is not None:
        if s0 is None:
            raise ValueError("a limit on the ratio of S0 needs the S0 of every voxel")
        brightness = torch.where(mask, s0, 1.0).log()
        most = math.log(similarity.s0_ratio)
    counts = inside.repeat(2, 1, 1, 1)
    found = NeighbourSums(values * inside[:, None], inside.clone(), inside.clone(), counts)
    for here, there in _pairs((mask.shape[1], mask.shape[2]), radius):
        all_here, all_there = ((where[0], slice(None), *where[1:]) for where in (here, there))
        squared = (curves[all_there] - curves[all_here]).square()
        distance = squared.amax(dim=1) if similarity.distance == "maximum" else squared.mean(dim=1)
        limit = torch.minimum(limits[here], limits[there])
        allowed = inside[here] * inside[there]
        if brightness is not None:
            allowed = allowed * ((brightness[here] - brightness[there]).abs() <= most)
        near = (distance < limit) * allowed
        weights = reached = near
        if gaussian:
            reached = (distance < reach * limit) * allowed
            weights = torch.exp(-distance / limit.clamp_min(torch.finfo(limit.dtype).tiny)) * reached
        found.values[all_here] += weights[:, None] * values[all_there]
        found.values[all_there] += weights[:, None] * values[all_here]
        close = (distance < limit / 4) * allowed
        totals = (found.weights, found.counts, *found.around)
        for total, part in zip(totals, (weights, near, close, reached), strict=True):
            total[here] += part
            total[there] += part
    return found


def _pairs(size: tuple[int, int], radius: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """For every shift of the window, one of each opposite two: where the voxels and their partners lie."""
    size_x, size_y = size
    reach_x, reach_y = min(radius, size_x - 1), min(radius, size_y - 1)
    for dx in range(reach_x + 1):
        for dy in range(-reach_y, reach_y + 1):
            if dx == 0 and dy <= 0:
                continue
            yield (
                (slice(None), slice(0, size_x - dx), slice(max(0, -dy), size_y - max(0, dy))),
                (slice(None), slice(dx, size_x), slice(max(0, dy), size_y - max(0, -dy))),
            )


def crop_to_mask(mask: Tensor) -> tuple[Tensor, slice, slice]:
    """Indices of the slices that hold mask voxels, and the bounding box of all of them along X and Y.

    The mask, shape (slices, X, Y), is not empty.
    """
    kept, along_x, along_y = (
        torch.nonzero(mask.any(dim=others)).flatten() for others in ((1, 2), (0, 2), (0, 1))
    )
    return kept, slice(int(along_x[0]), int(along_x[-1]) + 1), slice(int(along_y[0]), int(along_y[-1]) + 1)
