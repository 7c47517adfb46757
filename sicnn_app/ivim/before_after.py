"""One slice before and after a preprocessing step: small enough to be kept until a picture is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RANGE_PERCENTILE = 99.0
"""Of the absolute differences inside the mask, where the colour range of the differences ends."""


@dataclass(frozen=True)
class BeforeAfter:
    """One slice of a few volumes before and after a step.

    Attributes
    ----------
    label : str
        One of :data:`sicnn_app.steps.STEPS`.
    bvals : tuple of float, length K, s/mm^2
        Nominal b-values, ascending.
    volumes : tuple of int, length K
        Indices in the source image.
    slice_index : int
        Along the third array axis.
    before, after : ndarray, shape (K, X, Y), float32, units of the source image
    inside : ndarray, shape (X, Y), bool
        The mask in this slice.
    """

    label: str
    bvals: tuple[float, ...]
    volumes: tuple[int, ...]
    slice_index: int
    before: np.ndarray
    after: np.ndarray
    inside: np.ndarray

    @property
    def difference(self) -> np.ndarray:
        """After minus before, shape (K, X, Y), float32; 0 where either is not finite."""
        return change_of(self.before, self.after)

    @property
    def root_mean_squares(self) -> list[float]:
        """Root mean square of the difference inside the mask, per volume, units of the source image."""
        return [root_mean_square(change[self.inside]) for change in self.difference]

    @property
    def limit(self) -> float:
        """Upper end of the symmetrical colour range of the differences, units of the source image."""
        inside = np.abs(self.difference[:, self.inside].astype(np.float64))
        return float(np.percentile(inside, RANGE_PERCENTILE)) or float(inside.max())


def change_of(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """After minus before, 0 where either is not finite; any shape."""
    known = np.isfinite(before) & np.isfinite(after)
    return np.where(known, np.where(known, after, 0) - np.where(known, before, 0), 0)


def root_mean_square(change: np.ndarray) -> float:
    """Root mean square of an array of any shape; 0 for none."""
    return float(np.sqrt(np.mean(np.square(change, dtype=np.float64)))) if change.size else 0.0
