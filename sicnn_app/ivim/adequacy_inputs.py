"""Evidence on a run, and the parts of an answer to a question about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import TISSUE_LABELS

GOOD, DOUBTFUL, POOR, UNKNOWN = "good", "doubtful", "poor", "unknown"
VERDICTS = (GOOD, DOUBTFUL, POOR, UNKNOWN)
"""Unknown: nothing was measured that could tell; it does not count against the run."""


Numbers = dict[str, float | int | None]


LEAST_PERFUSED = 0.05
"""Share of the voxels, with an F that is not negligible, below which a run has no perfused tissue."""


@dataclass(frozen=True)
class Tissue:
    """The perfused tissue of a run: medians over the voxels in which F is not negligible.

    Attributes
    ----------
    f, d, dstar : float
        Fraction, mm^2/s, mm^2/s; the full second exponent.
    spread : dict of str to float
        Their standard deviations in one voxel over the values, where the maps come with any.
    """

    f: float
    d: float
    dstar: float
    spread: dict[str, float] = field(default_factory=dict)


def perfused_tissue(maps: dict[str, np.ndarray], mask: np.ndarray) -> Tissue | None:
    """Tissue of maps of shape (X, Y, Z) by their labels; None where next to nothing is perfused."""
    perfused = mask & (maps["f"] >= NEGLIGIBLE_F)
    if not perfused.any() or perfused.sum() < LEAST_PERFUSED * mask.sum():
        return None
    values = {label: float(np.median(maps[label][perfused])) for label in TISSUE_LABELS}
    spread = {
        label: float(np.median(maps[f"{label}_std"][perfused])) / values[label]
        for label in TISSUE_LABELS
        if f"{label}_std" in maps and values[label] > 0
    }
    return Tissue(**values, spread=spread)


@dataclass(frozen=True)
class Evidence:
    """Evidence on a run.

    Attributes
    ----------
    bvals : ndarray, shape (B,), s/mm^2, ascending
    signal : ndarray, shape (B,), units of the image
        Median over the mask of the averaged signals.
    sigma : float, units of the image
        Noise of one volume; 0 or NaN when it could not be estimated.
    sigma_per_bval : ndarray, shape (B,), units of the image
        Noise of the averaged signals.
    at_bound, conventional_at_bound : float or None
        Share of voxels with a parameter at a bound, and that of the conventional fit.
    displacements : ndarray, shape (N,), mm, or None
        Framewise displacement of every volume, NaN where there is none; None when motion was not looked for.
    voxel_edge : float, mm
        Smallest one.
    preprocessed : bool
        Another program prepared the series.
    tissue : Tissue or None
        None where next to nothing is perfused.
    """

    bvals: np.ndarray
    signal: np.ndarray
    sigma: float
    sigma_per_bval: np.ndarray
    at_bound: float | None
    conventional_at_bound: float | None
    displacements: np.ndarray | None
    voxel_edge: float
    preprocessed: bool
    tissue: Tissue | None

    @property
    def noise_known(self) -> bool:
        """True when there are signals, and noise, to relate to one another."""
        return bool(self.sigma > 0 and (self.sigma_per_bval > 0).all() and self.signal[0] > 0)


@dataclass(frozen=True)
class Check:
    """One question and its answer.

    Attributes
    ----------
    value : str
        The numbers in words.
    meaning : str
        What it means and what to do, one sentence.
    numbers : dict of str to float or None
        By the names of the QC table.
    """

    name: str
    value: str
    verdict: str
    meaning: str
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Adequacy:
    """The verdict on a run, a sentence that says why, and the checks behind it by the keys of ``CHECKS``."""

    verdict: str
    sentence: str
    checks: dict[str, Check]
