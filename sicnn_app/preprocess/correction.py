"""Common ground of the corrections of a series: what they return or raise, and what they leave alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from sicnn_app.ivim.series import DwiSeries

Progress = Callable[[str, int, int], None]
"""Text, steps done, steps in all."""


@dataclass(frozen=True)
class Corrected:
    """A series after one step, and what the step did.

    Attributes
    ----------
    series : DwiSeries
        Same shape and affine as before.
    record : dict
        ``{"Description": str, ...numbers}`` for sidecar and report; JSON-serialisable.
    motion : list of dict
        Of a motion correction: see :func:`sicnn_app.preprocess.motion.correct`.
    """

    series: DwiSeries
    record: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    motion: list[dict[str, Any]] | None = None


class NotPossible(Exception):
    """The data do not allow a correction, and stay as they are.

    ``left`` says what was not done, for the warning; ``details`` are further entries of the record.
    """

    def __init__(self, reason: str, left: str, **details: str) -> None:
        super().__init__(f"{left}: {reason}")
        self.reason = reason
        self.details = details


def holds_data(values: np.ndarray) -> np.ndarray:
    """True where a value is finite and not 0."""
    return np.isfinite(values) & (values != 0)


def fill_missing(volume: np.ndarray) -> np.ndarray:
    """Replace what is not finite by the nearest finite voxel, by 0 when there is none; float64."""
    missing = ~np.isfinite(volume)
    if missing.all():
        return np.zeros(volume.shape)
    if missing.any():
        nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
        volume = volume[tuple(nearest)]
    return volume.astype(np.float64)


def positive_offset(values: np.ndarray) -> float:
    """Offset that lifts finite values well above 0, for methods that clip there; 0 where none is negative."""
    lowest = values.min()
    return float(values.max() - 2.0 * lowest) if lowest < 0 else 0.0


def keep_others(
    signals: np.ndarray, before: np.ndarray, where: np.ndarray | bool = True
) -> tuple[float, float]:
    """Put back what was not finite or is not in ``where``; mean and mean square of the changes that stay."""
    total = squares = count = 0.0
    for volume in range(signals.shape[3]):
        old, new = before[..., volume], signals[..., volume]
        changed = where & np.isfinite(old)
        change = new[changed].astype(np.float64) - old[changed]
        new[~changed] = old[~changed]
        total, squares, count = total + change.sum(), squares + change @ change, count + change.size
    return (float(total / count), float(squares / count)) if count else (0.0, 0.0)


def bounding_box(inside: np.ndarray, margin: np.ndarray | int) -> tuple[slice, ...]:
    """Smallest box around the voxels inside, wider by a margin (per axis) where the image goes on."""
    where = np.argwhere(inside)
    low = np.maximum(where.min(axis=0) - margin, 0)
    high = np.minimum(where.max(axis=0) + margin + 1, inside.shape)
    return tuple(map(slice, low.tolist(), high.tolist()))


def find_slice_axis(shape: tuple[int, ...], stated: int | None = None) -> int:
    """Axis across the slices: the one stated, or a guess, the one with the fewest voxels, the last of equals.

    Examples
    --------
    >>> find_slice_axis((3, 64, 60)), find_slice_axis((64, 64, 64)), find_slice_axis((3, 64, 60), stated=2)
    (0, 2, 2)
    """
    return max(range(3), key=lambda axis: (-shape[axis], axis)) if stated is None else stated


def slice_axis_record(series: DwiSeries) -> dict[str, Any]:
    """Axis across the slices of a series, and what decided it, for the record of a step."""
    guessed = "guessed, as the one with the fewest voxels: no metadata state it"
    return {
        "SliceAxis": find_slice_axis(series.signals.shape, series.slice_axis),
        "SliceAxisSource": guessed if series.slice_axis is None else "stated by the metadata",
    }
