"""Noise of a volume and of averaged signals: thermal, physiological variation, and what denoising left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.ndimage import gaussian_filter1d, uniform_filter

from sicnn_app.errors import DataError
from sicnn_app.ivim.local_mean import local_mean
from sicnn_app.ivim.magnitudes import magnitude_variance, signal_of_mean
from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.average import RepeatAverage, VolumeGroups, average_repeats, mean_of_directions

NEAR_ZERO_BVAL = 20.0
"""s/mm^2; up to it directions differ by less than the noise (20 * 0.0005 mm^2/s = 1 % of the signal),
so volumes without a .bvec count as repeats."""

REGION = 3.0
"""Voxels: standard deviation of the Gaussian in the slice, within the mask, over which squares are averaged:
about 110 voxels, so that one degree of freedom per voxel gives the noise around it to within 7 %."""

WIDER = 6.0
"""Voxels: the same for thermal noise, which coils and reconstruction change slowly."""

APART = 2
"""Voxels between neighbours that are compared: interpolation by up to two makes those next to each other
alike."""

REPEATED_SHARE = 0.5
"""Of the b-values: with repeats at fewer, what a smooth decay leaves over is taken as well. Thermal noise and
variation are told apart by b-values with different signals, and repeats are often those of the low ones."""

SMOOTH_DECAYS = 4
"""Dimensions of the smooth decays at most: sums of two exponentials lie within 0.1 % of S0 of so many."""

DIFFUSION = np.geomspace(2e-4, 4e-3, 12)
PERFUSION = np.geomspace(5e-3, 0.2, 12)
FRACTIONS = np.array([0.0, 0.1, 0.3])
"""D, D* (mm^2/s) and F of the decays that span the smooth ones."""

MAX_TRIED_VOXELS = 16000
"""Of the part of an image on which a denoising is tried out: its noise is known to within about 2 % then."""

SMOOTH_BVALS = 1.0
"""b-values: standard deviation of the Gaussian over which lost tissue, known roughly, is averaged."""

MARGIN = 3
"""Voxels at a cut that are not counted: patches end there."""

SMALL = 0.1
"""Share of the noise that is added to acquired images: too little to change what denoising decides."""

MAGNITUDE_ROUNDS = 4
"""Of finding the noise and its share in small magnitudes in turn; more change it by less than 1 % where
signals at b = 0 are six times the noise."""

VOXELS_AT_ONCE = 2**14
"""Slices of about so many voxels are looked at together."""

SMALLEST = 1e-12
"""Of mean squares relative to the signal squared: below it there is no noise."""

Redo = Callable[[DwiSeries], DwiSeries]
"""The steps that lowered the noise, done to another series of the same volumes."""


@dataclass(frozen=True)
class Denoising:
    """What lowered the noise of a series.

    Attributes
    ----------
    acquired, denoised : DwiSeries
        Before and after the steps.
    redo : callable (DwiSeries) -> DwiSeries
        The steps, done to another series of the same volumes.
    """

    acquired: DwiSeries
    denoised: DwiSeries
    redo: Redo


@dataclass(frozen=True)
class Noise:
    """Noise of a series.

    Attributes
    ----------
    sigma : float
        Thermal noise of one volume as it was acquired, standard deviation, units of the source image: the one
        that makes the noise floor of magnitude images. Median over the mask.
    averaged : ndarray, shape (X, Y, Z, B), float32
        Standard deviation of the averaged signals from what another measurement without noise would give:
        thermal noise that is left, physiological variation and noise floor; 0 outside the mask.
    method : str
        How it was estimated, in words.
    details : dict of str to list of float
        Parts of ``averaged`` per b-value, root mean squares over the mask, for the sidecar.
    acquired : tuple of two ndarray, shape (X, Y, Z, B), float32, or None
        Of a series that was denoised, the averaged signals as acquired and their noise.
    left, left_in_shape : float
        Share of the thermal noise that denoising left: over all b-values, and in the directions in which the
        shape of a decay can change.
    """

    sigma: float
    averaged: np.ndarray
    method: str
    details: dict[str, list[float]] = field(default_factory=dict)
    acquired: tuple[np.ndarray, np.ndarray] | None = None
    left: float = 1.0
    left_in_shape: float = 1.0


@dataclass(frozen=True)
class _Moment:
    """Mean squares around every voxel that are a sum of both kinds of noise; relative to the level squared.

    Attributes
    ----------
    shares : ndarray, shape (B,)
        What the variance of one volume of every b-value is multiplied by in the sum.
    variation : ndarray, shape (V,)
        What the squared relative variation is multiplied by.
    squares, differences : ndarray, shape (V,)
        Of deviations, and half those of differences between the deviations of neighbouring voxels: both have
        the same expectation where noise is independent from voxel to voxel, while variation moves neighbours
        together.
    weight : float
        Inverse variance of the squares, up to a factor common to all moments.
    """

    shares: np.ndarray
    variation: np.ndarray
    squares: np.ndarray
    differences: np.ndarray
    weight: float


@dataclass(frozen=True)
class _Spread:
    """Moments of a series, and the variance of one volume where repeats show it, by place of the b-value."""

    moments: list[_Moment]
    repeated: dict[int, np.ndarray]


def estimate_noise(series: DwiSeries, average: RepeatAverage) -> Noise:
    """Noise of a series that was not denoised, around every voxel.

    Two things make volumes differ that should be equal: thermal noise, the same at every b-value and
    independent from voxel to voxel, and physiological variation (pulsation, breathing), which moves whole
    regions in proportion to their signal. The variance of a volume is v(b) = t^2 + (c S(b))^2. Mean squares
    of repeats around every voxel, or, with repeats at less than :data:`REPEATED_SHARE` of the b-values, of
    what a smooth decay leaves over, hold both; those of differences between neighbours hold thermal noise
    and, at edges, some variation, and are split by non-negative least squares over the b-values. Volumes of
    a robust average all count as repeats, else those of one b-value and direction.

    The noise of an averaged signal is what its repeats show, with their weights, and v(b) where there are
    none. In magnitude images the bias of the noise floor is part of it. Interpolation, by motion correction
    or by the scanner, makes neighbours alike, and t low where it reaches over :data:`APART` voxels.

    How near it comes: docs/noise.md.
    """
    level, found = _level(average), _Collected(average)
    for slab in _slabs(average.mask):
        found.add(slab, *_parts(_cut(series, slab), _cut_average(average, slab), level))
    return found.noise(level, _method(series, average))


def noise_after_denoising(denoising: Denoising, final: DwiSeries, average: RepeatAverage) -> Noise:
    """Noise of a series that was denoised: as acquired, and what is left in its averaged signals.

    Denoised repeats look alike and denoised decays are smooth, whatever error they share, so that neither
    tells it. Instead the denoising is tried out on a part of the image, twice: on the denoised images with
    thermal noise of the estimated size added, whose error is then known, and on those acquired with a little
    more noise, of which it lets through a share h; for a projection such as MP-PCA the variance left is
    h sigma^2. The first is a little low, because denoised images are simpler than the truth, the second a
    little high, because patches overlap: their mean square is taken, for every b-value, in proportion to the
    thermal noise around every voxel. To it comes tissue that was taken for noise, which is what the volumes
    of a b-value lost in common beyond what they lose of the noise on trial; the noise floor; and what
    variation the denoised repeats, or what a smooth decay leaves over of their averages, show beyond that.

    Parameters
    ----------
    final : DwiSeries
        After all steps; what ``average`` is the average of.
    """
    level, found, mask = _level(average), _Collected(average), average.mask
    thermal_noise = np.full(mask.shape, np.nan)
    signals, of_acquired = average.signals.copy(), np.zeros_like(average.signals)
    for slab in _slabs(mask):
        here = _cut(denoising.acquired, slab)
        # Voxels may have data after the steps alone.
        with suppress(DataError):
            raw = average_repeats(here, mask[:, :, slab], average.way)
            thermal, *parts = _parts(here, raw, level)
            thermal_noise[:, :, slab][raw.mask] = thermal
            signals[:, :, slab][raw.mask] = raw.signals[raw.mask]
            of_acquired[:, :, slab][raw.mask] = np.sqrt(sum(parts)) * level
    unknown = mask & np.isnan(thermal_noise)
    thermal_noise[unknown] = np.median(thermal_noise[mask & ~unknown]) if (mask & ~unknown).any() else 0.0
    left, seen, shares = _tried_out(denoising, average, np.sqrt(thermal_noise) * level, level)

    factors = average.groups.noise_factors
    # Variation of a b-value is let through where thermal noise is.
    passed = left / max(left.mean(), SMALLEST)
    for slab in _slabs(mask):
        averaged = _cut_average(average, slab)
        thermal = thermal_noise[:, :, slab][averaged.mask]
        spread = _spread(_cut(final, slab), averaged, level)
        relative = _variation(spread.moments, seen, thermal)
        signals_here = _relative(averaged, level)
        floor, small = _of_magnitudes(signals_here, thermal)
        variation = relative[:, None] * (signals_here * factors) ** 2 * passed
        for (b, of_mean), share in zip(_of_means(spread, averaged, level), seen, strict=False):
            variation[:, b] = np.maximum(of_mean - share * thermal * factors[b] ** 2, 0.0)
        found.add(slab, thermal, thermal[:, None] * small * left, variation, floor)
    before = _method(denoising.acquired, average)
    method = f"{before}, before denoising; what is left by denoising noise of that size"
    noise = found.noise(level, method)
    acquired = signals, np.where(of_acquired > 0, of_acquired, noise.averaged)
    return replace(noise, acquired=acquired, left=shares[0], left_in_shape=shares[1])


def _parts(series: DwiSeries, average: RepeatAverage, level: float) -> tuple[np.ndarray, ...]:
    """Thermal variance of a volume, shape (V,); of the averages thermal, other and floor, (V, B) each."""
    spread = _spread(series, average, level)
    signals, factors = _relative(average, level), average.groups.noise_factors
    thermal, relative, share = _split(spread.moments, signals, average.mask)
    of_volumes = thermal[:, None] * share * factors**2
    variance = of_volumes + relative[:, None] * (signals * factors) ** 2
    for b, of_mean in _of_means(spread, average, level):
        variance[:, b] = of_mean
    left = np.minimum(of_volumes, variance, out=of_volumes)
    variance -= left
    return thermal, left, variance, _of_magnitudes(signals, thermal)[0]


class _Collected:
    """Noise slab by slab: what is in memory besides the result stays small."""

    def __init__(self, average: RepeatAverage) -> None:
        self.mask = average.mask
        self.averaged = np.zeros(average.signals.shape, dtype=np.float32)
        self.thermal: list[np.ndarray] = []
        self.sums = np.zeros((3, average.signals.shape[3]))

    def add(self, slab: slice, thermal: np.ndarray, *parts: np.ndarray) -> None:
        """Take in the thermal variance of a volume, and what the variance of the averages is made of."""
        self.thermal.append(thermal)
        self.averaged[:, :, slab][self.mask[:, :, slab]] = np.sqrt(sum(parts))
        self.sums += [part.sum(axis=0) for part in parts]

    def noise(self, level: float, method: str) -> Noise:
        """All of it, in units of the source image."""
        self.averaged *= np.float32(level)
        names = ("ThermalNoisePerBValue", "PhysiologicalVariationPerBValue", "NoiseFloorPerBValue")
        means = np.sqrt(self.sums / self.mask.sum()) * level
        return Noise(
            sigma=float(np.sqrt(np.median(np.concatenate(self.thermal))) * level),
            averaged=self.averaged,
            method=method,
            details={name: values.tolist() for name, values in zip(names, means, strict=True)},
        )


def _slabs(mask: np.ndarray) -> Iterator[slice]:
    """Slices of about :data:`VOXELS_AT_ONCE` voxels together that hold some of the mask."""
    at_once = max(1, VOXELS_AT_ONCE // mask[:, :, 0].size)
    for start in range(0, mask.shape[2], at_once):
        slab = slice(start, min(start + at_once, mask.shape[2]))
        if mask[:, :, slab].any():
            yield slab


def _cut(series: DwiSeries, slab: slice) -> DwiSeries:
    return replace(series, signals=series.signals[:, :, slab])


def _cut_average(average: RepeatAverage, slab: slice) -> RepeatAverage:
    spread = None if average.spread is None else average.spread[:, :, slab]
    return replace(average, signals=average.signals[:, :, slab], mask=average.mask[:, :, slab], spread=spread)


def _method(series: DwiSeries, average: RepeatAverage) -> str:
    repeated = [
        bval for bval, sets in zip(average.groups.bvals, _repeats(series, average), strict=True) if sets
    ]
    if not repeated:
        return "what a smooth decay leaves over, around every voxel"
    shown = "every b-value"
    if len(repeated) < average.groups.bvals.size:
        shown = f"b = {', '.join(f'{bval:g}' for bval in repeated)}"
    decay = (
        " and what a smooth decay leaves over"
        if len(repeated) < REPEATED_SHARE * average.groups.bvals.size
        else ""
    )
    return f"differences between volumes of {shown}{decay}, around every voxel"


def _level(average: RepeatAverage) -> float:
    """Median size of the signals at the lowest b-value: squares of what is relative to it stay in range."""
    return float(np.median(np.abs(average.signals[average.mask, 0]).astype(np.float64)))


def _relative(average: RepeatAverage, level: float) -> np.ndarray:
    """Averaged signals of the voxels of the mask, relative to the level, shape (V, B)."""
    return average.signals[average.mask].astype(np.float64) / level


def _of_magnitudes(signals: np.ndarray, thermal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What magnitudes make of thermal noise under signals of shape (V, B), the same shape each.

    How far the noise floor lifts them, squared, and the share of the thermal variance that they have. The
    mean of several volumes is a mean magnitude, whose signal is known; a single one is taken for its mean.
    Signals below 0 are no magnitudes.
    """
    lift, share = np.zeros_like(signals), np.ones_like(signals)
    if (signals >= 0).all():
        sigma = np.sqrt(np.maximum(thermal, SMALLEST))
        for b, signal in enumerate(signals.T):
            without = signal_of_mean(signal / sigma)
            lift[:, b] = np.square(signal - sigma * without)
            share[:, b] = magnitude_variance(without)
    return lift, share


