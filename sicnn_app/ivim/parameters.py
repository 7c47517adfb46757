"""The maps of the model, a row each: names, units, intervals, and how every page shows them."""

from __future__ import annotations

from sicnn_app.ivim.map_spec import BY_1000, MapSpec
from sicnn_app.methods import METHODS

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
        brain_range=(0.0, 0.1),
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
        brain_range=(0.0, 0.002),
        title="tissue diffusion",
        factor=1e3,
        shown_unit=BY_1000,
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
        (0.005, 0.2),
        logarithmic=True,
        title="pseudo-diffusion of blood",
        colour_map="plasma",
        factor=1e3,
        shown_unit=BY_1000,
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
