"""Small blocks of a series: means in which noise is small, and what varies within them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from dipy.segment.threshold import otsu

from sicnn_app.preprocess.correction import find_slice_axis

SIDE = 5
"""Voxels along a side of a block in its slice; fewer in small images, more in very large ones."""

FEWEST, MOST = 20, 600
"""Blocks wanted: enough for a median and for places, few enough to be fast."""

MOST_MEANS = 60_000
"""Blocks times volumes, never fewer blocks than eight times :data:`FEWEST`."""

LOOKED_AT = 9
"""Evenly spaced volumes whose median shows where tissue is."""

EVEN = 1e-6
"""Relative range of an image without contrast, which no threshold can part."""


@dataclass(frozen=True)
class Blocks:
    """A series in blocks.

    Attributes
    ----------
    means : ndarray, shape (K, N), units of the source image
        NaN where no voxel of the block is finite.
    texture : ndarray, shape (L, N)
        Standard deviation within a block of what the block's own pattern does not explain; of the blocks of
        4 voxels and more.
    sizes : ndarray, shape (K,), voxels
    slices : ndarray, shape (K,), index of the slice
    places : ndarray, shape (K, 2), position in the slice in blocks
    labels : ndarray, shape (X, Y, Z), int
        Block of every voxel, -1 outside.
    background : ndarray, shape (N,)
        Mean outside of tissue; NaN when there is no outside.
    zeros : ndarray, shape (N,)
        Share of the outside that is exactly 0.
    negative : ndarray, shape (N,)
        Share of all voxels below 0.
    """

    means: np.ndarray
    texture: np.ndarray
    sizes: np.ndarray
    slices: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    background: np.ndarray
    zeros: np.ndarray
    negative: np.ndarray

    @property
    def sigma(self) -> float:
        """Noise of a voxel, units of the source image; NaN when no block is large enough."""
        finite = self.texture[np.isfinite(self.texture)]
        return float(np.median(finite)) if finite.size else np.nan


def cut(signals: np.ndarray, slice_axis: int | None = None) -> Blocks:
    """Means of blocks of about 5 x 5 voxels of tissue in a slice; one volume is in memory at a time.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, N)
    slice_axis : int, or None
        None: see :func:`sicnn_app.preprocess.correction.find_slice_axis`.
    """
    volumes = signals.shape[3]
    looked_at = np.unique(np.linspace(0, volumes - 1, LOOKED_AT).round().astype(int))
    middle = np.median([np.nan_to_num(signals[..., i], posinf=0, neginf=0) for i in looked_at], axis=0)
    tissue = _tissue(middle)
    axis = find_slice_axis(signals.shape[:3], slice_axis)
    labels, places = _label(tissue, axis, max(8 * FEWEST, min(MOST, MOST_MEANS // volumes)))
    inside = labels >= 0
    of_voxel, sizes = labels[inside], np.bincount(labels[inside])
    outside = ~tissue & (middle < middle[tissue].mean() / 4 if tissue.any() else True)
    count = sizes.size
    pattern = middle[inside] - (np.bincount(of_voxel, middle[inside], count) / sizes)[of_voxel]
    pattern_squares = np.bincount(of_voxel, pattern**2, count)
    means, texture = np.full((2, count, volumes), np.nan)
    background, zeros, negative = np.full((3, volumes), np.nan)
    for i in range(volumes):
        volume = np.asarray(signals[..., i])
        values = volume[inside].astype(float)
        finite = np.isfinite(values)
        if not finite.any():
            continue
        there = np.bincount(of_voxel, finite, count)
        with np.errstate(invalid="ignore", divide="ignore"):
            means[:, i] = np.bincount(of_voxel, np.where(finite, values, 0.0), count) / there
            departure = np.where(finite, values - means[of_voxel, i], 0.0)
            along = np.bincount(of_voxel, departure * pattern, count)
            left = np.bincount(of_voxel, departure**2, count) - np.where(
                pattern_squares > 0, along**2 / pattern_squares, 0.0
            )
            texture[:, i] = np.sqrt(np.maximum(left, 0) / np.maximum(there - 2, 1))
        negative[i] = np.mean(volume < 0)
        around = volume[outside]
        if around.size:
            background[i] = np.nanmean(np.where(np.isfinite(around), around, 0.0))
            zeros[i] = np.mean(around == 0)
    return Blocks(
        means=means,
        texture=texture[sizes >= 4],
        sizes=sizes,
        slices=places[:, 0],
        places=places[:, 1:],
        labels=labels,
        background=background,
        zeros=zeros,
        negative=negative,
    )


def _tissue(middle: np.ndarray) -> np.ndarray:
    """Above half of Otsu's threshold; shape (X, Y, Z), bool."""
    bright = middle > 0
    if not bright.any():
        return bright
    # The brightest voxels (fluid, fat, artefacts) would raise the threshold above all other tissue.
    capped = np.minimum(middle, np.percentile(middle[bright], 98)).astype(np.float64)
    # Relative, and not below 0: the smallest and largest numbers there are leave a histogram no bins.
    capped = np.maximum(capped / capped.max(), 0)
    return capped > threshold_of(capped) / 2


def threshold_of(values: np.ndarray) -> float:
    """Otsu's threshold between dark and bright; the least value where there is no contrast."""
    return float(otsu(values) if np.ptp(values) > EVEN * values.max() else values.min())


def _label(tissue: np.ndarray, axis: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Block of every voxel, and slice and position of every block: blocks at least half of tissue."""
    grid = np.moveaxis(np.indices(tissue.shape), 0, -1)[tissue]
    across = grid[:, axis]
    in_plane = np.delete(grid, axis, axis=1)
    side = SIDE
    if grid.shape[0] > most * SIDE**2:
        side = int(np.ceil(np.sqrt(grid.shape[0] / most)))
    while side > 1 and grid.shape[0] < FEWEST * side**2:
        side -= 1
    keys, block, sizes = np.unique(
        np.column_stack([across, in_plane // side]), axis=0, return_inverse=True, return_counts=True
    )
    kept = sizes >= side**2 / 2
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    labels = np.full(tissue.shape, -1)
    labels[tissue] = number[block.ravel()]
    return labels, keys[kept]