def _repeats(series: DwiSeries, average: RepeatAverage) -> Iterator[list[np.ndarray]]:
    """Per b-value, the sets of volumes that should be equal."""
    for bval, directions in zip(average.groups.bvals, average.groups.members, strict=True):
        if average.way == "robust":
            sets: Sequence[np.ndarray] = [np.concatenate(directions)]
        else:
            sets = directions if series.bvecs is not None or bval <= NEAR_ZERO_BVAL else []
        yield [volumes for volumes in sets if volumes.size > 1]


def _spread(series: DwiSeries, average: RepeatAverage, level: float) -> _Spread:
    """How much volumes, or else their averages, differ from what they should be."""
    mask, signals = average.mask, _relative(average, level)
    moments, repeated = [], {}
    for b, sets in enumerate(_repeats(series, average)):
        if not sets:
            continue
        squares, differences = np.zeros((2, signals.shape[0]))
        freedom = sum(volumes.size - 1 for volumes in sets)
        for volumes in sets:
            for one in _deviations(series.signals, volumes, level):
                squares += _around(one**2, mask)
                differences += _around(_neighbour_differences(one, mask), mask)
        repeated[b] = squares / freedom
        weight = _weight(repeated[b], freedom)
        alone = np.eye(average.groups.bvals.size)[b]
        moments.append(_Moment(alone, signals[:, b] ** 2, repeated[b], differences / freedom, weight))
    if len(repeated) < REPEATED_SHARE * average.groups.bvals.size:
        moments += _moments_of_decay(signals, mask, average.groups)
    return _Spread(moments, repeated)


