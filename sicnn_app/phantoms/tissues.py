"""IVIM parameters of the tissues in the phantoms, each with the place it was taken from.

The relative brightness S0 has no single source: it is chosen to resemble a
fat-suppressed, T2-weighted echo-planar image, bright fluid and kidneys, dark liver,
muscle and fat.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sicnn_app.ivim.parameters import BOUNDS as PARAMETER_BOUNDS
from sicnn_app.ivim.parameters import TISSUE_LABELS

CONSENSUS = "Ljimani et al., MAGMA 2020 (consensus means)"
XCAT = "OSIPI TF2.4 XCAT phantom (values collected from the literature)"
RYDHOG = "Rydhog et al., Magn Reson Med 2014"
FREE_FLUID = "assumed: free fluid"
SUPPRESSED_FAT = "assumed: residual signal of suppressed fat"
BETWEEN = "chosen between deep grey and white matter"
DRAWN = "drawn anew for every seed"
RELATIVE = "unusual against the tissue it lies in"

BOUNDS = {label: PARAMETER_BOUNDS[label] for label in TISSUE_LABELS}
"""Closed intervals the textured values are clipped to: F fraction, D and D* mm^2/s."""


@dataclass(frozen=True)
class Tissue:
    """One tissue of a phantom.

    Attributes
    ----------
    code : int
        Its label in the segmentation; 0 is background.
    f, d, dstar : float
        Perfusion fraction, 0..1, diffusion and pseudo-diffusion coefficient, mm^2/s. D* is the full second
        exponent. It has no meaning where F is 0.
    s0 : float
        Brightness at b = 0 relative to 1.
    source : str
        Where F, D and D* come from.
    color : str
        Of the label in a viewer.
    """

    code: int
    name: str
    f: float
    d: float
    dstar: float
    s0: float
    source: str
    color: str


TISSUES: dict[str, tuple[Tissue, ...]] = {
    "abdomen": (
        Tissue(1, "liver", 0.2305, 1.09e-3, 0.0700, 0.45, CONSENSUS, "#8c4a2f"),
        Tissue(2, "kidney_cortex", 0.097, 2.12e-3, 0.020, 0.95, XCAT, "#e69f00"),
        Tissue(3, "kidney_medulla", 0.158, 2.09e-3, 0.019, 1.05, XCAT, "#d55e00"),
        Tissue(4, "spleen", 0.20, 1.30e-3, 0.030, 0.80, XCAT, "#7b3294"),
        Tissue(5, "pancreas", 0.2003, 1.41e-3, 0.0254, 0.60, CONSENSUS, "#f0e442"),
        Tissue(6, "muscle", 0.1034, 1.47e-3, 0.0309, 0.32, CONSENSUS, "#cc6677"),
        Tissue(7, "marrow", 0.145, 0.43e-3, 0.050, 0.28, XCAT, "#ddcc77"),
        Tissue(8, "stomach_wall", 0.30, 1.50e-3, 0.012, 0.55, XCAT, "#44aa99"),
        Tissue(9, "stomach_content", 0.0, 2.00e-3, 0.100, 0.90, XCAT, "#88ccee"),
        Tissue(10, "gallbladder", 0.0, 3.00e-3, 0.100, 1.40, XCAT, "#009e73"),
        Tissue(11, "intestine", 0.69, 1.31e-3, 0.029, 0.50, XCAT, "#999933"),
        Tissue(12, "vessel", 1.0, 3.00e-3, 0.100, 0.70, XCAT, "#cc0000"),
        Tissue(13, "spinal_canal", 0.0, 3.00e-3, 0.100, 1.30, FREE_FLUID, "#0072b2"),
        Tissue(14, "fat", 0.0, 0.20e-3, 0.100, 0.10, SUPPRESSED_FAT, "#bbbbbb"),
    ),
    "brain": (
        Tissue(1, "white_matter", 0.044, 0.81e-3, 0.084, 0.55, RYDHOG, "#dddddd"),
        Tissue(2, "cortical_grey_matter", 0.033, 0.86e-3, 0.076, 0.75, RYDHOG, "#888888"),
        Tissue(3, "deep_grey_matter", 0.0764, 0.83e-3, 0.0109, 0.65, f"{CONSENSUS}, brain", "#cc79a7"),
        Tissue(4, "csf", 0.0, 3.00e-3, 0.100, 1.60, RYDHOG, "#56b4e9"),
        Tissue(5, "vessel", 1.0, 3.00e-3, 0.100, 0.80, XCAT, "#cc0000"),
    ),
}


LESION = Tissue(99, "lesion", math.nan, math.nan, math.nan, math.nan, RELATIVE, "#ff00ff")
"""Label of lesions: their values are those of their surroundings, changed."""


@dataclass(frozen=True)
class Ranges:
    """Intervals that values are drawn from: F fraction, D and D* mm^2/s, S0 relative to 1."""

    f: tuple[float, float]
    d: tuple[float, float]
    dstar: tuple[float, float]
    s0: tuple[float, float] = (0.3, 1.2)


BODY_RANGES = Ranges(f=(0.04, 0.40), d=(0.6e-3, 2.4e-3), dstar=(0.010, 0.100))
BRAIN_RANGES = Ranges(f=(0.02, 0.12), d=(0.6e-3, 1.1e-3), dstar=(0.008, 0.090))
LOW_PERFUSION = Ranges(f=(0.02, 0.05), d=(0.6e-3, 1.6e-3), dstar=(0.003, 0.013))


@dataclass(frozen=True)
class Values:
    """Where the values of tissues come from.

    Attributes
    ----------
    ranges : mapping from preset to Ranges
        Of what is drawn, and of continuous fields; only with the presets named.
    tables : mapping from preset to tuple of Tissue
        Values of the tissues of the drawing. Without a table, those with perfusion are drawn.
    """

    ranges: Mapping[str, Ranges]
    tables: Mapping[str, tuple[Tissue, ...]]


_BY_PRESET = {"abdomen": BODY_RANGES, "brain": BRAIN_RANGES}
_CONTRASTS = tuple(
    replace(tissue, f=0.060, source=BETWEEN) if tissue.name == "cortical_grey_matter" else tissue
    for tissue in TISSUES["brain"]
)
VALUES = {
    "literature": Values(_BY_PRESET, TISSUES),
    "drawn": Values(_BY_PRESET, {}),
    "low-perfusion": Values(dict.fromkeys(TISSUES, LOW_PERFUSION), {}),
    "contrasts": Values({"brain": BRAIN_RANGES}, {"brain": _CONTRASTS}),
}
"""Choices of ``--values``. Contrasts: F falls from deep grey matter over cortex to white matter."""


def draw_tissues(tissues: tuple[Tissue, ...], ranges: Ranges, rng: np.random.Generator) -> tuple[Tissue, ...]:
    """Tissues with values drawn anew, even on the logarithmic scale; what holds no or only blood stays."""

    def drawn(limits: tuple[float, float]) -> float:
        return float(np.exp(rng.uniform(*np.log(limits))))

    return tuple(
        replace(
            tissue,
            f=drawn(ranges.f),
            d=drawn(ranges.d),
            dstar=drawn(ranges.dstar),
            s0=drawn(ranges.s0),
            source=DRAWN,
        )
        if 0 < tissue.f < 1
        else tissue
        for tissue in tissues
    )


def bounds_of(ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Intervals that values are clipped to: :data:`BOUNDS`, with room for what the ranges hold."""
    return {label: (min(low, getattr(ranges, label)[0]), high) for label, (low, high) in BOUNDS.items()}


def vary_tissues(
    tissues: tuple[Tissue, ...],
    variation: float,
    rng: np.random.Generator,
    bounds: Mapping[str, tuple[float, float]] = BOUNDS,
) -> tuple[Tissue, ...]:
    """Tissues with values of one subject's own, in the same order; F, D and D* stay within their bounds.

    ``variation`` is the standard deviation of the relative change of F, D, D* and S0, independent for every
    tissue and parameter and cut off at two standard deviations. 0 changes nothing.
    """
    factors = 1.0 + variation * np.clip(rng.standard_normal((len(tissues), 4)), -2.0, 2.0)
    return tuple(
        replace(
            tissue,
            f=float(np.clip(tissue.f * f, *bounds["f"])),
            d=float(np.clip(tissue.d * d, *bounds["d"])),
            dstar=float(np.clip(tissue.dstar * dstar, *bounds["dstar"])),
            s0=tissue.s0 * s0,
        )
        for tissue, (f, d, dstar, s0) in zip(tissues, factors.tolist(), strict=True)
    )
