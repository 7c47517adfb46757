"""What a map is, for the maps of the model and for those that a method has besides."""

from __future__ import annotations

from dataclasses import dataclass

BY_1000 = "10⁻³\u00a0mm²/s"
"""Shown unit of diffusion coefficients, with a factor of 1000."""


@dataclass(frozen=True)
class MapSpec:
    """One map: how files, sidecars, tables and pictures call and show it.

    Ranges are in the unit of the file.

    Attributes
    ----------
    label : str
        Value of the ``param`` entity, and key of the array in :class:`sicnn_app.ivim.maps.Estimate`.
    symbol : str
        How texts and figures name it.
    unit : str
        BIDS ``Units``.
    display_range : tuple of float, optional
        Fixed colour range of figures; None: taken from the data.
    title : str
        Short meaning in words.
    colour_map : str
        See :func:`sicnn_app.report.style.colour_map`.
    factor : float
        From the unit of the file to the unit shown.
    shown_unit : str, optional
        Unit shown; None: that of the file.
    bounds : tuple of float, optional
        Closed interval of a parameter that is estimated, S0 relative to the normaliser; None for what follows
        from the parameters.
    of_tissue : bool
        A property of the tissue, not of the measurement: it has a standard deviation, a distribution
        in the report and a repeatability, and tissues are told apart by it.
    needs_perfusion : bool
        It has a meaning only where F is not negligible.
    outlier : bool
        The group looks for runs whose median lies outside.
    brain_range : tuple of float, optional
        Fixed colour range for the brain where that of the body would hide everything (F is about 3-8 %).
    logarithmic : bool
        Equal factors, not equal differences, are as far apart in colours and charts.
    spread_range, brain_spread_range : float, optional
        Upper end of the colour range of standard deviations.
    difference_range, brain_difference_range : float, optional
        Half of the colour range of differences: about what the organs differ by.
    """

    label: str
    symbol: str
    unit: str
    description: str
    display_range: tuple[float, float] | None = None
    title: str = ""
    colour_map: str = "viridis"
    factor: float = 1.0
    shown_unit: str | None = None
    bounds: tuple[float, float] | None = None
    of_tissue: bool = False
    needs_perfusion: bool = False
    outlier: bool = False
    brain_range: tuple[float, float] | None = None
    logarithmic: bool = False
    spread_range: float | None = None
    brain_spread_range: float | None = None
    difference_range: float | None = None
    brain_difference_range: float | None = None

    def range_in(self, anatomy: str | None) -> tuple[float, float] | None:
        """Fixed colour range for an anatomy; the body shares that of data of which nothing tells what it is.

        None for a map without one.
        """
        return (self.brain_range if anatomy == "brain" else None) or self.display_range

    def spread_range_in(self, anatomy: str | None) -> tuple[float, float] | None:
        """Colour range of standard deviations for an anatomy; None for a map without one."""
        end = (self.brain_spread_range if anatomy == "brain" else None) or self.spread_range
        return None if end is None else (0.0, end)
