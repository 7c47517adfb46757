"""The part of the report that says how sure the maps are."""

from __future__ import annotations

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import Facts, format_number
from sicnn_app.formats import listed
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.report import figures
from sicnn_app.report.display import Display
from sicnn_app.report.picture import Picture, captioned_map, percent, volume_of
from sicnn_app.report.quantities import Quantity, spread_quantities


def spread_words(run: RunDerivatives) -> str:
    """Meaning of the standard deviations, in a sentence or two."""
    if run.parameters.get("refinement") == "posterior":
        return (
            "Standard deviations of the posterior: what the network's maps and the voxel's own signals leave "
            "open together. In simulations about 70 % of the true values lie within one and 95 % within two; "
            "fewer where volumes lost signal to motion."
        )
    members = Facts(run.parameters).number("ensemble")
    networks = "an ensemble" if members is None else f"{members:.0f} networks"
    words = f"Standard deviations over {networks}, each trained with a seed and noise of its own."
    factors = run.parameters.get("ensemble_spread_factor")
    if isinstance(factors, dict):
        named = ", ".join(
            f"{format_number(factors.get(quantity.spec.label))} for {quantity.spec.symbol}"
            for quantity in spread_quantities(run.anatomy)
        )
        words += (
            f" They are multiplied with factors ({named}) for which 68 % of the true values of simulated "
            "abdomens lie within one of them; tissue that differs from all around it may be farther off."
        )
    return words


def faded_words(run: RunDerivatives) -> str:
    """What it means that colours of the maps fade; nothing where there are no standard deviations.

    Examples
    --------
    >>> faded_words(RunDerivatives("sub-01"))
    ''
    """
    if not run.spread:
        return ""
    limits = [f"{100 * limit:.0f}" for limit, _ in figures.FADES]
    return (
        "Colours fade to grey where a voxel is not known well: in steps, from standard deviations of "
        f"{listed(limits)} % of the value on."
    )


def spread_rows(run: RunDerivatives) -> list[dict[str, str]]:
    """Standard deviations of every map in numbers, by column; empty where there are none."""
    rows = []
    for quantity in _shown_quantities(run):
        shown = _shown_voxels(run, quantity)
        spread, values = (
            maps[quantity.spec.label][shown].astype(np.float64) for maps in (run.spread, run.maps)
        )
        if spread.size == 0:
            continue
        low, median, high = map(format_number, np.percentile(spread, (25, 50, 75)) * quantity.factor)
        relative = relative_spread(spread, values)
        rows.append(
            {
                "Map": quantity.heading,
                "Median standard deviation": median,
                "Quartiles": f"{low} – {high}",
                "Relative to the map, median": "" if relative is None else percent(relative),
            }
        )
    return rows


def relative_spread(spread: np.ndarray, values: np.ndarray) -> float | None:
    """Median ratio of standard deviations to the values of the map, where these are above 0."""
    known = values > 0
    return float(np.median(spread[known] / values[known])) if known.any() else None


def spread_pictures(run: RunDerivatives, display: Display) -> list[Picture]:
    """Maps of the standard deviations that are there."""
    return [_picture(run, display, quantity) for quantity in _shown_quantities(run)]


def _shown_quantities(run: RunDerivatives) -> list[Quantity]:
    both = run.spread.keys() & run.maps.keys()
    return [quantity for quantity in spread_quantities(run.anatomy) if quantity.spec.label in both]


def _shown_voxels(run: RunDerivatives, quantity: Quantity) -> np.ndarray:
    """Voxels, shape (X, Y, Z), bool, with a standard deviation that means something."""
    label = quantity.spec.label
    return volume_of(run, run.meaningful(label)) & np.isfinite(run.spread[label])


def _picture(run: RunDerivatives, display: Display, quantity: Quantity) -> Picture:
    spread, shown = run.spread[quantity.spec.label], _shown_voxels(run, quantity)
    inside = spread[shown].astype(np.float64) * quantity.factor
    remark = f"Without colour where F is below {100 * NEGLIGIBLE_F:g} %."
    return captioned_map(
        run,
        display,
        quantity,
        spread,
        shown,
        desc=f"{quantity.spec.label}std",
        what=f"the standard deviation of {quantity.spec.symbol}",
        numbers=f": median {format_number(float(np.median(inside)))} {quantity.unit}" if inside.size else "",
        beyond="above",
        remark=remark if quantity.spec.needs_perfusion else "",
    )
