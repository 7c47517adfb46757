"""Halves of a measured run and how well what was estimated from one agrees with the other; arrays only."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter


def direction_splits(directions: int) -> list[tuple[int, ...]]:
    """Every way to deal an even number of directions into two equal halves: those of the first half.

    The first half always has direction 0, so that no split comes twice: ten of six directions.
    """
    rest = range(1, directions)
    return [(0, *others) for others in itertools.combinations(rest, directions // 2 - 1)]


def direction_count(bvals: np.ndarray) -> int:
    """Volumes of every b-value above 0, shape (N,), s/mm^2; ValueError unless they are equally many and even.

    The k-th volume of a b-value is taken to have the k-th direction.
    """
    counts = np.unique(bvals[bvals > 0], return_counts=True)[1]
    if counts.size == 0 or np.ptp(counts) > 0 or counts[0] % 2:
        raise ValueError(f"expected equally many volumes, an even number, at every b > 0, not {counts}")
    return int(counts[0])


def halves(bvals: np.ndarray, first: Sequence[int]) -> np.ndarray:
    """Which volumes belong to which half of a run.

    Parameters
    ----------
    bvals : ndarray, shape (N,), s/mm^2
        In order of acquisition.
    first : sequence of int
        Directions of the first half; volumes at b = 0 go to the halves in turn.

    Returns
    -------
    ndarray, shape (2, N), bool
    """
    in_first = np.zeros(len(bvals), dtype=bool)
    for bval in np.unique(bvals):
        volumes = np.flatnonzero(bvals == bval)
        in_first[volumes[::2] if bval == 0 else volumes[list(first)]] = True
    return np.stack([in_first, ~in_first])


def disagreement(means: np.ndarray, bvals: np.ndarray, first: Sequence[int]) -> float:
    """Root mean square difference of mean signals between halves, over organs and b > 0.

    Parameters
    ----------
    means : ndarray, shape (organs, N)
        Mean signal of every organ in every volume.
    bvals : ndarray, shape (N,), s/mm^2
    first : sequence of int
        As for :func:`halves`.

    Returns
    -------
    float
        Relative to the mean signal of the organ at b = 0.
    """
    relative = means / means[:, bvals == 0].mean(axis=1, keepdims=True)
    one, other = halves(bvals, first)
    differences = [
        relative[:, one & (bvals == b)].mean(axis=1) - relative[:, other & (bvals == b)].mean(axis=1)
        for b in np.unique(bvals[bvals > 0])
    ]
    return float(root_mean_square(np.array(differences)))


def best_split(means: np.ndarray, bvals: np.ndarray) -> tuple[int, ...]:
    """The split of the directions whose mean signals agree best; arguments as for :func:`disagreement`."""
    splits = direction_splits(direction_count(bvals))
    return min(splits, key=lambda first: disagreement(means, bvals, first))


def blurred(signals: np.ndarray, mask: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of the signals in the slice, over the voxels of the mask only.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, B)
    mask : ndarray, shape (X, Y, Z), bool
    sigma : float, voxels

    Returns
    -------
    ndarray, shape (X, Y, Z, B), float32
        0 outside the mask.
    """
    width = (sigma, sigma, 0)
    weight = gaussian_filter(mask.astype(np.float64), width, mode="constant")[mask]
    found = np.zeros(signals.shape, dtype=np.float32)
    for b in range(signals.shape[-1]):
        inside = np.where(mask, signals[..., b], 0.0).astype(np.float64)
        found[mask, b] = gaussian_filter(inside, width, mode="constant")[mask] / weight
    return found


def at_boundary(labels: np.ndarray) -> np.ndarray:
    """Voxels, shape (X, Y, Z), with another label among their eight neighbours in the slice."""
    size = (3, 3, 1)
    others = maximum_filter(labels, size, mode="nearest") != minimum_filter(labels, size, mode="nearest")
    return (labels > 0) & others


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def within_subject_cv(first: np.ndarray, second: np.ndarray) -> float:
    """Within-subject coefficient of variation from pairs.

    wCV = sqrt(mean((x1 - x2)^2 / 2)) / mean((x1 + x2) / 2): the root mean square of the standard deviations
    of the pairs over the mean of all values.

    Parameters
    ----------
    first, second : ndarray, shape (V,)
        The same voxels in both measurements.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return root_mean_square(first - second) / np.sqrt(2.0) / float(np.mean((first + second) / 2.0))


def cross_residuals(predicted: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """What the signals predicted from one half miss of those observed in the other.

    Parameters
    ----------
    predicted, observed : ndarray, shape (2, V, B)
        Of both halves, in the same units; ascending b-values.

    Returns
    -------
    ndarray, shape (2, V, B)
        Predicted in half i less observed in the other, over the mean of both observed signals at the lowest
        b-value, which is the same for every method.
    """
    return (predicted - observed[::-1]) / _normaliser(observed)


def scatter_residuals(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Differences of the halves over sqrt(2): their mean square is the mean variance within one half.

    Of observed signals it holds all that changed between the halves; of predictions, what the estimator made
    of that.

    Parameters
    ----------
    values, observed : ndarray, shape (2, V, B)

    Returns
    -------
    ndarray, shape (V, B)
        Relative as in :func:`cross_residuals`.
    """
    return (values[0] - values[1]) / _normaliser(observed)[0] / np.sqrt(2.0)


def _normaliser(observed: np.ndarray) -> np.ndarray:
    return observed[..., :1].mean(axis=0, keepdims=True)


@dataclass(frozen=True)
class PredictionError:
    """Root mean squares, relative to the signal at b = 0.

    The mean square of the cross residuals is error^2 + noise^2, because the noise of the observed half is
    independent of the prediction; and error^2 = bias^2 + scatter^2. A difference that comes out below 0,
    which it can by chance, is 0.

    Attributes
    ----------
    cross : float
        Of the cross residuals.
    noise : float
        Of the observed signals: what the noise-free ones would leave in place of ``cross``.
    error : float
        Of the predictions against the noise-free signals.
    scatter : float
        Of the predictions from half to half.
    bias : float
        What is the same in the predictions of both halves.
    """

    cross: float
    noise: float
    error: float
    scatter: float
    bias: float

    @classmethod
    def of(cls, cross: np.ndarray, noise: np.ndarray, scatter: np.ndarray) -> PredictionError:
        """From cross residuals and the scatter residuals of observed and predicted signals, any shapes."""
        squares = [root_mean_square(values) ** 2 for values in (cross, noise, scatter)]
        error = max(squares[0] - squares[1], 0.0)
        found = (squares[0], squares[1], error, squares[2], max(error - squares[2], 0.0))
        return cls(*(float(np.sqrt(value)) for value in found))


def contrast_ratio(medians: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Standard deviation over organs relative to that of the reference, root mean squares over the runs.

    Parameters
    ----------
    medians, reference : sequence of ndarray, one per run, shape (organs,)
        Two organs or more.
    """
    found, wanted = ([np.std(values, ddof=1) for values in runs] for runs in (medians, reference))
    return root_mean_square(np.array(found)) / root_mean_square(np.array(wanted))


def contrast_slope(medians: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Slope of the regression on the reference, after the mean of every run is taken off both."""
    y, x = (np.concatenate([values - np.mean(values) for values in runs]) for runs in (medians, reference))
    return float(x @ y / (x @ x))