def _deviations(signals: np.ndarray, volumes: np.ndarray, level: float) -> Iterator[np.ndarray]:
    """Every volume less the mean of all, relative to the level, shape (X, Y, Z); one in memory at a time.

    Deviations from the first one make the mean, so that large signals with little noise lose no digits.
    """
    first = signals[..., volumes[0]].astype(np.float64)
    mean = sum((signals[..., volume] - first) / level for volume in volumes[1:]) / volumes.size
    for volume in volumes:
        yield (signals[..., volume] - first) / level - mean


def _moments_of_decay(signals: np.ndarray, mask: np.ndarray, groups: VolumeGroups) -> list[_Moment]:
    """Moments of what smooth decays leave over of averaged signals, shape (V, B)."""
    factors = groups.noise_factors
    left_over = _not_smooth(groups.bvals, factors)
    shares = left_over**2
    residuals = (signals / factors) @ left_over.T
    found = []
    for b in np.flatnonzero(left_over.diagonal() > 1e-3):
        volume = np.zeros(mask.shape)
        volume[mask] = residuals[:, b]
        differences = _around(_neighbour_differences(volume, mask), mask)
        # Where so few b-values leave hardly any freedom, what the decays leave over is what tissue is like,
        # and the same in neighbours.
        squares = _around(volume**2, mask) if groups.bvals.size > SMOOTH_DECAYS + 1 else differences
        weight = _weight(squares, left_over[b, b])
        found.append(_Moment(shares[b], signals**2 @ shares[b], squares, differences, weight))
    return found


