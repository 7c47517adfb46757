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

PAIRS_AT_ONCE = 2**17
"""Of voxels with those of a sample: a few copies that stay in caches."""


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
    brightness = _brightness(similarity, mask, s0)
    counts = inside.repeat(2, 1, 1, 1)
    found = NeighbourSums(values * inside[:, None], inside.clone(), inside.clone(), counts)
    for here, there in _pairs((mask.shape[1], mask.shape[2]), radius):
        all_here, all_there = ((where[0], slice(None), *where[1:]) for where in (here, there))
        squared = (curves[all_there] - curves[all_here]).square()
        distance = squared.amax(dim=1) if similarity.distance == "maximum" else squared.mean(dim=1)
        limit = torch.minimum(limits[here], limits[there])
        allowed = inside[here] * inside[there]
        if brightness is not None:
            allowed = allowed * _as_bright(similarity, brightness[here], brightness[there])
        near, weights, reached = _weighed(similarity, distance, limit, allowed)
        found.values[all_here] += weights[:, None] * values[all_there]
        found.values[all_there] += weights[:, None] * values[all_here]
        close = (distance < limit / 4) * allowed
        totals = (found.weights, found.counts, *found.around)
        for total, part in zip(totals, (weights, near, close, reached), strict=True):
            total[here] += part
            total[there] += part
    return found


class Sample(NamedTuple):
    """Some voxels of all slices that every voxel is compared with, as for :func:`similar_neighbour_sum`.

    Attributes
    ----------
    curves : Tensor, shape (K, B)
    values : Tensor, shape (K, C)
    threshold, s0 : Tensor, shape (K,)
    places : Tensor, shape (K, 3), int
        Slice, X and Y; slices are counted from the first of those whose voxels are compared.
    """

    curves: Tensor
    values: Tensor
    threshold: Tensor
    s0: Tensor
    places: Tensor

    def from_slice(self, first: int) -> Sample:
        """The same, with places as they are counted from another slice."""
        return self._replace(places=self.places - torch.tensor([first, 0, 0]))


def add_similar_of_sample(
    found: NeighbourSums,
    curves: Tensor,
    mask: Tensor,
    threshold: Tensor,
    radius: int,
    sample: Sample,
    *,
    similarity: SimilaritySettings,
    s0: Tensor,
) -> None:
    """Add to the sums over the window those over the similar voxels of a sample that lie beyond it, in place.

    All but ``sample`` is as for :func:`similar_neighbour_sum`, which has found the sums; what lies ``around``
    is told of the window alone.
    """
    places = torch.nonzero(mask)
    # Another slice is farther than any window reaches.
    spacing = torch.tensor([2.0 * radius + 1, 1.0, 1.0])
    here, there = places * spacing, sample.places * spacing
    brightness, of_sample = (_brightness(similarity, None, values) for values in (s0[mask], sample.s0))
    curves, limits = curves.movedim(1, -1)[mask], threshold[mask].square()
    for part in torch.arange(len(places)).split(max(1, PAIRS_AT_ONCE // max(1, len(sample.s0)))):
        if similarity.distance == "maximum":
            distance = torch.cdist(curves[part], sample.curves, p=torch.inf).square_()
        else:
            # By a product of matrices it would be wrong by more than small thresholds.
            distance = torch.cdist(curves[part], sample.curves, compute_mode="donot_use_mm_for_euclid_dist")
            distance = distance.square_() / curves.shape[1]
        allowed = torch.cdist(here[part], there, p=torch.inf) > radius
        if brightness is not None and of_sample is not None:
            allowed &= _as_bright(similarity, brightness[part, None], of_sample)
        limit = torch.minimum(limits[part, None], sample.threshold.square())
        near, weights, _ = _weighed(similarity, distance, limit, allowed.to(distance.dtype))
        where = tuple(places[part].T)
        found.values[where[0], :, where[1], where[2]] += weights @ sample.values
        found.weights[where] += weights.sum(dim=1)
        found.counts[where] += near.sum(dim=1)


def _brightness(similarity: SimilaritySettings, mask: Tensor | None, s0: Tensor | None) -> Tensor | None:
    """Logarithm of S0, where there is a limit on its ratio."""
    if similarity.s0_ratio is None:
        return None
    if s0 is None:
        raise ValueError("a limit on the ratio of S0 needs the S0 of every voxel")
    return (s0 if mask is None else torch.where(mask, s0, 1.0)).log()


def _as_bright(similarity: SimilaritySettings, here: Tensor, there: Tensor) -> Tensor:
    assert similarity.s0_ratio is not None
    return (here - there).abs_() <= math.log(similarity.s0_ratio)


def _weighed(
    similarity: SimilaritySettings, distance: Tensor, limit: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of pairs: which are within the threshold, their weights, and which have one; distances are squares."""
    near = (distance < limit) * allowed
    if similarity.weighting != "gaussian":
        return near, near, near
    reached = (distance < GAUSSIAN_REACH**2 * limit) * allowed
    weights = torch.exp(-distance / limit.clamp_min(torch.finfo(limit.dtype).tiny)) * reached
    return near, weights, reached


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
