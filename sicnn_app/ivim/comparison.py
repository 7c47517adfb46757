"""The maps of a method beside those of the conventional fit, in numbers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import SPECS

COMPARED = ("f", "d", "dstar", "s0")
"""Labels of the maps that are compared; the residual is a property of the fit, not of the tissue."""

LEAST_VOXELS = 3
"""Below it a correlation is 1 or says nothing."""


def comparable(
    label: str, maps: Mapping[str, np.ndarray], conventional: Mapping[str, np.ndarray], voxels: np.ndarray
) -> np.ndarray:
    """Those of some voxels in which a map has a meaning in both: D* needs some perfusion in each."""
    if not SPECS[label].needs_perfusion:
        return voxels
    return voxels & (maps["f"] >= NEGLIGIBLE_F) & (conventional["f"] >= NEGLIGIBLE_F)


def agreement(
    label: str, maps: Mapping[str, np.ndarray], conventional: Mapping[str, np.ndarray], voxels: np.ndarray
) -> dict[str, float | int | None]:
    """How far a map and that of the conventional fit agree.

    Parameters
    ----------
    label : str
        One of :data:`COMPARED`.
    maps, conventional : mapping of str to ndarray, shape (...)
        By label.
    voxels : ndarray, shape (...), bool
        Those to look at, as far as they are :func:`comparable`.

    Returns
    -------
    dict
        ``voxels``; ``median_difference`` and ``median_absolute_difference`` (map minus conventional fit) in
        the unit of the map; ``pearson`` and ``spearman``, the correlations of values and of ranks. None where
        there are too few voxels, or nothing varies.
    """
    chosen = comparable(label, maps, conventional, voxels)
    one, other = (np.asarray(found[label][chosen], dtype=np.float64) for found in (maps, conventional))
    difference = one - other
    varied = one.size >= LEAST_VOXELS and bool(np.ptp(one) > 0 and np.ptp(other) > 0)
    return {
        "voxels": int(one.size),
        "median_difference": float(np.median(difference)) if one.size else None,
        "median_absolute_difference": float(np.median(np.abs(difference))) if one.size else None,
        "pearson": float(np.corrcoef(one, other)[0, 1]) if varied else None,
        "spearman": float(np.corrcoef(_ranks(one), _ranks(other))[0, 1]) if varied else None,
    }


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, of equal values their mean; scipy.stats, which has them, takes half a second to load."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]
