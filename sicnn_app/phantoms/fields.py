"""Gaussian random fields: what varies smoothly from place to place, with a stated distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter


def gaussian_field(
    shape: tuple[int, ...], length: float | Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """Field of mean 0 and variance 1 over many draws, with the correlation exp(-(r / length)^2).

    A single field has another mean and variance than 0 and 1 where it is not much larger than the length.
    Opposite edges have nothing to do with each other.

    Parameters
    ----------
    shape : tuple of int
    length : float or sequence of float, voxels
        Distance at which the correlation has fallen to 1/e, of all axes or of each; 0: along this axis every
        voxel is independent.
    """
    # White noise under a Gaussian has the Gaussian's convolution with itself as its correlation.
    widths = np.broadcast_to(np.asarray(length, dtype=np.float64) / 2.0, len(shape))
    margin = [int(4 * width + 0.5) for width in widths]
    padded = [size + 2 * extra for size, extra in zip(shape, margin, strict=True)]
    impulse = np.zeros([2 * extra + 1 for extra in margin])
    impulse[tuple(margin)] = 1.0
    spread = np.sqrt((gaussian_filter(impulse, widths, mode="constant") ** 2).sum())
    field = gaussian_filter(rng.standard_normal(padded), widths, mode="constant") / spread
    return field[tuple(slice(extra, extra + size) for extra, size in zip(margin, shape, strict=True))]
