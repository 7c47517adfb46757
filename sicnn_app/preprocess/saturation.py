"""Signals that were cut off: many voxels at the largest value, above values that noise has spread."""

from __future__ import annotations

import numpy as np

MIN_VOXELS = 5
"""Voxels of one volume at its largest value; in an image that was not cut off there are one or two."""

MIN_SPIKE = 5.0
"""Times as often as any value just below (:data:`JUST_BELOW`) does the largest one occur: the tail of a
histogram falls, and what is cut off of it stands on its last value."""

JUST_BELOW, BELOW = 0.95, 0.7
"""Shares of the largest value from which on others are looked at."""

FEW_STEPS = 4
"""At least so many steps of the data type are just below."""

MIN_BELOW = 8
"""Different values below; masks, labels and phantoms without noise have fewer, or wide gaps between them."""

MAX_GAP = 0.1
"""Share of the largest value that may lie between two values below."""


def saturation_levels(signals: np.ndarray) -> np.ndarray:
    """Value at which every volume was cut off; NaN for volumes that were not, shape (N,), float64.

    Wherever that is: at the end of the data type, of the scanner's 12 bits, or elsewhere. Signals are those
    of the image, shape (X, Y, Z, N), before any correction: interpolation hides what was cut off.
    """
    volumes = range(signals.shape[3])
    top, counts = np.array([_largest(signals[..., volume]) for volume in volumes]).T
    candidate = (counts >= MIN_VOXELS) & (top > 0)
    cut = [
        level for level in np.unique(top[candidate]) if _is_cut(signals, level, counts[top == level].max())
    ]
    return np.where(candidate & np.isin(top, cut), top, np.nan)


def saturated_voxels(signals: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Voxels that were cut off in any volume, by the level of each, shape (X, Y, Z), bool."""
    reached = np.zeros(signals.shape[:3], dtype=bool)
    for volume in np.flatnonzero(np.isfinite(levels)):
        reached |= signals[..., volume] == levels[volume]
    return reached


def _largest(volume: np.ndarray) -> tuple[float, int]:
    """Largest finite value, and in how many voxels."""
    values = volume[np.isfinite(volume)]
    largest = values.max(initial=0)
    return float(largest), int(np.count_nonzero(values == largest))


def _is_cut(signals: np.ndarray, level: float, count: int) -> bool:
    """True when a spike of so many voxels of one volume stands above values that noise spread."""
    tables = []
    for volume in range(signals.shape[3]):
        values = signals[..., volume]
        tables.append(np.unique(values[(values >= BELOW * level) & (values < level)], return_counts=True))
    values, counts = (np.concatenate(column) for column in zip(*tables, strict=True))
    different = np.unique(values).astype(np.float64)
    if different.size < MIN_BELOW:
        return False
    gaps = np.diff(different, append=level)
    just_below = values >= level - max((1 - JUST_BELOW) * level, FEW_STEPS * gaps.min())
    # Noise leaves no value twice, or as good as all that the data type has: plateaus do neither.
    spread = counts.sum() < 2 * different.size or different.size * gaps.min() > 0.5 * (1 - BELOW) * level
    return bool(
        spread
        and count >= MIN_SPIKE * counts[just_below].max(initial=1)
        and max(gaps.max(), different[0] - BELOW * level) <= MAX_GAP * level
    )
