"""Numbers over voxels, over runs and over repeated measurements; arrays only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

OUTLIER_FENCE = 1.5
FAR_OUTLIER_FENCE = 3.0
"""Interquartile ranges between a quartile and its fence (Tukey, Exploratory Data Analysis, 1977)."""

MIN_RUNS = 8
"""Runs below which no value is called an outlier: quartiles of fewer say little."""

TAIL = 0.975
"""Share below the upper end of an interval that holds 95 %."""

LIMITS = float(stats.norm.ppf(TAIL))
"""Standard deviations that hold 95 % of a normal distribution on both sides: 1.96."""

_UNKNOWN = (math.nan, math.nan)


@dataclass(frozen=True)
class Distribution:
    """Values over runs: quartiles and median, fences, and how far outside of them each value lies.

    Attributes
    ----------
    levels : ndarray, shape (n,), int
        0 inside the fences, 1 outside of them, 2 also outside of the far ones; negative for low values. All
        0 for fewer values than :data:`MIN_RUNS`.
    """

    quartiles: tuple[float, float, float]
    fences: tuple[float, float]
    far_fences: tuple[float, float]
    levels: np.ndarray


def distribution(values: np.ndarray) -> Distribution:
    """Quartiles and outliers by Tukey's fences.

    A value is an outlier when it lies more than 1.5 interquartile ranges below the lower or above the upper
    quartile, a far one beyond 3 (Tukey, Exploratory Data Analysis, 1977).

    Parameters
    ----------
    values : ndarray, shape (n,)
        Finite.

    Raises
    ------
    ValueError
        There is no value.

    Examples
    --------
    >>> distribution(np.array([1, 2, 3, 4, 5, 6, 7, 8, 30])).levels.tolist()
    [0, 0, 0, 0, 0, 0, 0, 0, 2]
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise ValueError("a distribution needs a value")
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    near, far = (
        (low - factor * (high - low), high + factor * (high - low))
        for factor in (OUTLIER_FENCE, FAR_OUTLIER_FENCE)
    )
    levels = np.zeros(values.size, dtype=int)
    if values.size >= MIN_RUNS:
        for below, above in (near, far):
            levels += (values > above).astype(int) - (values < below)
    return Distribution((low, middle, high), near, far, levels)


@dataclass(frozen=True)
class Repeatability:
    """Agreement of repeated measurements of one participant; NaN where the data do not tell.

    What each number is stands with its column, see :data:`sicnn_app.group.repeats.COLUMNS`.
    """

    participants: int
    measurements: int
    mean: float = math.nan
    within_subject_sd: float = math.nan
    within_subject_cv: float = math.nan
    within_subject_log_cv: float = math.nan
    coefficient: float = math.nan
    coefficient_interval: tuple[float, float] = _UNKNOWN
    icc: float = math.nan
    icc_interval: tuple[float, float] = _UNKNOWN


