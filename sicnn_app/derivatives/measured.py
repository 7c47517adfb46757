"""The preprocessed series of a run -> its averages per b-value, read volume by volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from sicnn_app.bids.images import LARGEST_VALUE, READ_ERRORS
from sicnn_app.derivatives.outputs import Files, open_series, read_series_bvals
from sicnn_app.errors import one_line
from sicnn_app.formats import printable
from sicnn_app.ivim.bvalues import bvalue_tolerance, group_bvalues

MAX_SIGNALS = 1 << 29
"""Averages over voxels and b-values, two gigabytes of them: ten million voxels at 50 b-values."""


@dataclass(frozen=True)
class MeasuredSignals:
    """The preprocessed series, averaged per nominal b-value.

    Attributes
    ----------
    bvals : ndarray, shape (B,), s/mm^2, ascending
    volumes : ndarray, shape (B,), int, volumes averaged
    in_mask : ndarray, shape (B, M), float32, arithmetic means of the M voxels of the mask
    baseline : ndarray, shape (X, Y, Z), float32, mean of the volumes of the lowest b-value
    slices : ndarray, shape (B, X, Y), float32, the slice ``slice_index`` at every b-value
    slice_index : int
    """

    bvals: np.ndarray
    volumes: np.ndarray
    in_mask: np.ndarray
    baseline: np.ndarray
    slices: np.ndarray
    slice_index: int


def measure_signals(
    files: Files, stem: Path, mask: np.ndarray, used: Sequence[float]
) -> MeasuredSignals | None:
    """Averages of a series; None when it or its b-values are missing or cannot be read.

    Parameters
    ----------
    files : Files
    stem : Path
        The path of the series without its endings.
    mask : ndarray, shape (X, Y, Z), bool
    used : sequence of float, s/mm^2
        b-values that the estimation used; all of them count when there are none.
    """
    image_path, bval_path = stem.with_name(f"{stem.name}.nii.gz"), stem.with_name(f"{stem.name}.bval")
    series = files.get(open_series, image_path, None)
    bvals = files.get(read_series_bvals, bval_path, None)
    if series is None or bvals is None:
        return None
    if series.shape != (*mask.shape, bvals.size):
        files.problems.append(f"{image_path.name} does not fit its b-values or the maps")
        return None
    try:
        return _averages(series, bvals, mask, used)
    except READ_ERRORS as error:
        files.problems.append(printable(f"{image_path.name} cannot be read ({one_line(error)})"))
        return None


def _averages(
    series: nib.Nifti1Image, bvals: np.ndarray, mask: np.ndarray, used: Sequence[float]
) -> MeasuredSignals:
    nominal, index = group_bvalues(bvals)
    wanted = _used(nominal, used)
    slice_index = int(np.argmax(mask.sum(axis=(0, 1))))
    counts = np.zeros(nominal.size, dtype=int)
    voxels = int(mask.sum())
    if nominal.size * voxels > MAX_SIGNALS:
        raise ValueError(f"{nominal.size} b-values in {voxels} voxels are more than any series has")
    in_mask = np.zeros((nominal.size, voxels), dtype=np.float32)
    slices = np.zeros((nominal.size, *mask.shape[:2]), dtype=np.float32)
    baseline = np.zeros(mask.shape, dtype=np.float32)
    for position in np.flatnonzero(wanted[index]):
        volume = np.asarray(series.dataobj[..., position], dtype=np.float32)
        volume = np.where(np.abs(volume) <= LARGEST_VALUE, volume, np.float32(0))
        group = index[position]
        counts[group] += 1
        in_mask[group] += volume[mask]
        slices[group] += volume[..., slice_index]
        if group == np.argmax(wanted):
            baseline += volume
    counts = counts[wanted]
    return MeasuredSignals(
        bvals=nominal[wanted],
        volumes=counts,
        in_mask=in_mask[wanted] / counts[:, None],
        baseline=baseline / counts[0],
        slices=slices[wanted] / counts[:, None, None],
        slice_index=slice_index,
    )


def _used(nominal: np.ndarray, used: Sequence[float]) -> np.ndarray:
    """Which nominal b-values the estimation used; all of them when the sidecar does not say."""
    if not used:
        return np.ones(nominal.size, dtype=bool)
    distance = np.abs(nominal[:, None] - np.asarray(used)).min(axis=1)
    near = distance <= bvalue_tolerance(nominal)
    return near if near.any() else np.ones(nominal.size, dtype=bool)
