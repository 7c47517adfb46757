"""Evidence on a run, and the parts of an answer to a question about it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

GOOD, DOUBTFUL, POOR, UNKNOWN = "good", "doubtful", "poor", "unknown"
VERDICTS = (GOOD, DOUBTFUL, POOR, UNKNOWN)
"""Unknown: nothing was measured that could tell; it does not count against the run."""


Numbers = dict[str, float | int | None]


@dataclass(frozen=True)
class TypicalTissue:
    """Values the bounds are computed for: fraction, mm^2/s, mm^2/s; the full second exponent."""

    name: str
    f: float
    d: float
    dstar: float
    source: str


TYPICAL = {
    "body": TypicalTissue("liver", 0.2305, 1.09e-3, 0.0700, "Ljimani et al., MAGMA 2020"),
    "brain": TypicalTissue(
        "cortical grey matter", 0.033, 0.86e-3, 0.076, "Rydhog et al., Magn Reson Med 2014"
    ),
}
"""By anatomy; the same values as in the phantoms of ``sicnn-simulate``."""


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
    """

    anatomy: str
    method: str
    bvals: np.ndarray
    signal: np.ndarray
    sigma: float
    sigma_per_bval: np.ndarray
    at_bound: float | None
    conventional_at_bound: float | None
    displacements: np.ndarray | None
    voxel_edge: float
    preprocessed: bool

    @property
    def tissue(self) -> TypicalTissue:
        """Typical tissue of the anatomy."""
        return TYPICAL[self.anatomy]

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
