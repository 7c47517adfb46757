"""Repeats and directions of every b-value to one signal per voxel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse.csgraph import connected_components

from sicnn_app.errors import DataError
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.local_mean import local_mean
from sicnn_app.ivim.series import AveragedSignals, DwiSeries

SAME_DIRECTION = 1.0
"""Degrees; gradient vectors closer than this, up to sign, are repeats of one direction."""

MIN_DIRECTION_NORM = 1e-3
"""A gradient vector shorter than this states no direction."""

UNWEIGHTED_BVAL = 0.5
"""s/mm^2; at or below it there is no diffusion weighting and directions mean nothing."""

LOCAL = 2.0
"""Voxels: standard deviation of the Gaussian in the slice, within the mask, that makes the local level of a
volume out of its signals. One voxel then has 4 % of the level, and what is lost over a region of a few
voxels shows."""

HALF_WEIGHT = 0.6
STEEPNESS = 8
"""Local level relative to the highest at which a weight is cut to half, and how steeply around it."""

LOWEST_LEVEL = 0.01
"""Where a level is lower, or negative: something to go by where no other volume has a value."""


@dataclass(frozen=True)
class VolumeGroups:
    """Which volumes are repeats of which direction of which b-value.

    Attributes
    ----------
    bvals : ndarray, shape (B,), float64, s/mm^2, strictly ascending
    members : tuple (one entry per b-value) of tuples (one per direction) of ndarray of int
        Indices of the volumes that repeat the direction, ascending.
    """

    bvals: np.ndarray
    members: tuple[tuple[np.ndarray, ...], ...]

    @property
    def repeats(self) -> np.ndarray:
        """Volumes per b-value, shape (B,)."""
        return np.array([sum(map(len, directions)) for directions in self.members])

    @property
    def directions(self) -> np.ndarray:
        """Distinct directions per b-value, shape (B,)."""
        return np.array([len(directions) for directions in self.members])

    @property
    def noise_factors(self) -> np.ndarray:
        """Noise of every averaged signal relative to one volume, shape (B,).

        With n_d repeats of each of K directions: sqrt(sum_d 1 / n_d) / K, which is 1 / sqrt(n) for
        n volumes in balanced numbers. For the geometric mean it holds to first order in the noise,
        for directions of similar signal; for the robust one where no volume is weighed down.
        """
        sums = [sum(1.0 / volumes.size for volumes in directions) for directions in self.members]
        return np.sqrt(sums) / self.directions


@dataclass(frozen=True)
class RepeatAverage:
    """One signal per nominal b-value.

    Attributes
    ----------
    signals : ndarray, shape (X, Y, Z, B), float32, units of the source image
        Finite inside ``mask``, 0 outside.
    mask : ndarray, shape (X, Y, Z), bool
        The given mask less the voxels without usable data.
    record : dict
        One row of the preprocessing steps.
    spread : ndarray, shape (X, Y, Z, B), float32, or None
        Of a robust average, its standard deviation as each voxel's own volumes show it.
    """

    signals: np.ndarray
    mask: np.ndarray
    groups: VolumeGroups
    record: dict[str, Any]
    warnings: list[str]
    way: str = "geometric"
    spread: np.ndarray | None = None

    def with_noise(self, sigma: float, method: str, noise: np.ndarray | None = None) -> AveragedSignals:
        """Signals with the noise of a volume, how it was found, and that of every averaged signal.

        Without ``noise``, shape (X, Y, Z, B), it is that of the mean of volumes with no other noise.
        """
        if noise is None:
            noise = np.zeros(self.signals.shape, dtype=np.float32)
            noise[self.mask] = sigma * self.groups.noise_factors
        return AveragedSignals(
            signals=self.signals,
            bvals=self.groups.bvals,
            mask=self.mask,
            repeats=self.groups.repeats,
            directions=self.groups.directions,
            sigma=sigma,
            noise=noise,
            sigma_method=method,
            average=self.way,
        )


def group_volumes(series: DwiSeries) -> VolumeGroups:
    """Sort the volumes of a series by nominal b-value and direction.

    Without a .bvec, and without diffusion weighting, all volumes of a b-value are repeats of one
    direction. Vectors at most :data:`SAME_DIRECTION` apart up to sign are one direction, chains of
    such vectors too; zero and non-finite vectors together are one direction of their own.
    """
    nominal, index = group_bvalues(series.bvals)
    members = []
    for b, bval in enumerate(nominal):
        volumes = np.flatnonzero(index == b)
        labels = np.zeros(volumes.size)
        if series.bvecs is not None and bval > UNWEIGHTED_BVAL:
            labels = _direction_labels(series.bvecs[volumes])
        members.append(tuple(volumes[labels == label] for label in dict.fromkeys(labels.tolist())))
    return VolumeGroups(bvals=nominal, members=tuple(members))


def mean_of_volumes(signals: np.ndarray, volumes: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:
    """Arithmetic mean over the finite values of some volumes, one volume in memory at a time.

    Returns
    -------
    ndarray, shape (X, Y, Z), or (M,) for the M voxels of the mask ``where``, float64
        NaN where no volume is finite.
    """
    size = signals.shape[:3] if where is None else (np.count_nonzero(where),)
    total, count = np.zeros(size), np.zeros(size, dtype=np.int32)
    for volume in volumes:
        values = signals[..., volume] if where is None else signals[..., volume][where]
        finite = np.isfinite(values)
        np.add(total, values, out=total, where=finite)
        count += finite
    return np.divide(total, count, out=np.full(size, np.nan), where=count > 0)


def average_repeats(series: DwiSeries, mask: np.ndarray, way: str = "geometric") -> RepeatAverage:
    """Average the volumes of every b-value in one of three ways.

    Repeats r of a direction d are averaged arithmetically, S_d = mean_r S_dr, and so are directions with
    ``arithmetic``. With ``geometric`` they are not, S = (prod_d S_d)^(1/K) = exp(mean_d ln S_d), which makes
    a tensor's mono-exponential decays one of the mean diffusivity; in a voxel where any S_d of a b-value is
    not positive they are averaged arithmetically all the same. ``robust``: :func:`robust_mean`. Values that
    are not finite are left out of the means, so that a voxel moved out of some volumes keeps its place as
    long as others of the b-value hold it.

    One volume is in memory at a time besides the result, whatever holds the series.

    A voxel is taken out of the mask when a b-value has no finite value in it, when it is the same at
    every b-value (zero, padding), or when its signal at the lowest b-value is not positive.

    Parameters
    ----------
    way : {'arithmetic', 'geometric', 'robust'}

    Raises
    ------
    DataError
        When no voxel of the mask has usable data.
    """
    groups = group_volumes(series)
    signals = np.zeros((*mask.shape, groups.bvals.size), dtype=np.float32)
    spread = np.zeros_like(signals) if way == "robust" else None
    arithmetic_voxels, missing = np.zeros((2, int(mask.sum())), dtype=bool)
    constant = ~missing
    lowest = np.zeros(missing.size, dtype=np.float32)
    for b, directions in enumerate(groups.members):
        if spread is None:
            mean, arithmetic = mean_of_directions(
                series.signals, directions, mask, geometric=way == "geometric"
            )
            arithmetic_voxels |= arithmetic
        else:
            mean, spread[mask, b] = robust_mean(series.signals, directions, mask)
        mean = mean.astype(np.float32)
        if b == 0:
            lowest = mean
        missing |= ~np.isfinite(mean)
        constant &= mean == lowest
        signals[mask, b] = mean

    reasons = {
        "without a finite value at some b-value": missing,
        "with the same signal at every b-value": constant,
        f"without positive signal at b = {groups.bvals[0]:g}": lowest <= 0,
    }
    unusable = np.zeros(missing.size, dtype=bool)
    counts = []
    for reason, holds in reasons.items():
        if count := np.count_nonzero(holds & ~unusable):
            counts.append(f"{count} {reason}")
        unusable |= holds
    removed = "; ".join(counts)
    if unusable.all():
        raise DataError(f"no voxel of the mask has usable data ({removed or 'the mask is empty'})")
    used = mask.copy()
    used[mask] = ~unusable
    signals[~used] = 0.0

    arithmetic_voxels &= ~unusable
    record = {
        "Name": "Averaging of repeats and directions",
        "Description": _describe(series, groups, way),
        "BValues": groups.bvals.tolist(),
        "VolumesPerBValue": groups.repeats.tolist(),
        "DirectionsPerBValue": None if series.bvecs is None else groups.directions.tolist(),
        "VoxelsAveragedArithmetically": int(arithmetic_voxels.sum()),
        "VoxelsWithoutData": int(unusable.sum()),
    }
    warning = f"{int(unusable.sum())} voxels without usable data were taken out of the mask: {removed}"
    return RepeatAverage(signals, used, groups, record, [warning] if counts else [], way, spread)


def mean_of_directions(
    signals: np.ndarray, directions: Sequence[np.ndarray], mask: np.ndarray, *, geometric: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of one b-value in the V voxels of the mask, and where it could not be geometric; shape (V,) each.

    ``directions`` are the volumes of every direction; NaN where no volume is finite.
    """
    means = (mean_of_volumes(signals, volumes, mask) for volumes in directions)
    return mean_over_directions(means, int(mask.sum()), geometric=geometric)


