"""How each map is shown to people: colour map, factor, unit and range."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sicnn_app.ivim.parameters import MapSpec, all_maps

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
    logarithmic : bool
        Colours and charts have a logarithmic scale.
    """

    spec: MapSpec
    title: str
    cmap: str
    factor: float
    unit: str
    fixed_range: tuple[float, float] | None
    logarithmic: bool = False

    @property
    def name(self) -> str:
        """Symbol and meaning."""
        return f"{self.spec.symbol}, {self.title}"

    @property
    def heading(self) -> str:
        """Symbol and unit, as the head of a row or column."""
        return f"{self.spec.symbol} ({self.unit})"

    def scaled(self, value: float | None) -> float | None:
        """A number in the unit of the file in the unit shown; None for none."""
        return None if value is None else value * self.factor

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

        The values are in the unit of the file.
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


def shown_quantities(anatomy: str | None) -> tuple[Quantity, ...]:
    """Every map of :func:`sicnn_app.ivim.parameters.all_maps`, in its order, as shown for an anatomy.

    The brain has ranges of its own, see :meth:`sicnn_app.ivim.map_spec.MapSpec.range_in`.
    """
    return tuple(
        Quantity(
            spec,
            spec.title or spec.label,
            spec.colour_map,
            spec.factor,
            spec.shown_unit or spec.unit,
            spec.range_in(anatomy),
            spec.logarithmic,
        )
        for spec in all_maps()
    )


def tissue_quantities(anatomy: str | None) -> list[Quantity]:
    """F, D and D* among :func:`shown_quantities`."""
    return [quantity for quantity in shown_quantities(anatomy) if quantity.spec.of_tissue]


def spread_quantities(anatomy: str | None) -> tuple[Quantity, ...]:
    """Standard deviations of F, D and D* as shown: all in one colour map, so that none is taken for a map."""
    shown = []
    for quantity in shown_quantities(anatomy):
        if limits := quantity.spec.spread_range_in(anatomy):
            shown.append(_of_map(quantity, "standard deviation", "cividis", limits))
    return tuple(shown)


def difference_quantities(anatomy: str | None, title: str) -> tuple[Quantity, ...]:
    """Differences of F, D and D* as shown: a symmetrical range, and a colour map that is grey in its middle.

    ``title`` says what is subtracted from what.
    """
    shown = []
    for quantity in shown_quantities(anatomy):
        spec = quantity.spec
        if half := (anatomy == "brain" and spec.brain_difference_range) or spec.difference_range:
            shown.append(_of_map(quantity, title, "differences", (-half, half)))
    return tuple(shown)


def _of_map(quantity: Quantity, title: str, cmap: str, limits: tuple[float, float]) -> Quantity:
    """A map as it is shown in its unit, but in words, colours and a range of its own."""
    unit = "percentage points" if quantity.unit == "%" else quantity.unit
    return replace(quantity, title=title, cmap=cmap, unit=unit, fixed_range=limits, logarithmic=False)
