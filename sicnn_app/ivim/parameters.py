"""The maps of the model, a row each: names, units, intervals, and how every page shows them."""

from __future__ import annotations

from dataclasses import dataclass

from sicnn_app.methods import METHODS

_BY_1000 = "10⁻³\u00a0mm²/s"


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
        A property of the tissue, not of the measurement: it has a standard deviation over an ensemble, a
        distribution in the report and a repeatability, and tissues are told apart by it.
    needs_perfusion : bool
        It has a meaning only where F is not negligible.
    outlier : bool
        The group looks for runs whose median lies outside.
    brain_range : tuple of float, optional
        Fixed colour range for the brain where that of the body would hide everything (F is about 3-8 %).
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
    spread_range: float | None = None
    brain_spread_range: float | None = None
    difference_range: float | None = None
    brain_difference_range: float | None = None


MAPS: tuple[MapSpec, ...] = (
    MapSpec(
        "f",
        "F",
        "arbitrary",
        "Perfusion fraction F of the IVIM model, a fraction between 0 and 1",
        (0.0, 0.5),
        title="perfusion fraction",
        colour_map="magma",
        factor=100.0,
        shown_unit="%",
        bounds=(0.0, 1.0),
        of_tissue=True,
        outlier=True,
        brain_range=(0.0, 0.2),
        spread_range=0.1,
        brain_spread_range=0.05,
        difference_range=0.2,
        brain_difference_range=0.1,
    ),
    MapSpec(
        "d",
        "D",
        "mm^2/s",
        "Diffusion coefficient D of the tissue",
        (0.0, 0.003),
        title="tissue diffusion",
        factor=1e3,
        shown_unit=_BY_1000,
        bounds=(0.0, 0.005),
        of_tissue=True,
        outlier=True,
        spread_range=0.6e-3,
        difference_range=1e-3,
    ),
    MapSpec(
        "dstar",
        "D*",
        "mm^2/s",
        "Pseudo-diffusion coefficient D* of the blood: the full second exponent, not D* - D. "
        "It has no meaning where F is close to 0; those voxels are flagged",
        (0.0, 0.1),
        title="pseudo-diffusion of blood",
        colour_map="plasma",
        factor=1e3,
        shown_unit=_BY_1000,
        bounds=(0.005, 0.2),
        of_tissue=True,
        needs_perfusion=True,
        outlier=True,
        spread_range=0.05,
        difference_range=0.05,
    ),
    MapSpec(
        "s0",
        "S0",
        "arbitrary",
        "Signal at b = 0 in the units of the source image",
        title="signal at b = 0",
        colour_map="gray",
        shown_unit="image units",
        bounds=(0.5, 1.5),
    ),
    MapSpec(
        "rmse",
        "RMSE",
        "arbitrary",
        "Root mean squared difference between predicted and averaged measured signals over b-values, "
        "relative to S0",
        (0.0, 0.2),
        title="residual relative to S0",
        colour_map="cividis",
        factor=100.0,
        shown_unit="%",
        outlier=True,
    ),
)
"""Every map of the contract, in the order in which it is written and shown."""

SPECS = {spec.label: spec for spec in MAPS}

BOUNDS = {spec.label: spec.bounds for spec in MAPS if spec.bounds is not None}
"""Closed interval of every parameter, in the unit of its map; S0 relative to the normaliser."""

PARAMETERS = tuple(BOUNDS)
"""Labels of the unknowns of a voxel: F, D, D*, S0 (``lsq`` has columns of its own order)."""

TISSUE_LABELS = tuple(spec.label for spec in MAPS if spec.of_tissue)
"""Labels of the properties of the tissue: F, D, D*."""


def maps_of(method: str) -> tuple[MapSpec, ...]:
    """Maps that a method writes: those of the contract, then its own; unknown methods have none of their own.

    Examples
    --------
    >>> [spec.label for spec in maps_of("lsq")]
    ['f', 'd', 'dstar', 's0', 'rmse']
    """
    return (*MAPS, *(METHODS[method].maps if method in METHODS else ()))


def all_maps() -> tuple[MapSpec, ...]:
    """Maps that any method writes: those of the contract, then further ones in the order of the methods."""
    further = {spec.label: spec for method in METHODS.values() for spec in method.maps}
    return (*MAPS, *further.values())