def robust_mean(
    signals: np.ndarray, directions: Sequence[np.ndarray], mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the volumes of one b-value, each weighed by its own signal around the voxel, and its spread.

    Motion and pulsation take signal away and never add any, so of volumes that should be equal the higher one
    is nearer the truth, also where there are but two. With l_i the local level of volume i
    (:data:`LOCAL`) relative to the highest of them, w_i = l_i / (1 + (h / l_i)^k): in proportion to the level
    where volumes nearly agree, and next to nothing where a region has lost half of its signal. As levels and
    not signals weigh, the noise of a voxel hardly changes its own weight, and no floor is lifted. Every
    direction counts the same, whatever its number of repeats.

    The variance of the mean is sum w_i^2 (S_i - S)^2 / W^2, over 1 - sum w_i^2 / W^2 for the mean that was
    taken off, W being the sum of the weights.

    For the choice of level and weights see docs/averages.md.

    Returns
    -------
    mean : ndarray, shape (V,)
        NaN where no volume is finite.
    spread : ndarray, shape (V,)
        Standard deviation of the mean; 0 where a single volume is finite.
    """
    volumes = np.concatenate(directions)
    if volumes.size == 1:
        mean = mean_of_volumes(signals, volumes, mask)
        return mean, np.zeros_like(mean)
    # Twice through the volumes rather than all of their levels in memory.
    highest = np.full(int(mask.sum()), -np.inf)
    for volume in volumes:
        np.maximum(highest, local_mean(signals[..., volume], mask, LOCAL), out=highest)
    # Deviations from the first volume, so that large signals with little noise lose no digits.
    first = np.nan_to_num(signals[..., volumes[0]][mask].astype(np.float64), posinf=0.0, neginf=0.0)
    weights, total, squared_weights, cross, squares = np.zeros((5, highest.size))
    for repeats in directions:
        for volume in repeats:
            deviation = signals[..., volume][mask] - first
            level = local_mean(signals[..., volume], mask, LOCAL)
            level = np.divide(level, highest, out=np.ones_like(highest), where=highest > 0)
            np.clip(level, LOWEST_LEVEL, None, out=level)
            weight = level / (1 + (HALF_WEIGHT / level) ** STEEPNESS) / repeats.size
            weight[~np.isfinite(deviation)] = 0.0
            deviation = np.where(weight > 0, deviation, 0.0)
            weights += weight
            total += weight * deviation
            squared_weights += weight**2
            cross += weight**2 * deviation
            squares += (weight * deviation) ** 2
    known = weights > 0
    weights[~known] = 1.0
    mean = total / weights
    share = squared_weights / weights**2
    squares = np.maximum(squares - 2 * mean * cross + mean**2 * squared_weights, 0.0) / weights**2
    spread = np.sqrt(np.divide(squares, 1 - share, out=np.zeros_like(mean), where=share < 1 - 1e-9))
    return np.where(known, first + mean, np.nan), spread


def _direction_labels(bvecs: np.ndarray) -> np.ndarray:
    """One label per vector, shape (n,); -1 where there is no direction."""
    norms = np.linalg.norm(bvecs, axis=1)
    known = np.isfinite(norms) & (norms > MIN_DIRECTION_NORM)
    labels = np.full(norms.size, -1)
    if known.any():
        unit = bvecs[known] / norms[known, None]
        close = np.abs(unit @ unit.T) >= np.cos(np.deg2rad(SAME_DIRECTION))
        labels[known] = connected_components(close, directed=False)[1]
    return labels


def mean_over_directions(
    means: Iterable[np.ndarray], voxels: int, *, geometric: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of one b-value over its directions, and where it could not be geometric; shape (V,) for V voxels.

    ``means`` are those of the repeats of every direction, NaN where none is finite, taken one at a time; so
    is the result where no direction is finite.
    """
    total, log_total = np.zeros((2, voxels))
    count = np.zeros(voxels, dtype=np.int32)
    positive = np.ones(voxels, dtype=bool)
    directions = 0
    for mean in means:
        directions += 1
        finite = np.isfinite(mean)
        above = mean > 0
        np.add(total, mean, out=total, where=finite)
        log_total += np.log(mean, out=np.zeros_like(mean), where=above)
        count += finite
        positive &= above | ~finite
    count = np.where(count > 0, count, np.nan)
    arithmetic = ~positive if directions > 1 and geometric else np.zeros(voxels, dtype=bool)
    if not geometric:
        return total / count, arithmetic
    with np.errstate(invalid="ignore"):
        return np.where(positive, np.exp(log_total / count), total / count), arithmetic


def _describe(series: DwiSeries, groups: VolumeGroups, way: str) -> str:
    if groups.repeats.max() == 1:
        return "One volume per b-value: nothing to average"
    if way == "robust":
        return (
            "Mean of the volumes of every b-value, each weighed by its signal around the voxel, and next to "
            "nothing where it lost half of it"
        )
    if series.bvecs is None:
        return "Arithmetic mean of the volumes of every b-value; there are no gradient directions"
    if groups.directions.max() == 1:
        return "Arithmetic mean of the repeats of every b-value; there is one direction per b-value"
    if way == "arithmetic":
        return "Arithmetic mean of the repeats of a direction, then of the directions of a b-value"
    return (
        "Arithmetic mean of the repeats of a direction, then geometric mean over the directions of a b-value "
        "(arithmetic in voxels where a direction is not positive)"
    )
