"""Images that are joined to one run: one unit of b, and one scale by the b-values that they share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from sicnn_app.errors import DataError
from sicnn_app.ivim.bvalues import HIGHEST_IN_MS_PER_UM2, group_bvalues
from sicnn_app.ivim.series import MAX_LOW_BVAL, DwiSeries
from sicnn_app.preprocess.blocks import threshold_of
from sicnn_app.preprocess.correction import Corrected
from sicnn_app.preprocess.noise import NEAR_ZERO_BVAL
from sicnn_app.steps import NOT_DONE

PLACE = 6
"""Voxels along the edges of the squares, within a slice, that are compared with each other."""

MIN_PLACE_VOXELS = 9
"""Voxels with signal in a square; the median of fewer tells nothing."""

INDEPENDENT_PLACES = 16
"""At most: motion and pulsation change large places as one. Of 1,800 pairs of sets of 1 to 12 volumes at b
= 0 of one measured abdominal run 0.4 % then differed by more than three standard errors and 2 %."""

STANDARD_ERRORS = 3.0
"""Within which a difference is noise."""

DEPARTURE = np.log(1.2)
"""Logarithm of the ratio of a place to the median ratio from which on it is another one."""

ELSEWHERE = np.log(2)
"""The same where one of the two has signal and the other none, or nearly none."""

MAX_DEPARTING = 0.2
"""Share of the foreground from which on there is no single gain. Of pairs of single volumes of a measured
abdomen at b = 0 95 % stay below .12, all below .2, runs of the cord below .18; another volunteer has .40, the
same one five voxels further .40 to .52, signals to the power 1.5, as of a longer echo time, .30 to .48."""

MIN_GAIN = np.log(1.02)
"""Logarithm of the smallest gain that is taken off; F would be wrong by less than .02."""

ANISOTROPY = 5e-4
"""mm^2/s; difference of D between directions, which looks like a gain where images have different ones."""

HIGHEST_DOUBTFUL_BVAL = 5.0
"""Of a table that may be in ms/um^2: 5000 s/mm^2 is beyond what is measured in the body."""

LARGEST_F, LARGEST_DSTAR = 0.5, 0.2
"""Of a foreground as a whole, D* in mm^2/s: how much of it a few s/mm^2 may take away."""

UNIT_MARGIN = 0.05
"""Share of the signal that may be lost besides, by drift."""


@dataclass(frozen=True)
class Ratio:
    """Signals of some volumes over those of others, in the foreground of both.

    Attributes
    ----------
    log : float
        Logarithm of the median over voxels.
    error : float
        Its standard error, from the differences between places.
    departing : float
        Share of the foreground in places with another ratio, beyond noise and :data:`DEPARTURE`.
    """

    log: float
    error: float
    departing: float


def join_images(series: DwiSeries, image_of_volume: np.ndarray, names: Sequence[str]) -> Corrected:
    """Bring the volumes of several images to one scale, in place, by the b-values that images share.

    An image is divided by its ratio to those before it where that is beyond noise and the same everywhere.
    Only b-values up to :data:`sicnn_app.preprocess.noise.NEAR_ZERO_BVAL` count, or the lowest shared one: at
    higher ones images of different directions differ by themselves.

    Parameters
    ----------
    image_of_volume : ndarray, shape (N,), int
        Position in ``names``, the file names, of the image that each volume comes from.

    Raises
    ------
    DataError
        The b-values of one image are in another unit than those of the others.
    """
    _require_one_unit(series, image_of_volume, names)
    nominal, index = group_bvalues(series.bvals)
    low = {image: set(index[image_of_volume == image]) for image in np.unique(image_of_volume).tolist()}
    low = {image: {b for b in own if nominal[b] <= MAX_LOW_BVAL} for image, own in low.items()}
    waiting = list(low)
    scales: list[list[int]] = []
    gains: dict[str, float] = {}
    bvals: set[float] = set()
    warnings: list[str] = []
    while waiting:
        known = set().union(*(low[image] for image in scales[-1])) if scales else set()
        # Near b = 0 first: there images are compared best.
        image = min(waiting, key=lambda image: min(low[image] & known, default=nominal.size))
        waiting.remove(image)
        if not (shared := sorted(low[image] & known)):
            scales.append([image])
            continue
        used = [b for b in shared if nominal[b] <= NEAR_ZERO_BVAL] or shared[:1]
        others, own = np.isin(image_of_volume, scales[-1]), image_of_volume == image
        pairs = [(np.flatnonzero(others & (index == b)), np.flatnonzero(own & (index == b))) for b in used]
        ratio = compare(series.signals, pairs)
        bvals.update(nominal[used].tolist())
        other = names[image_of_volume[pairs[0][0][0]]]
        where = f"{names[image]} and {other} at b = {_list(nominal[used])} s/mm^2"
        if ratio is None:
            warnings.append(f"no voxel has signal in both {where}: their scales could not be compared")
            continue
        gain = float(np.exp(ratio.log))
        if ratio.departing >= MAX_DEPARTING:
            warnings.append(
                f"{where} differ by no single gain (median ratio {gain:.4g}, another one in "
                f"{100 * ratio.departing:.0f} % of the foreground), as images of another position, coil or "
                "contrast do: they are joined as they are; check that they belong together"
            )
            continue
        scales[-1].append(image)
        if abs(ratio.log) > max(MIN_GAIN, STANDARD_ERRORS * ratio.error, ANISOTROPY * nominal[used[-1]]):
            for volume in np.flatnonzero(own):
                series.signals[..., volume] /= gain
            gains[names[image]] = gain
            warnings.append(
                f"{where} differ by a gain, the same everywhere: "
                f"the signals of {names[image]} are divided by {gain:.4g}"
            )
    if len(scales) > 1:
        first = [names[scale[0]] for scale in scales]
        more = f" and {len(first) - 3} others" if len(first) > 3 else ""
        warnings.append(
            f"the scales of {', '.join(first[:3])}{more} could not be compared, they share no b-value up to "
            f"{MAX_LOW_BVAL:g} s/mm^2: F is wrong where their gains differ; acquire b = 0 with each"
        )
    at = f"at shared b-values ({_list(sorted(bvals))} s/mm^2)"
    divided = ", ".join(f"{name} divided by {gain:.4g}" for name, gain in gains.items())
    reason = f"no gain was found {at}" if bvals else "the images share no low b-value"
    record = {
        "Name": "Scale of the joined images",
        "Description": f"Gains found {at} taken off: {divided}" if gains else f"{NOT_DONE}: {reason}",
        "Gains": gains,
        "SharedBValues": sorted(bvals),
    }
    return Corrected(series, record, warnings)


def _list(bvals: Iterable[float]) -> str:
    return ", ".join(f"{bval:g}" for bval in bvals)


def compare(signals: np.ndarray, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Ratio | None:
    """Ratio of the second volumes of every pair to the first, geometric mean over the pairs.

    The foreground, of one or the other, is found by Otsu's threshold; each square of it (:data:`PLACE`) gives
    a median, and the scatter within it the noise of that.

    Parameters
    ----------
    signals : ndarray, shape (X, Y, Z, N)
    pairs : sequence of (ndarray, ndarray)
        Indices of volumes; their median counts.

    Returns
    -------
    Ratio or None
        None without foreground.
    """
    images = [[_median_of_volumes(signals, volumes) for volumes in pair] for pair in pairs]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.mean(np.log(images), axis=0)
        difference = logs[1] - logs[0]
    usable = np.isfinite(difference)
    if not usable.any():
        return None
    # Square roots: bright spots alone are not the foreground.
    bright = np.stack([level >= threshold_of(level) for level in np.exp(logs[:, usable] / 2)])
    foreground = usable.copy()
    foreground[usable] = bright[0] | bright[1]
    values, both = difference[foreground], (bright[0] & bright[1])[bright[0] | bright[1]]
    corners = np.argwhere(foreground) // [PLACE, PLACE, 1]
    _, place, sizes = np.unique(corners, axis=0, return_inverse=True, return_counts=True)
    place, every = place.reshape(-1), np.arange(sizes.size)
    medians = np.asarray(ndimage.median(values, place, every))
    scatter = np.asarray(ndimage.median(np.abs(values - medians[place]), place, every))
    middle, large = float(np.median(values)), sizes >= MIN_PLACE_VOXELS
    apart = np.abs(medians - middle)
    departs = apart > np.maximum(DEPARTURE, STANDARD_ERRORS * _error_of_median(scatter, sizes))
    shares = [
        (chosen & where).sum() / max(where.sum(), 1)
        for chosen, where in (
            (departs[place], both & large[place]),
            (apart[place] > ELSEWHERE, large[place]),
        )
    ]
    error = _error_of_median(np.median(np.abs(values - middle)), values.size)
    if large.any():
        count = min(int(large.sum()), INDEPENDENT_PLACES)
        error = max(error, _error_of_median(np.median(apart[large]), count))
    return Ratio(middle, float(error), float(max(shares)))


def _error_of_median(deviation: Any, count: Any) -> Any:
    """Standard error of a median of Gaussian values from their median absolute deviation."""
    return 1.4826 * 1.2533 * deviation / np.sqrt(count)


def _median_of_volumes(signals: np.ndarray, volumes: np.ndarray) -> np.ndarray:
    """Median over volumes, shape (X, Y, Z), of one plane at a time; NaN where one of them is."""
    planes = [np.median(signals[:, :, plane, volumes], axis=-1) for plane in range(signals.shape[2])]
    return np.stack(planes, axis=-1)


def _require_one_unit(series: DwiSeries, image_of_volume: np.ndarray, names: Sequence[str]) -> None:
    """Refuse a table in ms/um^2 beside others in s/mm^2: its signals fall faster than flow can make them."""
    if series.bvals.max() <= HIGHEST_IN_MS_PER_UM2:
        return
    for image in np.unique(image_of_volume):
        own = image_of_volume == image
        highest = series.bvals[own].max()
        if not 0 < highest <= HIGHEST_DOUBTFUL_BVAL:
            continue
        # An image of one b-value has only others to be held against.
        others = own if series.bvals[own].min() < highest else np.ones_like(own)
        lowest = series.bvals[others].min()
        low, high = others & (series.bvals == lowest), own & (series.bvals == highest)
        ratio = compare(series.signals, [(np.flatnonzero(low), np.flatnonzero(high))])
        if ratio is None:
            continue
        possible = LARGEST_F * (1 - np.exp(-LARGEST_DSTAR * (highest - lowest))) + UNIT_MARGIN
        if 1 - np.exp(ratio.log + STANDARD_ERRORS * ratio.error) > possible:
            raise DataError(
                f"{names[image]} has lost {100 * (1 - np.exp(ratio.log)):.0f} % of its signal at its highest "
                f"b-value, {highest:g}, as if that were in ms/um^2, beside images in s/mm^2: "
                "write 1000 times as much in its table"
            )