def _not_smooth(bvals: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """What is left of signals over their noise factors when smooth decays are taken off, shape (B, B)."""
    smooth = _smooth(bvals, factors)
    return np.eye(bvals.size) - smooth @ smooth.T


def _smooth(bvals: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Directions of smooth decays over their noise factors, orthonormal, shape (B, up to 4)."""
    d, dstar, f = (values.ravel() for values in np.meshgrid(DIFFUSION, PERFUSION, FRACTIONS))
    decays = (1 - f) * np.exp(-np.outer(bvals, d)) + f * np.exp(-np.outer(bvals, dstar))
    directions = np.linalg.svd(decays / factors[:, None], full_matrices=False)[0]
    return directions[:, : min(SMOOTH_DECAYS, bvals.size - 1)]


def _weight(squares: np.ndarray, freedom: float) -> float:
    """Inverse variance of mean squares, up to a factor."""
    return freedom / max(float(np.median(squares)), SMALLEST) ** 2


def _around(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mean around every voxel of the mask, shape (V,), float64."""
    return local_mean(values, mask, REGION).astype(np.float64)


def _neighbour_differences(volume: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Half the mean squared difference to the voxels :data:`APART` in the slice, shape (X, Y, Z).

    NaN where none is in the mask.
    """
    total, count = np.zeros((2, *mask.shape))
    for axis in (0, 1):
        lower = tuple(slice(None, -APART) if axis == one else slice(None) for one in range(3))
        upper = tuple(slice(APART, None) if axis == one else slice(None) for one in range(3))
        pairs = mask[lower] & mask[upper]
        squares = np.where(pairs, (volume[upper] - volume[lower]) ** 2 / 2, 0.0)
        for side in (lower, upper):
            total[side] += squares
            count[side] += pairs
    return np.divide(total, count, out=np.full(mask.shape, np.nan), where=count > 0)


def _split(
    moments: list[_Moment], signals: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thermal variance and squared relative variation around every voxel, shape (V,) each, and shares.

    Thermal noise is that of the neighbours, which a region that moves does not make larger, over a wider
    surrounding, since coils change it slowly. What the squares hold besides is variation. Small magnitudes
    have a share of the thermal variance, shape (V, B), which is found in turn with it.
    """
    share = np.ones_like(signals)
    for _ in range(MAGNITUDE_ROUNDS):
        factors = [share @ one.shares for one in moments]
        thermal = _of_neighbours(moments, factors)
        if not thermal.any():
            # No neighbours, or none that differ: all is taken for thermal noise.
            alone = _one_kind(moments, factors, [one.squares for one in moments])
            return alone, np.zeros_like(alone), share
        volume = np.zeros(mask.shape)
        volume[mask] = thermal
        thermal = local_mean(volume, mask, WIDER).astype(np.float64)
        variation = _variation(moments, factors, thermal)
        share = _of_magnitudes(signals, thermal)[1]
    return thermal, variation, share


def _variation(
    moments: list[_Moment], factors: Sequence[float | np.ndarray], thermal: np.ndarray
) -> np.ndarray:
    """Squared relative variation, shape (V,), of what moments hold besides these factors of thermal noise."""
    rest = [
        np.maximum(one.squares - factor * thermal, 0.0) for one, factor in zip(moments, factors, strict=True)
    ]
    return _one_kind(moments, [one.variation for one in moments], rest)


def _one_kind(
    moments: list[_Moment], factors: Sequence[float | np.ndarray], squares: Sequence[np.ndarray]
) -> np.ndarray:
    """What, times the factors, explains squares best, shape (V,); each weighs by its own precision."""
    explained, power = np.zeros((2, squares[0].size))
    for one, factor, values in zip(moments, factors, squares, strict=True):
        explained += one.weight * factor * values
        power += one.weight * factor**2
    return explained / np.maximum(power, np.finfo(np.float64).tiny)


def _of_neighbours(moments: list[_Moment], factors: Sequence[np.ndarray]) -> np.ndarray:
    """Thermal variance, shape (V,): with variation, neither negative, what explains the differences best."""
    aa, ac, cc, ay, cy = np.zeros((5, moments[0].differences.size))
    for one, factor in zip(moments, factors, strict=True):
        aa += one.weight * factor**2
        ac += one.weight * factor * one.variation
        cc += one.weight * one.variation**2
        ay += one.weight * factor * one.differences
        cy += one.weight * one.variation * one.differences
    determinant = aa * cc - ac**2
    # Where b-values do not tell the two apart all is thermal.
    known = (determinant > 1e-9 * aa * cc) & (aa * cy >= ac * ay)
    both = np.maximum(cc * ay - ac * cy, 0.0) / np.where(known, determinant, 1.0)
    return np.where(known, both, ay / np.maximum(aa, np.finfo(np.float64).tiny))


def _of_means(spread: _Spread, average: RepeatAverage, level: float) -> Iterator[tuple[int, np.ndarray]]:
    """Variance of the averaged signals of b-values with repeats, shape (V,), by place of the b-value."""
    for b, of_volume in spread.repeated.items():
        if average.spread is None:
            yield b, of_volume * average.groups.noise_factors[b] ** 2
        else:
            yield b, _around((average.spread[..., b] / level) ** 2, average.mask)


def _tried_out(
    denoising: Denoising, average: RepeatAverage, sigma: np.ndarray, level: float
) -> tuple[np.ndarray, list[float], tuple[float, float]]:
    """What a denoising leaves of noise, relative to the thermal variance of a volume.

    Returns
    -------
    left : ndarray, shape (B,)
        Variance of the averaged signals.
    seen : list of float
        What each moment of the denoised series shows of it.
    shares : tuple of two float
        Of the noise of averaged signals what is left: over all b-values, and in the shape of decays.
    """
    box, counted = _part(average.mask)
    mask = average.mask[box] & counted
    noisy, clean = (
        replace(one, signals=np.asarray(one.signals[box])) for one in (denoising.acquired, denoising.denoised)
    )
    # Where an image is 0 in every volume it was cut off, and denoising leaves it alone.
    sigma = np.where(average.mask, sigma, np.median(sigma[average.mask]))[box]
    sigma = np.where(noisy.signals.any(axis=-1), sigma, 0.0)
    rng = np.random.default_rng(0)
    noise = (rng.standard_normal(noisy.signals.shape) * sigma[..., None]).astype(np.float32)

    errors = np.nan_to_num(
        denoising.redo(replace(clean, signals=clean.signals + noise)).signals - clean.signals
    )
    base = clean if counted.all() else denoising.redo(noisy)
    response = denoising.redo(replace(noisy, signals=noisy.signals + SMALL * noise)).signals - base.signals
    response = np.nan_to_num(response) / SMALL
    error, responses, added = (plain_average(one, average.groups, mask) for one in (errors, response, noise))
    every, shape = np.eye(error.shape[1]), _shapes(average)
    shares = tuple(_share_left(*(one @ of for one in (error, responses, added))) for of in (every, shape))
    let_through = np.maximum((responses * added).mean(axis=0), 0.0)
    thermal = max(np.square(sigma[mask]).mean(), np.finfo(np.float64).tiny)
    # Tissue that the denoising took for noise is gone from all volumes of a b-value alike.
    taken = _common(noisy.signals - base.signals, average.groups, mask)
    taken -= _common(noise - errors, average.groups, mask)
    lost = np.maximum(gaussian_filter1d(taken, SMOOTH_BVALS, mode="nearest"), 0.0)
    left = ((np.square(error).mean(axis=0) + let_through) / 2 + lost) / thermal

    signals = np.zeros((*mask.shape, error.shape[1]))
    signals[mask] = error
    tried = replace(average, mask=mask, signals=signals)
    around = _spread(replace(clean, signals=errors), tried, level)
    seen = [float(one.squares.mean()) * level**2 / thermal for one in around.moments]
    return left, seen, (shares[0], shares[1])


def _shapes(average: RepeatAverage) -> np.ndarray:
    """Directions in which the shape of a smooth decay can change, orthonormal, shape (B, up to 3).

    Those of smooth decays without that of the mean signal, in which brightness changes.
    """
    smooth = _smooth(average.groups.bvals, np.ones(average.groups.bvals.size))
    brightness = average.signals[average.mask].mean(axis=0, dtype=np.float64)
    brightness /= max(float(np.linalg.norm(brightness)), SMALLEST)
    apart = smooth - np.outer(brightness, brightness @ smooth)
    return np.linalg.svd(apart, full_matrices=False)[0][:, : smooth.shape[1] - 1]


def _share_left(error: np.ndarray, response: np.ndarray, added: np.ndarray) -> float:
    """Noise left over noise added, by the mean of squared error and what was let through."""
    before = max(float(np.square(added).mean()), np.finfo(np.float64).tiny)
    left = (np.square(error).mean() + max(float((response * added).mean()), 0.0)) / 2
    return float(np.sqrt(left / before))


def _common(signals: np.ndarray, groups: VolumeGroups, mask: np.ndarray) -> np.ndarray:
    """Mean product of two volumes of every b-value, shape (B,); 0 where there is one."""
    found = np.zeros(len(groups.members))
    for b, directions in enumerate(groups.members):
        values = np.nan_to_num(signals[mask][:, np.concatenate(directions)].astype(np.float64))
        pairs = values.shape[1] * (values.shape[1] - 1)
        if pairs:
            squares = np.square(values.sum(axis=1)) - np.square(values).sum(axis=1)
            found[b] = squares.mean() / pairs
    return found


def plain_average(signals: np.ndarray, groups: VolumeGroups, mask: np.ndarray) -> np.ndarray:
    """Arithmetic mean over repeats and directions of every b-value, shape (V, B), float64.

    That of errors, which other averages weigh in the same way to first order.
    """
    means = (mean_of_directions(signals, one, mask, geometric=False)[0] for one in groups.members)
    return np.stack(list(means), axis=1)


def _part(mask: np.ndarray) -> tuple[tuple[slice, ...], np.ndarray]:
    """The part of an image with most of the mask, and its voxels that are not next to a cut."""
    size = list(mask.shape)
    while np.prod(size) > MAX_TRIED_VOXELS:
        size[int(np.argmax(size))] -= 1
    share = uniform_filter(mask.astype(np.float32), size, mode="constant")
    low = [half // 2 for half in size]
    inner = tuple(
        slice(half, whole - part + half + 1) for half, whole, part in zip(low, mask.shape, size, strict=True)
    )
    start = np.unravel_index(int(np.argmax(share[inner])), share[inner].shape)
    box = tuple(slice(int(first), int(first) + part) for first, part in zip(start, size, strict=True))
    counted = np.ones(size, dtype=bool)
    for axis, (one, whole) in enumerate(zip(box, mask.shape, strict=True)):
        for cut, edge in ((one.start > 0, slice(None, MARGIN)), (one.stop < whole, slice(-MARGIN, None))):
            if cut:
                counted[(slice(None),) * axis + (edge,)] = False
    return box, counted if (counted & mask[box]).any() else np.ones(size, dtype=bool)
