"""Small lesions: a few voxels with values that their surroundings do not have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import binary_dilation

from sicnn_app.errors import UsageError

CHANGES = {"f": (0.4, 2.5), "d": (0.55, 1.6), "dstar": (0.4, 2.5)}
"""Factors of the values around: one of the two is drawn for every lesion and parameter."""

HIGHEST_F = 0.8
"""F is not raised above it."""

LOWEST_RATIO = 3.0
"""D* is not lowered below so many times D: the two could not be told apart."""


def lesion_sites(
    allowed: np.ndarray, count: int, voxels: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Number of the lesion of every voxel, 1 to ``count``, 0 elsewhere, shape (X, Y, Z).

    A lesion lies in one slice and is compact; there are two voxels or more between any two.

    Parameters
    ----------
    allowed : ndarray, shape (X, Y, Z), bool
    voxels : tuple of int
        Smallest and largest number of voxels.

    Raises
    ------
    UsageError
        Where so many do not fit.
    """
    sites = np.zeros(allowed.shape, dtype=np.int16)
    free = allowed.copy()
    x, y = np.indices(allowed.shape[:2])
    for number in range(1, count + 1):
        size = int(rng.integers(voxels[0], voxels[1] + 1))
        for centre in rng.permutation(np.argwhere(free)):
            off = centre[:2] + rng.uniform(-0.4, 0.4, 2)
            nearest = np.argsort(np.hypot(x - off[0], y - off[1]), axis=None, kind="stable")[:size]
            place = (*np.unravel_index(nearest, x.shape), np.full(nearest.size, centre[2]))
            if size <= x.size and free[place].all():
                break
        else:
            raise UsageError(
                f"only {number - 1} of {count} lesions have room in this phantom: ask for fewer --lesions, "
                f"smaller --lesion-voxels or a larger --shape"
            )
        sites[place] = number
        free &= ~binary_dilation(sites == number, np.ones((5, 5, 3)))
    return sites


def change_values(
    maps: dict[str, np.ndarray],
    sites: np.ndarray,
    bounds: Mapping[str, tuple[float, float]],
    rng: np.random.Generator,
) -> None:
    """Change F, D and D* of every lesion by a factor of :data:`CHANGES`, in place."""
    for number in range(1, int(sites.max(initial=0)) + 1):
        inside = sites == number
        for name, (lower, higher) in CHANGES.items():
            values = maps[name][inside]
            up = rng.random() < 0.5
            if name == "f" and values.max() * higher > HIGHEST_F:
                up = False
            if name == "dstar" and values.min() * lower < LOWEST_RATIO * maps["d"][inside].max():
                up = True
            maps[name][inside] = np.clip(values * (higher if up else lower), *bounds[name])
