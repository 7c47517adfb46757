"""A picture of the report with the words around it, and what several kinds of them share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.report.quantities import Quantity


@dataclass(frozen=True)
class Picture:
    """A picture file and the words around it."""

    file_name: str
    content: bytes
    title: str
    caption: str
    alt: str


def baseline_of(run: RunDerivatives) -> np.ndarray | None:
    """What lies below the maps: the measured image at the lowest b-value, or else the S0 map."""
    if run.measured is not None:
        return run.measured.baseline
    return run.maps.get("s0")


def volume_of(run: RunDerivatives, inside: np.ndarray) -> np.ndarray:
    """Voxels, shape (X, Y, Z), bool, from those of the mask, shape (M,); outside of it none."""
    volume = np.zeros(run.mask.shape, dtype=bool)
    volume[run.mask] = inside
    return volume


def range_words(run: RunDerivatives, quantity: Quantity) -> str:
    """Where the colour range of a map comes from."""
    if quantity.fixed_range is None:
        return "chosen from the data"
    return f"the same in every {run.anatomy} report" if run.anatomy else "the same in every report"


def percent(share: float) -> str:
    """A percentage in words."""
    return "less than 0.1 %" if 0 < share < 0.1 else f"{share:.1f} %"
