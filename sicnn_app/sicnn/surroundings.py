"""Means and sums around voxels of what is known in a sample of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from sicnn_app.ivim.local_mean import local_sum

SAMPLED_FROM = 2**15
"""Voxels from which on every second one along both axes of the slice is known: a Gaussian of 3 voxels still
averages about 28 of them, in a third of the time."""

LEAST_SAMPLE = 1 / 8
"""Of the voxels, half of what a sample holds usually: with a smaller one all are known."""

LEAST_COUNT = float(np.finfo(np.float32).eps)
"""Voxels; with fewer nothing is known."""


class Surroundings:
    """Gaussian windows within the slice and the mask.

    Parameters
    ----------
    mask : ndarray, shape (X, Y, Z), bool
    over : callable (function, iterable)
        Calls the function with each item, as ``map``, perhaps on several threads.

    Attributes
    ----------
    sample : ndarray, shape (S,), int
        Voxels in which something is known, indices among those of the mask.
    every : int
        So many voxels lie between them along both axes.
    """

    def __init__(self, mask: np.ndarray, over: Callable[..., Iterable[Any]] = map) -> None:
        self.mask, self.over = mask, over
        x, y, _ = np.nonzero(mask)
        self.sample, self.every = np.flatnonzero((x % 2 == 0) & (y % 2 == 0)), 2
        # One column of a volume, or lines of it, may hold few of these, or none.
        if len(x) < SAMPLED_FROM or len(self.sample) < LEAST_SAMPLE * len(x):
            self.sample, self.every = np.arange(len(x)), 1
        self._counts: dict[tuple[float, bool], np.ndarray] = {}

    def total(self, values: np.ndarray, width: float, *, everywhere: bool = False) -> np.ndarray:
        """Sums of values of shape (S, N), each voxel itself with a weight of 1.

        Of shape (S, N), or (V, N), those around all voxels of the mask.
        """
        every = 1 if everywhere else self.every
        grid = self.mask[::every, ::every]
        apart = self.every // every

        def one(of: np.ndarray) -> np.ndarray:
            volume = np.zeros(grid.shape, dtype=np.float32)
            volume[::apart, ::apart][grid[::apart, ::apart]] = of
            return local_sum(volume, grid, width / every)

        return np.stack(list(self.over(one, values.T)), axis=1)

    def mean(self, values: np.ndarray, width: float, *, everywhere: bool = False) -> np.ndarray:
        """Means of values of shape (S, N), as :meth:`total`; 0 where nothing is known."""
        total = self.total(values, width, everywhere=everywhere)
        count = self._count(width, everywhere)
        return np.divide(total, count, out=np.zeros_like(total), where=count > LEAST_COUNT)

    def _count(self, width: float, everywhere: bool) -> np.ndarray:
        key = width, everywhere
        if key not in self._counts:
            self._counts[key] = self.total(np.ones((len(self.sample), 1)), width, everywhere=everywhere)
        return self._counts[key]
