"""Noise standard deviation of one volume, from repeats or from what a smooth decay leaves over."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.optimize import nnls
from scipy.stats import chi2

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.average import UNWEIGHTED_BVAL, RepeatAverage, VolumeGroups, average_repeats

NEAR_ZERO_BVAL = 20.0
"""s/mm^2; up to it directions differ by less than the noise (20 * 0.0005 mm^2/s = 1 % of the signal),
so volumes without a .bvec count as repeats."""

MIN_UNWEIGHTED_REPEATS = 3
"""Volumes at b = 0 from which on the other repeats, if there are any, are not needed."""

MIN_VOXELS = 20
"""With fewer voxels the median over voxels is replaced by the mean, which wastes no data."""

DECAY_RATES = np.concatenate([[0.0], np.geomspace(2e-4, 0.2, 40)])
"""mm^2/s; exponentials whose non-negative sums reach any IVIM decay, and a constant for the noise floor."""

MAX_FITTED_VOXELS = 1000
"""Evenly spaced voxels that are fitted: enough for a scatter of the result of 1 to 2 %."""


@dataclass(frozen=True)
class Noise:
    """Noise of one volume.

    Attributes
    ----------
    sigma : float
        Standard deviation in one volume as it was acquired, units of the source image: the one that
        makes the noise floor of magnitude images.
    method : str
        How it was estimated, in words.
    remaining : float
        Standard deviation in one volume that would leave as much noise in the averaged signals as they
        hold; below ``sigma`` after denoising, equal to it otherwise.
    details : dict of str to float
        Other estimates behind it, for the sidecar.
    """

    sigma: float
    method: str
    remaining: float
    details: dict[str, float] = field(default_factory=dict)


def estimate_noise(series: DwiSeries, average: RepeatAverage) -> Noise:
    """Noise standard deviation of a single volume, sigma-hat.

    From repeats of b = 0 when there are at least 3, else from all repeats of one b-value and
    direction (:func:`noise_from_repeats`), else from the residuals of a smooth decay
    (:func:`noise_from_decay`). Repeats include what changes from volume to volume besides thermal
    noise (pulsation, breathing); that is noise to the average, too. After motion correction, whose
    interpolation smooths noise and leaves errors of position, the estimate of a simulated brain was 1.1 to
    1.2 times the true median error of the averages.

    Both assume Gaussian noise. In magnitude images the noise is Rician: its standard deviation falls
    below sigma where the signal is below about 3 sigma (to 0.66 sigma without signal), so sigma-hat
    is a few per cent low when much of the series lies there (Gudbjartsson and Patz, Magn Reson
    Med 1995;34:910-914). No correction is made.
    """
    sets, what = _repeats(series, average.groups)
    if sets:
        sigma = noise_from_repeats(series.signals, sets, average.mask)
        if sigma > 0:
            count = sum(volumes.size for volumes in sets)
            method = f"standard deviation of {count} repeated volumes ({what}), median over voxels"
            return Noise(sigma, method, remaining=sigma)
    voxels = _evenly_spaced(average.mask)
    sigma = noise_from_decay(average.signals[voxels], average.groups.bvals, average.groups.noise_factors)
    method = "residuals of a non-negative sum of exponentials fitted to the decay, median over voxels"
    return Noise(sigma, method, remaining=sigma)


def noise_after_denoising(
    noisy: DwiSeries, denoised: DwiSeries, mask: np.ndarray, scatter: Noise, earlier: Noise | None = None
) -> Noise:
    """Noise of a series that was denoised: as acquired, and what remains in its averaged signals.

    Denoised repeats look alike and denoised decays are smooth, whatever error they share: in simulated
    abdomens and brains (SNR 10 and 40, 1 to 6 repeats) :func:`estimate_noise` then finds a half to a sixth
    of the error that is left. Error and removed part of an averaged signal are nearly orthogonal: a
    projection such as MP-PCA splits the noise, sigma^2 = removed^2 + error^2; a prediction from other
    volumes such as Patch2Self removes the noise whole and its own error with it,
    removed^2 = sigma^2 + error^2. Hence error^2 = |sigma^2 - removed^2|, with sigma from before denoising
    and both in units of one volume. On the same simulations it is 1.0 to 1.4 times the true median error
    after MP-PCA and 0.7 to 1.2 times after Patch2Self. With the scatter alone
    SI-CNN can get worse than without denoising (docs/preprocessing.md).

    Motion counts as noise before denoising, which comes before its correction, and makes both too high:
    2 times in a simulated brain with every other volume up to 1.5 voxels off.

    Both series are from before motion correction. At most :data:`MAX_FITTED_VOXELS` voxels of the mask are
    used. What remains is never below ``scatter``, the noise of the final series.

    Where another step has lowered the noise before, ``earlier`` is what this function found of it: the noise
    as acquired stays that, and this step takes off from what remained.
    """
    voxels = _evenly_spaced(mask)
    few = [_at(series, voxels) for series in (noisy, denoised)]
    before, after = (average_repeats(one, np.ones(one.signals.shape[:3], dtype=bool)) for one in few)
    acquired = earlier or estimate_noise(few[0], before)
    both = before.mask & after.mask
    removed = (before.signals[both] - after.signals[both]) / before.groups.noise_factors
    squares = np.square(removed, dtype=np.float64).sum(axis=1)
    removed_sigma = _sigma(squares, removed.shape[1])
    removed_before = earlier.details["NoiseRemovedByDenoising"] if earlier else 0.0
    remaining = max(float(np.sqrt(abs(acquired.remaining**2 - removed_sigma**2))), scatter.sigma)
    told = f"{acquired.method}, before denoising; what remains from what denoising took off the averages"
    return Noise(
        sigma=acquired.sigma,
        method=earlier.method if earlier else told,
        remaining=remaining,
        details={
            "NoiseRemovedByDenoising": float(np.hypot(removed_sigma, removed_before)),
            "NoiseStandardDeviationRemaining": remaining,
            "ScatterAfterPreprocessing": scatter.sigma,
        },
    )


def noise_from_repeats(signals: np.ndarray, sets: list[np.ndarray], mask: np.ndarray) -> float:
    """Noise from volumes that should be equal.

    Per voxel the pooled sample variance v = sum_k sum_i (S_ki - mean_k)^2 / nu with
    nu = sum_k (n_k - 1) over the sets k of n_k repeats; then sigma^2 = median(v) nu / q with the
    median q of the chi-square distribution of nu degrees of freedom. The median ignores the few voxels
    where flow or movement dominates. Voxels with a value that is not finite are left out; 0 when all are.
    Every one of the ``sets`` holds the indices of 2 or more volumes.
    """
    squares = np.zeros(int(mask.sum()))
    for volumes in sets:
        # Deviations from the first repeat, so that large signals with little noise lose no digits.
        first = signals[..., volumes[0]][mask].astype(np.float64)
        total, total_squares = np.zeros_like(first), np.zeros_like(first)
        with np.errstate(invalid="ignore"):
            for volume in volumes[1:]:
                deviation = signals[..., volume][mask] - first
                total += deviation
                total_squares += deviation**2
            squares += np.maximum(total_squares - total**2 / volumes.size, 0.0)
    freedom = sum(volumes.size - 1 for volumes in sets)
    finite = np.isfinite(squares)
    return _sigma(squares[finite], freedom)


def noise_from_decay(signals: np.ndarray, bvals: np.ndarray, noise_factors: np.ndarray) -> float:
    """Noise from what the best non-negative sum of exponentials does not explain.

    S(b) = sum_j a_j exp(-b R_j) with a_j >= 0 over :data:`DECAY_RATES` is fitted with weights
    1 / factor(b) by non-negative least squares. With m active terms the squared residual over
    sigma^2 follows a chi-square distribution of B - m degrees of freedom; every voxel gives
    residual^2 / median(chi2), and sigma^2 is the median over voxels. Unlike a spatial filter this is
    blind to texture and edges. On simulated bi-exponential decays with Rician noise (SNR 100 down to
    8) it is on average 10 to 22 % low for 4 b-values, 2 to 8 % for 8 and at most 4 % for 12 or more;
    one estimate from 1000 voxels scatters by 1 to 2 % around that, with 4 b-values by 4 %.

    Every row of ``signals``, shape (M, B), averaged, is fitted; for ``noise_factors``, shape (B,), see
    :class:`sicnn_app.preprocess.average.VolumeGroups`.
    """
    decays = np.exp(-np.outer(bvals, DECAY_RATES)) / noise_factors[:, None]
    squares, freedom = np.zeros(len(signals)), np.zeros(len(signals), dtype=int)
    for i, decay in enumerate(signals):
        amplitudes, residual = nnls(decays, decay.astype(np.float64) / noise_factors)
        squares[i] = residual**2
        freedom[i] = bvals.size - np.count_nonzero(amplitudes)
    fitted = freedom > 0
    return _sigma(squares[fitted], freedom[fitted])


def _evenly_spaced(mask: np.ndarray) -> tuple[np.ndarray, ...]:
    """Indices of at most MAX_FITTED_VOXELS voxels of a mask."""
    inside = np.flatnonzero(mask)
    chosen = np.linspace(0, inside.size - 1, min(inside.size, MAX_FITTED_VOXELS)).astype(int)
    return np.unravel_index(inside[chosen], mask.shape)


def _at(series: DwiSeries, voxels: tuple[np.ndarray, ...]) -> DwiSeries:
    """The series of some voxels only, along the first axis; one volume is read at a time."""
    signals = np.stack([series.signals[..., i][voxels] for i in range(series.bvals.size)], axis=-1)
    return replace(series, signals=signals[:, None, None, :])


def _sigma(squares: np.ndarray, freedom: np.ndarray | int) -> float:
    """Standard deviation from sums of squares, shape (M,), with the freedom of each or of all."""
    if squares.size == 0:
        return 0.0
    if squares.size < MIN_VOXELS:
        return float(np.sqrt(squares.sum() / np.broadcast_to(freedom, squares.shape).sum()))
    return float(np.sqrt(np.median(squares / chi2.median(freedom))))


def _repeats(series: DwiSeries, groups: VolumeGroups) -> tuple[list[np.ndarray], str]:
    """Sets of volumes that repeat each other, and what they repeat; no set when there are none."""
    every = [
        (bval, volumes)
        for bval, sets in zip(groups.bvals, groups.members, strict=True)
        for volumes in sets
        if volumes.size > 1
    ]
    unweighted = [volumes for bval, volumes in every if bval <= UNWEIGHTED_BVAL]
    if sum(volumes.size for volumes in unweighted) >= MIN_UNWEIGHTED_REPEATS:
        return unweighted, "b = 0"
    trusted = [volumes for bval, volumes in every if series.bvecs is not None or bval <= NEAR_ZERO_BVAL]
    return trusted, "same b-value and direction"
