"""Diffusion-weighted series: validated once, when built."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sicnn_app.errors import DataError

MIN_DISTINCT_BVALS = 4
"""A bi-exponential with S0 has four unknowns."""

MAX_LOW_BVAL = 200.0
"""s/mm^2; without a b-value at or below it the perfusion part has decayed away."""


@dataclass(frozen=True)
class DwiSeries:
    """A 4-D diffusion-weighted series with its gradient table.

    Attributes
    ----------
    signals : ndarray, shape (X, Y, Z, N), float32, units of the source image
        May hold NaN and negative values.
    bvals : ndarray, shape (N,), float64, s/mm^2
    bvecs : ndarray, shape (N, 3), or None
        Gradient directions as in the .bvec file; ``None`` when there are none.
    affine : ndarray, shape (4, 4), voxel to world, mm
    source_volumes : ndarray, shape (N,), int
        Index of every volume in the source image, after volumes were left out.
    slice_axis : int, or None
        Axis across the slices, 0 to 2, where the metadata state it.

    Raises
    ------
    DataError
        When shapes disagree or the series can hold no IVIM information.
    """

    signals: np.ndarray
    bvals: np.ndarray
    bvecs: np.ndarray | None
    affine: np.ndarray
    source_volumes: np.ndarray = field(default=None)  # type: ignore[arg-type]
    slice_axis: int | None = None

    def __post_init__(self) -> None:
        if self.signals.ndim != 4:
            raise DataError(f"a DWI series has 4 dimensions, this one has shape {self.signals.shape}")
        volumes = self.signals.shape[3]
        if self.bvals.shape != (volumes,):
            raise DataError(f"the image has {volumes} volumes but there are {self.bvals.size} b-values")
        if self.bvecs is not None and self.bvecs.shape != (volumes, 3):
            raise DataError(
                f"the image has {volumes} volumes but the directions have shape {self.bvecs.shape}"
            )
        if self.source_volumes is None:
            object.__setattr__(self, "source_volumes", np.arange(volumes))

    def select(self, keep: np.ndarray) -> DwiSeries:
        """Series of the volumes where ``keep`` (shape (N,), bool) is true."""
        keep = np.asarray(keep, dtype=bool)
        return DwiSeries(
            signals=self.signals if keep.all() else self.signals[..., keep],
            bvals=self.bvals[keep],
            bvecs=None if self.bvecs is None else self.bvecs[keep],
            affine=self.affine,
            source_volumes=self.source_volumes[keep],
            slice_axis=self.slice_axis,
        )


@dataclass(frozen=True)
class AveragedSignals:
    """One signal per nominal b-value and voxel: what every estimator takes.

    Attributes
    ----------
    signals : ndarray, shape (X, Y, Z, B), float32, units of the source image
        Finite inside ``mask``, 0 outside.
    bvals : ndarray, shape (B,), float64, s/mm^2, strictly ascending
    mask : ndarray, shape (X, Y, Z), bool
    repeats : ndarray, shape (B,), int, volumes averaged per b-value
    directions : ndarray, shape (B,), int, distinct directions per b-value
    sigma : float
        Standard deviation of the thermal noise of a single volume, units of the source image.
    noise : ndarray, shape (X, Y, Z, B), float32
        Standard deviation of every averaged signal from the truth, same units; 0 outside ``mask``.
    sigma_method : str
        How ``sigma`` was estimated, in words.
    average : {'arithmetic', 'geometric', 'robust'}
        How the volumes of a b-value were averaged.
    """

    signals: np.ndarray
    bvals: np.ndarray
    mask: np.ndarray
    repeats: np.ndarray
    directions: np.ndarray
    sigma: float
    noise: np.ndarray
    sigma_method: str
    average: str = "geometric"

    @property
    def sigma_per_bval(self) -> np.ndarray:
        """Root mean square of the noise over the mask, shape (B,), float64."""
        return np.sqrt(np.square(self.noise[self.mask], dtype=np.float64).mean(axis=0))


@dataclass(frozen=True)
class Evidence:
    """What the voxels themselves say, whatever was averaged over neighbours besides.

    Attributes
    ----------
    signals, noise : ndarray, shape (X, Y, Z, B), or (B,) for the noise, float32, units of the source image
        Averaged signals and their standard deviation from the truth, independent between b-values.
    source : str
        Which signals they are, in words.
    left, left_in_shape : float
        Share of their noise that denoising left in the signals that were averaged over neighbours: over all
        b-values, and in the directions in which the shape of a decay can change.
    """

    signals: np.ndarray
    noise: np.ndarray
    source: str
    left: float = 1.0
    left_in_shape: float = 1.0
