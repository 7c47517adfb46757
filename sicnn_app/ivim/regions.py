"""Regions of a segmentation in the voxels of a run, and their mean signals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Regions:
    """Regions of a segmentation in the voxels of a mask.

    Attributes
    ----------
    names : tuple of str
        In the order of their indices in the segmentation.
    positions : ndarray, shape (M,), int
        For each of the M voxels of the mask the position of its region in ``names``, -1 in none.
    sizes : ndarray, one per name, int
        Voxels of every region, inside the mask or not.
    indices : tuple of tuple of int
        In the segmentation; those that share a name are one region.
    """

    names: tuple[str, ...]
    positions: np.ndarray
    sizes: np.ndarray
    indices: tuple[tuple[int, ...], ...]

    @property
    def inside(self) -> np.ndarray:
        """Share of the voxels of every region that lie inside the mask, in the order of ``names``."""
        within = self.positions[self.positions >= 0]
        return np.bincount(within, minlength=len(self.names)) / self.sizes

    @cached_property
    def members(self) -> list[np.ndarray]:
        """Voxels of the mask in every region, in the order of ``names``, each of shape (m,), int."""
        order = np.argsort(self.positions, kind="stable")
        ends = np.searchsorted(self.positions[order], np.arange(len(self.names) + 1))
        return [order[start:end] for start, end in pairwise(ends)]


@dataclass(frozen=True)
class MeasuredRegions:
    """Regions of one segmentation with what was measured in them.

    Attributes
    ----------
    name : str
        Of the segmentation, as ``rois:organs``.
    path : Path
    program : str
        By whose layout it was recognised.
    mean, deviation : ndarray, shape (R, B), units of the source image
        Mean and standard deviation (n - 1) over the voxels of a region of the averaged signals; NaN where it
        has too few inside the mask.
    fit : mapping of str to ndarray, shape (R,)
        F, D, D* and S0 of the mean signals by least squares; NaN where there is no signal, empty where the
        memory did not suffice.
    """

    name: str
    path: Path
    program: str
    regions: Regions
    mean: np.ndarray
    deviation: np.ndarray
    fit: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(
        cls, name: str, path: Path, program: str, regions: Regions, signals: np.ndarray
    ) -> MeasuredRegions:
        """Regions with the signals of the voxels of the mask, shape (M, B)."""
        mean, deviation = np.full((2, len(regions.names), signals.shape[1]), np.nan)
        for position, members in enumerate(regions.members):
            inside = signals[members].astype(np.float64)
            if members.size:
                mean[position] = inside.mean(axis=0)
            if members.size > 1:
                deviation[position] = inside.std(axis=0, ddof=1)
        return cls(name, path, program, regions, mean, deviation)
