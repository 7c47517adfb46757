"""Magnitudes of complex signals with noise: their mean, its inverse, and their variance."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from scipy import special

TABLE_END = 12.0
"""Signal over noise from which on sqrt(mean^2 - 1) inverts the mean to within 1e-4."""

TABLE_STEP = 0.005

LEAST_MEAN = math.sqrt(math.pi / 2.0)
"""Mean magnitude of noise alone."""


def mean_magnitude(
    signal: Any, *, i0e: Callable[[Any], Any] = special.i0e, i1e: Callable[[Any], Any] = special.i1e
) -> Any:
    """Mean magnitude of ``signal``, both in units of the noise of one channel.

    The mean of |s + noise| is sqrt(pi/2) L_{1/2}(-s^2 / 2) (Gudbjartsson and Patz, Magn Reson Med
    1995;34:910-914), written with exponentially scaled Bessel functions, which are those of the array library
    in use, so that it stays finite at any signal-to-noise ratio.

    Examples
    --------
    >>> round(float(mean_magnitude(0.0)), 4), round(float(mean_magnitude(5.0)), 4)
    (1.2533, 5.1011)
    """
    z = (signal / 2.0) ** 2
    return LEAST_MEAN * ((1.0 + 2.0 * z) * i0e(z) + 2.0 * z * i1e(z))


def signal_of_mean(mean: np.ndarray) -> np.ndarray:
    """The signal whose mean magnitude is ``mean``, in units of the noise; 0 up to that of noise alone."""
    signals, means = _table()
    found = np.interp(mean, means, signals)
    return np.where(mean > means[-1], np.sqrt(np.maximum(mean**2 - 1.0, 0.0)), found)


def magnitude_variance(signal: np.ndarray) -> np.ndarray:
    """Variance of the magnitudes of ``signal`` in units of the noise: from .43 at 0 to 1 at high signals."""
    return np.clip(2.0 + signal**2 - mean_magnitude(signal) ** 2, 0.0, 1.0)


@cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    """Signals and their mean magnitudes, ascending."""
    signals = np.arange(0.0, TABLE_END + TABLE_STEP / 2, TABLE_STEP)
    return signals, mean_magnitude(signals)