def repeatability(repeats: Sequence[np.ndarray]) -> Repeatability:
    """Test-retest statistics from a one-way analysis of variance with random participants.

    The repeatability coefficient is 1.96 sqrt(2) times the within-subject standard deviation (Bland and
    Altman, Lancet 1986;327:307-310), with the confidence interval of a chi-squared mean square (Raunig et
    al., Stat Methods Med Res 2015;24:27-67). ICC(1,1) and its interval are those of Shrout and Fleiss
    (Psychol Bull 1979;86:420-428); where participants have different numbers of measurements k, the mean
    square between them counts n0 = (N - sum k^2 / N) / (n - 1) in the place of k, and the interval is an
    approximation.

    Parameters
    ----------
    repeats : sequence of ndarray, each of shape (k,)
        Measurements of one participant; those with fewer than two are left out.

    Examples
    --------
    >>> found = repeatability([np.array([1.0, 1.2]), np.array([2.0, 2.0]), np.array([3.0, 2.8])])
    >>> round(found.within_subject_sd, 3), round(found.coefficient, 3), round(found.icc, 3)
    (0.115, 0.32, 0.984)
    """
    groups = [np.asarray(values, dtype=np.float64) for values in repeats if len(values) > 1]
    if not groups:
        return Repeatability(0, 0)
    values = np.concatenate(groups)
    mean = float(values.mean())
    freedom = values.size - len(groups)
    within = sum(float(np.square(group - group.mean()).sum()) for group in groups) / freedom
    sd = math.sqrt(within)
    factor = LIMITS * math.sqrt(2.0)
    tails = stats.chi2.ppf((TAIL, 1.0 - TAIL), freedom)
    low, high = (factor * sd * math.sqrt(freedom / tail) for tail in tails)
    icc, icc_interval = _intraclass_correlation(groups, within)
    return Repeatability(
        participants=len(groups),
        measurements=values.size,
        mean=mean,
        within_subject_sd=sd,
        within_subject_cv=sd / mean if mean > 0 else math.nan,
        within_subject_log_cv=_log_cv(groups, freedom),
        coefficient=factor * sd,
        coefficient_interval=(low, high),
        icc=icc,
        icc_interval=icc_interval,
    )


def _log_cv(groups: Sequence[np.ndarray], freedom: int) -> float:
    """Coefficient of variation of log-normal errors, from mean squares of logarithms within participants."""
    if min(float(group.min()) for group in groups) <= 0:
        return math.nan
    logarithms = [np.log(group) for group in groups]
    within = sum(float(np.square(group - group.mean()).sum()) for group in logarithms) / freedom
    return math.sqrt(math.expm1(within))


def _intraclass_correlation(groups: Sequence[np.ndarray], within: float) -> tuple[float, tuple[float, float]]:
    """ICC(1,1) and its confidence interval; NaN for one participant, or when nothing varies at all."""
    counts = np.array([group.size for group in groups])
    participants, total = counts.size, int(counts.sum())
    if participants < 2:
        return math.nan, _UNKNOWN
    means = np.array([group.mean() for group in groups])
    grand = float(counts @ means) / total
    between = float(counts @ np.square(means - grand)) / (participants - 1)
    k = (total - float(np.square(counts).sum()) / total) / (participants - 1)
    if between == within == 0:
        return math.nan, _UNKNOWN

    def correlation(numerator: float, denominator: float) -> float:
        return (numerator - denominator) / (numerator + (k - 1.0) * denominator)

    freedom = participants - 1, total - participants
    lower = correlation(between, within * stats.f.ppf(TAIL, *freedom))
    upper = correlation(between * stats.f.ppf(TAIL, *reversed(freedom)), within)
    return correlation(between, within), (float(lower), float(upper))


@dataclass(frozen=True)
class Agreement:
    """Differences of pairs after Bland and Altman; NaN for fewer than two pairs."""

    pairs: int
    bias: float = math.nan
    bias_interval: tuple[float, float] = _UNKNOWN
    limits: tuple[float, float] = _UNKNOWN


def agreement(first: np.ndarray, second: np.ndarray) -> Agreement:
    """Bias and 95 % limits of agreement (Bland and Altman, Lancet 1986;327:307-310).

    Parameters
    ----------
    first, second : ndarray, shape (n,)
        Two measurements of every participant.

    Examples
    --------
    >>> found = agreement(np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.1, 3.4]))
    >>> round(found.bias, 3), [round(limit, 3) for limit in found.limits]
    (0.2, [-0.139, 0.539])
    """
    differences = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    pairs = differences.size
    bias = float(differences.mean()) if pairs else math.nan
    if pairs < 2:
        return Agreement(pairs, bias)
    sd = float(differences.std(ddof=1))
    half = float(stats.t.ppf(TAIL, pairs - 1)) * sd / math.sqrt(pairs)
    return Agreement(pairs, bias, (bias - half, bias + half), (bias - LIMITS * sd, bias + LIMITS * sd))
