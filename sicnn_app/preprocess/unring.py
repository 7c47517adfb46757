"""Remove Gibbs ringing by sub-voxel shifts, with dipy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sicnn_app.ivim.series import DwiSeries
from sicnn_app.preprocess.correction import (
    Corrected,
    NotPossible,
    fill_missing,
    find_slice_axis,
    keep_others,
    positive_offset,
    slice_axis_record,
)
from sicnn_app.system.memory import empty_series

MIN_IN_PLANE = 8
"""Voxels along both axes of a slice: the total variation is taken over 4 neighbours on either side."""

METHOD = "Gibbs ringing removed in every slice by sub-voxel shifts that minimise the local total variation"


def correct(series: DwiSeries, **_others: Any) -> Corrected:
    """Remove the ringing of every slice of every volume.

    The method takes the ringing for that of a k-space cut off at the same frequency on both sides: it does
    less for partial Fourier acquisitions and for images that were interpolated.

    Values that are not finite stay as they are; meanwhile the nearest finite voxel stands in for them. An
    image without negative values stays without. Slices without contrast are left alone.

    Raises
    ------
    NotPossible
        When slices have a side of fewer than :data:`MIN_IN_PLANE` voxels.

    References
    ----------
    Kellner et al., Magn Reson Med 2016;76:1574-1581, as implemented in dipy by Neto Henriques (2018).
    """
    shape = series.signals.shape[:3]
    slice_axis = find_slice_axis(shape, series.slice_axis)
    plane = [size for axis, size in enumerate(shape) if axis != slice_axis]
    if min(plane) < MIN_IN_PLANE:
        reason = f"slices of {plane[0]} x {plane[1]} voxels are too small (at least {MIN_IN_PLANE})"
        raise NotPossible(reason, left="Gibbs ringing was not removed")
    signals = empty_series(series.signals.shape, like=series.signals)
    for volume in range(series.bvals.size):
        signals[..., volume] = _unring_volume(fill_missing(series.signals[..., volume]), slice_axis)
    _, square = keep_others(signals, series.signals)
    record = {
        "Description": METHOD,
        **slice_axis_record(series),
        "RootMeanSquareChange": float(np.sqrt(square)),
    }
    return Corrected(replace(series, signals=signals), record)


def _unring_volume(volume: np.ndarray, slice_axis: int) -> np.ndarray:
    """One volume, shape (X, Y, Z), float64, without ringing."""
    from dipy.denoise.gibbs import gibbs_removal

    slices = np.moveaxis(volume, slice_axis, 0)
    varied = np.ptp(slices, axis=(1, 2)) > 0
    if not varied.any():
        return volume
    # dipy returns magnitudes; an offset, to which shifts and total variation are blind, keeps the sign.
    offset = positive_offset(slices)
    result = slices.copy()
    result[varied] = gibbs_removal(slices[varied] + offset, slice_axis=0, inplace=False) - offset
    return np.moveaxis(result, 0, slice_axis)
