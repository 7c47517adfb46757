"""Values of many voxels as a few numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median, interquartile range and standard deviation (n - 1) of values; NaN where they are too few."""

    median: float = math.nan
    iqr: float = math.nan
    std: float = math.nan


def spread(values: np.ndarray) -> Spread:
    """Summarise values, shape (M,).

    Examples
    --------
    >>> spread(np.array([1.0, 2.0, 3.0, 4.0, 5.0])).iqr
    2.0
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        return Spread()
    std = float(values.std(ddof=1)) if values.size > 1 else math.nan
    lower, upper = np.percentile(values, (25, 75))
    return Spread(float(np.median(values)), float(upper - lower), std)
