"""How each map is shown to people: colour map, factor, unit and range."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sicnn_app.ivim.maps import MAPS, MapSpec

DATA_PERCENTILE = 99.0
"""Upper end of the colour range of maps without a fixed one."""


@dataclass(frozen=True)
class Quantity:
    """A map as shown.

    Attributes
    ----------
    spec : MapSpec
    title : str
        Short meaning in words.
    cmap : str
        Name of a colour map, see :func:`sicnn_app.report.style.colour_map`; all of them have one-way
        lightness, so they survive grey print and colour-blind eyes.
    factor : float
        From the unit of the file to the unit shown.
    unit : str
        Unit shown.
    fixed_range : tuple of float or None
        Colour range in the unit of the file; None: taken from the data.
    """

    spec: MapSpec
    title: str
    cmap: str
    factor: float
    unit: str
    fixed_range: tuple[float, float] | None

    @property
    def axis_label(self) -> str:
        """Symbol, meaning and unit."""
        return f"{self.spec.symbol}, {self.title} ({self.unit})"

    def with_unit(self, value: float) -> str:
        """A number in the unit shown, with it.

        Examples
        --------
        >>> shown_quantities(None)[0].with_unit(12.5)
        '12.5 %'
        """
        times = "\u00a0×\u00a0" if self.unit.startswith("10") else " "
        return f"{value:.4g}{times}{self.unit}"

    def limits(self, values: np.ndarray) -> tuple[float, float]:
        """Colour range in the unit shown: the fixed one, or 0 to a round number near the data's upper end.

        Parameters
        ----------
        values : ndarray, in the unit of the file
        """
        if self.fixed_range is not None:
            low, high = self.fixed_range
            return low * self.factor, high * self.factor
        finite = values[np.isfinite(values)]
        top = float(np.percentile(finite, DATA_PERCENTILE)) * self.factor if finite.size else 1.0
        return 0.0, _round_up(top)

    def share_outside(self, values: np.ndarray) -> float | None:
        """Share of the values, in the unit of the file, outside of their colour range; None without any."""
        low, high = self.limits(values)
        shown = values * self.factor
        return float(((shown < low) | (shown > high)).mean()) if values.size else None


def _round_up(value: float) -> float:
    """The next number with two significant digits; 1 for numbers that are not positive.

    Examples
    --------
    >>> _round_up(1234.0)
    1300.0
    """
    if not math.isfinite(value) or value <= 0:
        return 1.0
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(round(value / step, 9)) * step


_SHOWN = {
    "f": ("perfusion fraction", "magma", 100.0, "%"),
    "d": ("tissue diffusion", "viridis", 1e3, "10⁻³\u00a0mm²/s"),
    "dstar": ("pseudo-diffusion of blood", "plasma", 1e3, "10⁻³\u00a0mm²/s"),
    "s0": ("signal at b = 0", "gray", 1.0, "image units"),
    "rmse": ("residual relative to S0", "cividis", 100.0, "%"),
}


BRAIN_RANGES = {"f": (0.0, 0.2)}
"""Fixed colour ranges for the brain where those of the body would hide everything (F is about 3-8 %)."""


def shown_quantities(anatomy: str | None) -> tuple[Quantity, ...]:
    """Every map of :data:`sicnn_app.ivim.maps.MAPS`, in its order, as shown for an anatomy.

    Parameters
    ----------
    anatomy : {"brain", "body", None}
    """
    ranges = BRAIN_RANGES if anatomy == "brain" else {}
    quantities = []
    for spec in MAPS:
        title, cmap, factor, unit = _SHOWN.get(spec.label, (spec.label, "viridis", 1.0, spec.unit))
        quantities.append(
            Quantity(spec, title, cmap, factor, unit, ranges.get(spec.label, spec.display_range))
        )
    return tuple(quantities)


HISTOGRAM_LABELS = ("f", "d", "dstar")

SPREAD_RANGES = {"f": 0.1, "d": 0.6e-3, "dstar": 0.05}
"""Upper end of the colour range of standard deviations, in the unit of the file."""

BRAIN_SPREAD_RANGES = {"f": 0.05}


def spread_quantities(anatomy: str | None) -> tuple[Quantity, ...]:
    """Standard deviations of F, D and D* as shown: all in one colour map, so that none is taken for a map.

    Parameters
    ----------
    anatomy : {"brain", "body", None}
    """
    ends = {**SPREAD_RANGES, **(BRAIN_SPREAD_RANGES if anatomy == "brain" else {})}
    return tuple(
        replace(
            quantity,
            title="standard deviation",
            cmap="cividis",
            unit="percentage points" if quantity.unit == "%" else quantity.unit,
            fixed_range=(0.0, ends[quantity.spec.label]),
        )
        for quantity in shown_quantities(anatomy)
        if quantity.spec.label in ends
    )


DIFFERENCE_RANGES = {"f": 0.2, "d": 1e-3, "dstar": 0.05}
"""Half of the colour range of differences, in the unit of the file: about what the organs differ by."""

BRAIN_DIFFERENCE_RANGES = {"f": 0.1}


def difference_quantities(anatomy: str | None, title: str) -> tuple[Quantity, ...]:
    """Differences of F, D and D* as shown: a symmetrical range, and a colour map that is grey in its middle.

    Parameters
    ----------
    anatomy : {"brain", "body", None}
    title : str
        What is subtracted from what.
    """
    halves = {**DIFFERENCE_RANGES, **(BRAIN_DIFFERENCE_RANGES if anatomy == "brain" else {})}
    return tuple(
        replace(
            quantity,
            title=title,
            cmap="differences",
            unit="percentage points" if quantity.unit == "%" else quantity.unit,
            fixed_range=(-halves[quantity.spec.label], halves[quantity.spec.label]),
        )
        for quantity in shown_quantities(anatomy)
        if quantity.spec.label in halves
    )
