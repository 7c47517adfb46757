"""The part of the report that says how sure the maps of an ensemble are."""

from __future__ import annotations

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import Facts, count_of, format_number
from sicnn_app.derivatives.names import picture_name
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.report import figures
from sicnn_app.report.display import Display
from sicnn_app.report.picture import Picture, baseline_of, percent, range_words, volume_of
from sicnn_app.report.quantities import Quantity, spread_quantities

SPREAD_HEAD = ("Map", "Median standard deviation", "Quartiles", "Relative to the map, median")


def spread_words(run: RunDerivatives) -> str:
    """What the standard deviations are, in a sentence or two."""
    facts = Facts(run.parameters)
    members = facts.number("ensemble")
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


def spread_rows(run: RunDerivatives) -> list[list[str]]:
    """Standard deviations of every map in numbers; empty without an ensemble."""
    rows = []
    for quantity in _shown_quantities(run):
        label = quantity.spec.label
        where = run.meaningful(label)
        spread = run.spread[label][run.mask][where].astype(np.float64)
        values = run.inside(label)[where]
        spread, values = (found[np.isfinite(spread)] for found in (spread, values))
        if spread.size == 0:
            continue
        low, median, high = (format_number(q * quantity.factor) for q in np.percentile(spread, (25, 50, 75)))
        relative = relative_spread(spread, values)
        share = "" if relative is None else percent(100.0 * relative)
        rows.append([f"{quantity.spec.symbol} ({quantity.unit})", median, f"{low} – {high}", share])
    return rows


def relative_spread(spread: np.ndarray, values: np.ndarray) -> float | None:
    """Median ratio of standard deviations to the values of the map, where these are above 0."""
    known = values > 0
    return float(np.median(spread[known] / values[known])) if known.any() else None


def spread_pictures(run: RunDerivatives, display: Display) -> list[Picture]:
    """Maps of the standard deviations that are there."""
    return [_picture(run, display, quantity) for quantity in _shown_quantities(run)]


def _shown_quantities(run: RunDerivatives) -> list[Quantity]:
    return [
        quantity
        for quantity in spread_quantities(run.anatomy)
        if quantity.spec.label in run.spread and quantity.spec.label in run.maps
    ]


def _picture(run: RunDerivatives, display: Display, quantity: Quantity) -> Picture:
    label = quantity.spec.label
    spread = run.spread[label]
    shown = volume_of(run, run.meaningful(label)) & np.isfinite(spread)
    _, high = quantity.limits(spread)
    inside = spread[shown].astype(np.float64) * quantity.factor
    caption = [f"Colour range 0 to {quantity.with_unit(high)}, {range_words(run, quantity)}."]
    if outside := quantity.share_outside(spread[shown].astype(np.float64)):
        caption.append(f"{percent(100.0 * outside)} of the voxels lie above it.")
    if quantity.spec.needs_perfusion:
        caption.append(f"Without colour where F is below {100 * NEGLIGIBLE_F:g} %.")
    median = f": median {format_number(float(np.median(inside)))} {quantity.unit}" if inside.size else ""
    return Picture(
        file_name=picture_name(run.name, f"{label}std", "png"),
        content=figures.map_picture(spread, run.mask, baseline_of(run), display, quantity, shown=shown),
        title=f"{quantity.spec.symbol}, {quantity.title}",
        caption=" ".join(caption),
        alt=f"Map of the standard deviation of {quantity.spec.symbol} on "
        f"{count_of(len(display.slices), 'slice')}{median}.",
    )
