"""Gaussian random fields: what varies smoothly from place to place, with a stated distance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import affine_transform, gaussian_filter

LONGEST = 16.0
"""Correlation length, voxels, from which on a field is drawn at fewer knots and interpolated."""


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
    lengths = np.broadcast_to(np.asarray(length, dtype=np.float64), len(shape))
    # Margins as wide as a long field need more memory than the field.
    steps = np.maximum(2.0 * lengths / LONGEST, 1.0) if lengths.max() > LONGEST else np.ones(len(shape))
    knots = [
        size if step == 1 else int((size - 1) / step) + 4 for size, step in zip(shape, steps, strict=True)
    ]
    field = _field_of_knots(tuple(knots), lengths / steps, rng)
    if (steps == 1).all():
        return field
    first = np.where(steps > 1, 1.0, 0.0)
    return affine_transform(field, 1.0 / steps, first, output_shape=shape, mode="nearest")


def _field_of_knots(shape: tuple[int, ...], lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    # White noise under a Gaussian has the Gaussian's convolution with itself as its correlation.
    widths = lengths / 2.0
    margin = [int(4 * width + 0.5) for width in widths]
    padded = [size + 2 * extra for size, extra in zip(shape, margin, strict=True)]
    impulse = np.zeros([2 * extra + 1 for extra in margin])
    impulse[tuple(margin)] = 1.0
    spread = np.sqrt((gaussian_filter(impulse, widths, mode="constant") ** 2).sum())
    field = gaussian_filter(rng.standard_normal(padded), widths, mode="constant") / spread
    return field[tuple(slice(extra, extra + size) for extra, size in zip(margin, shape, strict=True))]
