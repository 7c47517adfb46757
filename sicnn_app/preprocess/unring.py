"""Remove Gibbs ringing by sub-voxel shifts, with dipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.corrected import Corrected, Progress, not_done
from sicnn_app.preprocess.denoise import fill_missing
from sicnn_app.preprocess.slices import find_slice_axis
from sicnn_app.settings import PreprocessingSettings
from sicnn_app.steps import STEPS, Situation
from sicnn_app.system.memory import empty_series

MIN_IN_PLANE = 8
"""Voxels along both axes of a slice: the total variation is taken over 4 neighbours on either side."""

METHOD = "Gibbs ringing removed in every slice by sub-voxel shifts that minimise the local total variation"


def correct(
    series: DwiSeries,
    *,
    settings: PreprocessingSettings,
    situation: Situation,
    progress: Progress | None = None,
) -> Corrected:
    """The step of :data:`sicnn_app.steps.STEPS`."""
    kind, reason = STEPS["unringing"].wanted(settings, situation)
    if kind == "none":
        return not_done("Gibbs unringing", series, reason)
    if progress is not None:
        progress("unringing", 0, 1)
    return unring(series).because(reason)


def unring(series: DwiSeries) -> Corrected:
    """Remove the ringing of every slice of every volume.

    The slice axis is the one with the fewest voxels (the last of equals). The method takes the ringing
    for that of a k-space cut off at the same frequency on both sides: it does less for partial Fourier
    acquisitions and for images that were interpolated.

    Values that are not finite stay as they are; meanwhile the nearest finite voxel stands in for them. An
    image without negative values stays without. Slices without contrast, and images whose slices have a
    side of fewer than :data:`MIN_IN_PLANE` voxels, are left alone.

    Parameters
    ----------
    series : DwiSeries

    Returns
    -------
    Corrected
        Signals of the same shape, float32.

    References
    ----------
    Kellner et al., Magn Reson Med 2016;76:1574-1581, as implemented in dipy by Neto Henriques (2018).
    """
    shape = series.signals.shape[:3]
    slice_axis = find_slice_axis(shape)
    plane = [size for axis, size in enumerate(shape) if axis != slice_axis]
    if min(plane) < MIN_IN_PLANE:
        reason = f"slices of {plane[0]} x {plane[1]} voxels are too small (at least {MIN_IN_PLANE})"
        return Corrected(
            series=series,
            record={"Name": "Gibbs unringing", "Description": f"Not done: {reason}"},
            warnings=[f"Gibbs ringing was not removed: {reason}"],
        )
    signals = empty_series(series.signals.shape, like=series.signals)
    squares, count = 0.0, 0
    for volume in range(series.bvals.size):
        before = series.signals[..., volume]
        finite = np.isfinite(before)
        after = _unring_volume(fill_missing(before), slice_axis).astype(np.float32)
        signals[..., volume] = np.where(finite, after, before)
        change = after[finite].astype(np.float64) - before[finite]
        squares += float(change @ change)
        count += change.size
    return Corrected(
        series=replace(series, signals=signals),
        record={
            "Name": "Gibbs unringing",
            "Description": METHOD,
            "SliceAxis": slice_axis,
            "RootMeanSquareChange": float(np.sqrt(squares / count)) if count else 0.0,
        },
    )


def _unring_volume(volume: np.ndarray, slice_axis: int) -> np.ndarray:
    """One volume, shape (X, Y, Z), float64, without ringing."""
    from dipy.denoise.gibbs import gibbs_removal

    slices = np.moveaxis(volume, slice_axis, 0)
    varied = np.ptp(slices, axis=(1, 2)) > 0
    if not varied.any():
        return volume
    # dipy returns magnitudes; an offset, to which shifts and total variation are blind, keeps the sign.
    lowest = slices.min()
    offset = float(slices.max() - 2.0 * lowest) if lowest < 0 else 0.0
    result = slices.copy()
    result[varied] = gibbs_removal(slices[varied] + offset, slice_axis=0, inplace=False) - offset
    return np.moveaxis(result, 0, slice_axis)
