"""Series before and after a step -> the slice that shows best what the step did."""

from __future__ import annotations

import numpy as np

from sicnn_app.ivim.before_after import BeforeAfter, change_of, root_mean_square
from sicnn_app.ivim.bvalues import group_bvalues
from sicnn_app.ivim.series import DwiSeries


def compare_step(label: str, before: DwiSeries, after: DwiSeries, mask: np.ndarray) -> BeforeAfter | None:
    """One slice of two volumes before and after a step.

    The slice is the one with most voxels in the mask. The volumes are of the middle and the highest nominal
    b-value, and of each the one that changed most in the slice: motion may have spared all others.

    Parameters
    ----------
    label : str
        One of :data:`sicnn_app.steps.STEPS`.
    before, after : DwiSeries
        Of the same volumes.
    mask : ndarray, shape (X, Y, Z), bool

    Returns
    -------
    BeforeAfter or None
        None where the step changed nothing in the slice.
    """
    nominal, index = group_bvalues(before.bvals)
    slice_index = int(np.argmax(mask.sum(axis=(0, 1))))
    inside = mask[..., slice_index]

    def change(volume: int) -> float:
        pair = (series.signals[:, :, slice_index, volume][inside] for series in (before, after))
        return root_mean_square(change_of(*pair))

    groups = [nominal.size // 2, nominal.size - 1]
    # The first of equals: max keeps it.
    chosen = [max(np.flatnonzero(index == group).tolist(), key=change) for group in groups]
    if not any(change(volume) for volume in chosen):
        return None
    return BeforeAfter(
        label=label,
        bvals=tuple(float(nominal[group]) for group in groups),
        volumes=tuple(int(before.source_volumes[volume]) for volume in chosen),
        slice_index=slice_index,
        before=_slices(before, slice_index, chosen),
        after=_slices(after, slice_index, chosen),
        inside=inside.copy(),
    )


def _slices(series: DwiSeries, slice_index: int, volumes: list[int]) -> np.ndarray:
    # One by one: several at once would be gathered in memory from a series on disk.
    return np.stack([np.array(series.signals[:, :, slice_index, volume]) for volume in volumes])
