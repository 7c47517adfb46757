"""Differences in Signal Quality (DSQ): is a predicted or a noisy signal nearer to the clean one.

With n the noisy, s the clean and p the predicted signal: eps = n - s is the noise, f = p - n the fitting
error and e = p - s = eps + f the recon error. docs/signal-quality.md proves what is said here about them.

Examples
--------
>>> quality = signal_quality(
...     predicted=[1.0, 0.5, 0.375, 0.375], noisy=[1.25, 1.0, 0.25, 0.25], clean=[1.0, 0.5, 0.5, 0.25]
... )
>>> quality.q_n, quality.q_p
(0.25, 0.0625)
>>> quality.delta.tolist()
[-0.25, -0.5, -0.125, 0.125]
>>> groups = group_by_fitting_error(quality, [0.0, 0.25, float("inf")])
>>> groups.count.tolist(), groups.mean_delta.tolist(), groups.share_better.tolist()
([2, 2], [0.0, -0.375], [0.5, 1.0])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class SignalQuality:
    """Quality of every predicted and noisy signal; made by :func:`signal_quality`.

    Attributes
    ----------
    signed_noise : ndarray, any shape, float64, units of the signals
        eps = n - s.
    signed_fitting_error : ndarray, same shape and units
        f = p - n.
    signed_recon_error : ndarray, same shape and units
        e = p - s.
    """

    signed_noise: np.ndarray
    signed_fitting_error: np.ndarray
    signed_recon_error: np.ndarray

    @property
    def noise(self) -> np.ndarray:
        """Noise |n - s| of every signal (supplement, Eq. 1)."""
        return np.abs(self.signed_noise)

    @property
    def fitting_error(self) -> np.ndarray:
        """Fitting Error |p - n| of every signal (supplement, Eq. 2)."""
        return np.abs(self.signed_fitting_error)

    @property
    def recon_error(self) -> np.ndarray:
        """Recon Error |p - s| of every signal (supplement, Eq. 3)."""
        return np.abs(self.signed_recon_error)

    @property
    def q_p(self) -> float:
        """Mean Recon Error of all signals (supplement, Eq. 4)."""
        return float(self.recon_error.mean())

    @property
    def q_n(self) -> float:
        """Mean Noise of all signals (supplement, Eq. 5)."""
        return float(self.noise.mean())

    @property
    def delta(self) -> np.ndarray:
        """Delta = |p - s| - |n - s| of every signal (supplement, Eq. 12)."""
        return self.recon_error - self.noise

    @property
    def prediction_is_better(self) -> np.ndarray:
        """Whether the predicted signal is nearer to the clean one than the noisy signal is: Delta < 0."""
        return self.recon_error < self.noise

    @property
    def squared_advantage(self) -> np.ndarray:
        """eps² - e² = f² - 2 e f of every signal, squared units; above 0 where the prediction is better."""
        return self.signed_noise**2 - self.signed_recon_error**2


@dataclass(frozen=True)
class FittingErrorGroups:
    """Means over the signals whose Fitting Error lies in [lower, upper); NaN where there are none.

    Attributes
    ----------
    lower, upper : ndarray, shape (G,), units of the signals
    count : ndarray, shape (G,), int
    mean_noise, mean_recon_error, mean_delta : ndarray, shape (G,), units of the signals
    share_better : ndarray, shape (G,)
        Signals for which the prediction is better, 0..1.
    """

    lower: np.ndarray
    upper: np.ndarray
    count: np.ndarray
    mean_noise: np.ndarray
    mean_recon_error: np.ndarray
    mean_delta: np.ndarray
    share_better: np.ndarray


def signal_quality(predicted: ArrayLike, noisy: ArrayLike, clean: ArrayLike) -> SignalQuality:
    """Compare predicted and noisy signals with the clean ones.

    Parameters
    ----------
    predicted, noisy, clean : array_like, one shape, one unit
        The signals to be judged, and no others: select those of the mask first.

    Returns
    -------
    SignalQuality

    Raises
    ------
    ValueError
        When the shapes differ, there is no signal, or one is not finite.
    """
    p, n, s = _same_shape_and_finite(predicted=predicted, noisy=noisy, clean=clean)
    return SignalQuality(signed_noise=n - s, signed_fitting_error=p - n, signed_recon_error=p - s)


def delta_by_cases(signed_noise: ArrayLike, signed_fitting_error: ArrayLike) -> np.ndarray:
    """Delta from eps and f alone, by the corrected cases of the supplement's Eq. 14.

    |f| where eps f >= 0; where eps f < 0, -|f| up to |f| = |eps| and |f| - 2 |eps| above.

    Parameters
    ----------
    signed_noise, signed_fitting_error : array_like, one shape, one unit

    Returns
    -------
    ndarray, same shape and unit

    Raises
    ------
    ValueError
        As :func:`signal_quality`.
    """
    eps, f = _same_shape_and_finite(signed_noise=signed_noise, signed_fitting_error=signed_fitting_error)
    noise, fitting_error = np.abs(eps), np.abs(f)
    return np.select(
        [~_opposite(eps, f), fitting_error <= noise],
        [fitting_error, -fitting_error],
        fitting_error - 2 * noise,
    )


def better_by_cases(signed_noise: ArrayLike, signed_fitting_error: ArrayLike) -> np.ndarray:
    """Whether the prediction is better, from eps and f alone: eps f < 0 and |f| < 2 |eps|.

    Parameters
    ----------
    signed_noise, signed_fitting_error : array_like, one shape, one unit

    Returns
    -------
    ndarray, same shape, bool

    Raises
    ------
    ValueError
        As :func:`signal_quality`.
    """
    eps, f = _same_shape_and_finite(signed_noise=signed_noise, signed_fitting_error=signed_fitting_error)
    return _opposite(eps, f) & (np.abs(f) < 2 * np.abs(eps))


def group_by_fitting_error(quality: SignalQuality, edges: ArrayLike) -> FittingErrorGroups:
    """Mean Noise, Recon Error and Delta of the signals of every Fitting Error interval (supplement, Fig. 2).

    Parameters
    ----------
    quality : SignalQuality
    edges : array_like, shape (G + 1,), units of the signals, ascending
        Interval g is [edges[g], edges[g + 1]). A last edge of infinity leaves the last one open; signals
        below the first edge, or not below the last, belong to none.

    Returns
    -------
    FittingErrorGroups

    Raises
    ------
    ValueError
        For fewer than two edges, or edges that do not ascend.
    """
    edges = np.asarray(edges, dtype=np.float64)
    if edges.ndim != 1 or edges.size < 2 or not (edges[1:] > edges[:-1]).all():
        raise ValueError(f"edges must be two or more ascending numbers, not {edges.tolist()}")
    groups = edges.size - 1
    group = np.searchsorted(edges, quality.fitting_error.ravel(), side="right") - 1
    counted = (group >= 0) & (group < groups)
    count = np.bincount(group[counted], minlength=groups)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(group[counted], weights=values.ravel()[counted], minlength=groups)
        return np.divide(total, count, out=np.full(groups, np.nan), where=count > 0)

    return FittingErrorGroups(
        lower=edges[:-1],
        upper=edges[1:],
        count=count,
        mean_noise=mean(quality.noise),
        mean_recon_error=mean(quality.recon_error),
        mean_delta=mean(quality.delta),
        share_better=mean(quality.prediction_is_better),
    )


def _opposite(eps: np.ndarray, f: np.ndarray) -> np.ndarray:
    """eps f < 0, also where the product is too small for a float."""
    return np.sign(eps) * np.sign(f) < 0


def _same_shape_and_finite(**arrays: ArrayLike) -> list[np.ndarray]:
    """The arrays as float64."""
    found = {name: np.asarray(values, dtype=np.float64) for name, values in arrays.items()}
    shapes = [values.shape for values in found.values()]
    if len(set(shapes)) > 1:
        raise ValueError(f"{', '.join(found)} must have one shape, not {', '.join(map(str, shapes))}")
    for name, values in found.items():
        if values.size == 0:
            raise ValueError(f"{name} holds no signals: is the mask empty?")
        wrong = values.size - np.count_nonzero(np.isfinite(values))
        if wrong:
            raise ValueError(f"{wrong} of {values.size} values of {name} are not finite: leave them out")
    return list(found.values())
