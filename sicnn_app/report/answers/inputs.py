"""Numbers of runs and of their tissues, of which the lines are made, and numbers of a tissue in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sicnn_app.derivatives.facts import count_of
from sicnn_app.ivim.adequacy_inputs import UNKNOWN
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.ivim.parameters import SPECS, TISSUE_LABELS
from sicnn_app.report.answers.wording import percent, with_error

VOXELS_ALIKE = 4
"""Voxels that count as one measurement: denoising and reconstruction make the noise of neighbours alike."""

LEAST_VOXELS = 10
"""Below it a region has no median worth a sentence."""

MOSTLY_FLAGGED = 0.5
"""Share of flagged voxels from which on the median of a region is not read."""

FLUID_D = 2.5e-3
"""mm^2/s. Free water at body temperature has 3.0e-3, kidney, the highest tissue, about 2.0e-3."""

VESSEL_F = {"brain": 0.1, "body": 0.4}
"""More blood than tissue holds (liver about 0.3, grey matter up to 0.08); of a region a quarter more, because
organs differ and its name tells what it is."""

NOTABLE_SHARE = 0.02
"""Of the voxels, from which on fluid or vessels are named."""

_TO_STANDARD_DEVIATION = 1.349
"""Interquartile range over standard deviation of a normal distribution."""

_OF_MEDIAN = math.sqrt(math.pi / 2)
"""Standard deviation of a median over that of a mean, for normal values."""


@dataclass(frozen=True)
class Tissue:
    """A region of a segmentation, a cluster of similar voxels, or all of the mask, in one run.

    Numbers are in the units of the maps and by label of the map; what is not known is not there.

    Attributes
    ----------
    medians, iqr, deviations : mapping of str to float
        Over its voxels: median, interquartile range and standard deviation; of a cluster the last is that of
        one voxel, because its voxels were chosen to be alike.
    of_voxel, bounds : mapping of str to float
        Standard deviation of one voxel: that of the method, and the smallest that its own signals can give.
    at_bound, flagged : float
        Shares of its voxels.
    inside : float
        Share of the whole region that lies inside the mask.
    cluster : bool
        Similar voxels, not a region.
    """

    name: str
    voxels: int
    medians: Mapping[str, float] = field(default_factory=dict)
    iqr: Mapping[str, float] = field(default_factory=dict)
    deviations: Mapping[str, float] = field(default_factory=dict)
    of_voxel: Mapping[str, float] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    at_bound: float = 0.0
    flagged: float = 0.0
    inside: float = 1.0
    cluster: bool = False

    @property
    def measurements(self) -> float:
        """Independent ones among its voxels, at least one."""
        return max(1.0, self.voxels / VOXELS_ALIKE)

    def error(self, label: str) -> float:
        """Standard deviation of the median, of a cluster that of one voxel; 0 where it is not known."""
        if self.cluster:
            return self.deviations.get(label, 0.0)
        return _OF_MEDIAN * self.iqr.get(label, 0.0) / _TO_STANDARD_DEVIATION / math.sqrt(self.measurements)

    @property
    def unread(self) -> str:
        """Why its medians are not to be read; empty where they are."""
        if self.voxels == 0 or not set(TISSUE_LABELS[:2]) <= self.medians.keys():
            return "outside the mask"
        if self.voxels < LEAST_VOXELS:
            return f"only {count_of(self.voxels, 'voxel')}"
        return f"{percent(self.flagged)} of its voxels flagged" if self.flagged >= MOSTLY_FLAGGED else ""


@dataclass(frozen=True)
class RunAnswers:
    """What the lines need of one run.

    Attributes
    ----------
    title : str
        How the report calls it.
    verdict, sentence : str
        On its data, as its quality sidecar has them.
    advice : mapping of str to str
        What to do about a check that is not good, by its name.
    tissues : tuple of Tissue
        Its regions, or clusters of similar voxels where there are none.
    named : bool
        They are regions.
    whole : Tissue or None
        All voxels of the mask.
    conditions : mapping of str to str
        What F, D and D* may depend on, by name: b-values, times, settings.
    lost : tuple of str
        Volumes that lost signal, each in words.
    anatomy : str or None
    fluid, vessels : float
        Shares of the voxels that look like fluid and like vessels, see :data:`FLUID_D`, :data:`VESSEL_F`.
    """

    title: str
    verdict: str = UNKNOWN
    sentence: str = ""
    advice: Mapping[str, str] = field(default_factory=dict)
    tissues: tuple[Tissue, ...] = ()
    named: bool = False
    whole: Tissue | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    lost: tuple[str, ...] = ()
    anatomy: str | None = None
    fluid: float = 0.0
    vessels: float = 0.0


def numbers(tissue: Tissue) -> str:
    """F, D and D* with their standard deviations over the voxels; D and D* in 10^-3 mm^2/s.

    Examples
    --------
    >>> numbers(Tissue("liver", 50, {"f": 0.32, "d": 0.00105}, deviations={"f": 0.1}))
    'F 32 ± 10 %, D 1.05'
    """
    labels = [label for label in TISSUE_LABELS if label in tissue.medians]
    if "dstar" in labels and tissue.medians["f"] < NEGLIGIBLE_F:
        labels.remove("dstar")
    return ", ".join(f"{SPECS[label].symbol} {value_in_words(tissue, label)}" for label in labels)


def value_in_words(tissue: Tissue, label: str) -> str:
    """Median of a map with the standard deviation, in the unit of the report."""
    spec = SPECS[label]
    deviation = tissue.deviations.get(label, math.nan) * spec.factor
    text = with_error(tissue.medians[label] * spec.factor, deviation)
    return f"{text} %" if spec.shown_unit == "%" else text
