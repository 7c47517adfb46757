"""Voxels with similar F, D and D*, whatever part of the body they lie in."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2

from sicnn_app.ivim.flags import NEGLIGIBLE_F

MOST_CLUSTERS = 5
"""More would be told apart neither by eye nor by what D* is known to."""

LEAST_VOXELS = 20
"""Per cluster on average: quartiles of fewer voxels are mostly noise."""

FARTHEST = 3.0
"""Robust standard deviations from the median; values beyond are clipped: outliers make no cluster."""

_TO_STANDARD_DEVIATION = 1.4826
"""Standard deviation over median absolute deviation of a normal distribution."""


def cluster_voxels(f: np.ndarray, d: np.ndarray, dstar: np.ndarray) -> np.ndarray:
    """Group voxels by their F, D and log D*.

    K-means in units of each parameter's spread. D* counts as typical, which is to say not at all, where F
    is below :data:`sicnn_app.ivim.flags.NEGLIGIBLE_F`. The start is not random but as many groups of equal
    size along the first principal component, so that the same maps always give the same clusters.

    Values are finite and of shape (M,), and so are the numbers of the clusters, counted from 1 in falling
    order of median F; all are 0 when there are too few voxels for two clusters, or all are alike.

    References
    ----------
    K-means: Lloyd, IEEE Trans Inf Theory 1982;28:129-137, of SciPy. Its start: after Su and Dy, Intell Data
    Anal 2007;11:319-338, who split along principal components one by one.
    """
    clusters = min(MOST_CLUSTERS, f.size // LEAST_VOXELS)
    if clusters < 2:
        return np.zeros(f.size, dtype=int)
    features = _features(f, d, dstar)
    with warnings.catch_warnings():
        # Uniform maps make fewer clusters than asked for: the empty ones get no number below.
        warnings.simplefilter("ignore", UserWarning)
        _, found = kmeans2(features, _start(features, clusters), minit="matrix")
    used = np.unique(found)
    if used.size < 2:
        return np.zeros(f.size, dtype=int)
    order = np.argsort([-np.median(f[found == cluster]) for cluster in used], kind="stable")
    number = np.zeros(clusters, dtype=int)
    number[used[order]] = np.arange(1, used.size + 1)
    return number[found]


def _features(f: np.ndarray, d: np.ndarray, dstar: np.ndarray) -> np.ndarray:
    """Clipped robust scores, shape (M, 3), float64."""
    perfused = f >= NEGLIGIBLE_F
    scores = np.zeros((f.size, 3))
    scores[:, 0], scores[:, 1] = _scores(f), _scores(d)
    if perfused.any():
        scores[perfused, 2] = _scores(np.log(np.maximum(dstar[perfused], np.finfo(np.float32).tiny)))
    return scores


def _scores(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64)
    distance = values - np.median(values)
    scale = _TO_STANDARD_DEVIATION * np.median(np.abs(distance))
    # Half of the values are equal: the rest differ by their sign alone.
    scores = distance / scale if scale > 0 else np.sign(distance)
    return np.clip(scores, -FARTHEST, FARTHEST)


def _start(features: np.ndarray, clusters: int) -> np.ndarray:
    """Means of groups of equal size along the first principal component, shape (K, 3)."""
    centred = features - features.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(centred @ directions[:, -1], kind="stable")
    return np.stack([features[group].mean(axis=0) for group in np.array_split(order, clusters)])
