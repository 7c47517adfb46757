"""The part of the report on the regions of segmentations: their numbers, and their decays with fits."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import MISSING, Facts, as_number, count_of, format_number
from sicnn_app.derivatives.names import REGIONS, picture_name
from sicnn_app.formats import shorten
from sicnn_app.ivim.flags import FLAGS
from sicnn_app.ivim.parameters import PARAMETERS
from sicnn_app.ivim.signal import ivim_signal
from sicnn_app.report.decay import Curve, points_chart
from sicnn_app.report.picture import Picture
from sicnn_app.report.quantities import Quantity, tissue_quantities

MOST_ROWS, MOST_CHARTS = 16, 6
"""Regions in the table of the page, and those whose decay is drawn: the largest."""

MOST_BOUND, BEYOND = 1000, "> 1000\u00a0%"
"""Per cent of a median, beyond which a bound says no more than that nothing is known."""

NAMED_SHARE = 0.01
"""Of a region's voxels, from which on a flag is named."""


def region_rows(run: RunDerivatives) -> list[dict[str, str]]:
    """One row per region by column, as far as any is known; of many regions the largest, in their order."""
    shown = tissue_quantities(run.anatomy)
    several = len({row.get("segmentation") for row in run.regions}) > 1
    rows = [_row(run.regions[position], shown, several) for position in _largest(run, MOST_ROWS)]
    known = {column for row in rows for column, text in row.items() if text != MISSING}
    return [{column: text for column, text in row.items() if column in known} for row in rows]


def region_words(run: RunDerivatives) -> str:
    """Words of the table on the page."""
    hidden = len(run.regions) - MOST_ROWS
    more = f" {count_of(hidden, 'further region')} and all numbers are in {run.name}_{REGIONS}.tsv."
    return (
        "Medians over the voxels inside the mask, in brackets interquartile range and standard deviation; of "
        "D* where F is at least 2 %. “One voxel” is the smallest standard deviation of F, D and D* that one "
        f"voxel alone can give, as a share of the median.{more if hidden > 0 else ''}"
    )


def region_pictures(run: RunDerivatives) -> list[Picture]:
    """Mean signal over the b-value of the largest regions, with its fit and what the median maps predict."""
    bvals = Facts(run.region_signals).numbers("BValues")
    signals = run.region_signals.get("Signals")
    if not bvals or not isinstance(signals, list) or len(signals) != len(run.regions):
        return []
    pictures = []
    for position in _largest(run, MOST_CHARTS):
        entry = signals[position]
        facts = Facts(entry if isinstance(entry, Mapping) else {})
        mean, deviation = facts.numbers("Mean"), facts.numbers("StandardDeviation")
        fit = [as_number(run.regions[position].get(f"mean_signal_{label}")) for label in PARAMETERS]
        known = np.array([np.nan if value is None else value for value in fit])
        if len(mean) == len(bvals) and np.isfinite(known).all() and known[-1] > 0:
            spread = deviation if len(deviation) == len(bvals) else [0.0] * len(bvals)
            pictures.append(_chart(run, position, np.array([bvals, mean, spread]), known))
    return pictures


def _largest(run: RunDerivatives, most: int) -> list[int]:
    """Positions of the rows with most voxels, in the order of the file."""
    voxels = [as_number(row.get("voxels")) or 0 for row in run.regions]
    return sorted(sorted(range(len(voxels)), key=lambda position: -voxels[position])[:most])


def _name(row: Mapping[str, str], several: bool = False) -> str:
    name = row.get("name") or MISSING
    return f"{name} ({row.get('segmentation')})" if several else name


def _row(row: Mapping[str, str], shown: list[Quantity], several: bool) -> dict[str, str]:
    def numbers(form: str) -> list[str]:
        columns = [(quantity, as_number(row.get(form.format(quantity.spec.label)))) for quantity in shown]
        return [format_number(quantity.scaled(number)) for quantity, number in columns]

    share = as_number(row.get("share_inside"))
    cells = {
        "Region": _name(row, several),
        "Voxels": f"{as_number(row.get('voxels')) or 0:,.0f}",
        "Inside the mask": MISSING if share is None else _percent(share),
    }
    summaries = zip(shown, *map(numbers, ("{}_median", "{}_iqr", "{}_std")), strict=True)
    for quantity, median, iqr, deviation in summaries:
        known = median != MISSING
        cells[quantity.heading] = f"{median} ({iqr}, {deviation})" if known else MISSING
    symbols = ", ".join(quantity.spec.symbol for quantity in shown)
    others = {"of the mean signal": "mean_signal_{}", "of least squares": "lsq_{}_median"}
    for words, form in others.items():
        found = numbers(form)
        cells[f"{symbols} {words}"] = MISSING if set(found) == {MISSING} else ", ".join(found)
    cells["One voxel"] = _precision(row, shown)
    cells["Flagged"] = _flags(row)
    return cells


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _precision(row: Mapping[str, str], shown: list[Quantity]) -> str:
    words = []
    for quantity in shown:
        label = quantity.spec.label
        bound, median = as_number(row.get(f"{label}_bound")), as_number(row.get(f"{label}_median"))
        share = None if bound is None or not median else 100 * bound / median
        if share is None:
            words.append(MISSING)
        else:
            words.append(f"±\u00a0{format_number(share, 2)}\u00a0%" if share <= MOST_BOUND else BEYOND)
    return MISSING if set(words) == {MISSING} else ", ".join(words)


def _flags(row: Mapping[str, str]) -> str:
    share = as_number(row.get("flagged_share"))
    if share is None:
        return MISSING
    shares = {
        spec.name.replace("_", " ").replace("dstar", "D*"): as_number(row.get(f"{spec.name}_share")) or 0
        for spec in FLAGS
    }
    named = [f"{name} {_percent(found)}" for name, found in shares.items() if found >= NAMED_SHARE]
    return ": ".join(filter(None, [_percent(share), ", ".join(named)]))


def _chart(run: RunDerivatives, position: int, signals: np.ndarray, fit: np.ndarray) -> Picture:
    row = run.regions[position]
    bvals, mean, deviation = signals
    f, d, dstar, s0 = fit
    curves: list[tuple[str, Curve]] = [("fit of the mean", partial(ivim_signal, f=f, d=d, dstar=dstar))]
    medians = [as_number(row.get(f"{label}_median")) for label in ("f", "d", "dstar")]
    if None not in medians:
        of_maps = dict(zip(("f", "d", "dstar"), medians, strict=True))
        curves.append(("median maps", partial(ivim_signal, **of_maps)))
    shown = tissue_quantities(run.anatomy)
    words = ", ".join(
        f"{quantity.spec.symbol} {quantity.with_unit(float(f'{quantity.scaled(value):.3g}'))}"
        for quantity, value in zip(shown, (f, d, dstar), strict=True)
    )
    name, voxels = shorten(_name(row)), count_of(int(as_number(row.get("voxels")) or 0), "voxel")
    return Picture(
        file_name=picture_name(run.name, f"region{position + 1}decay", "svg"),
        content=points_chart(bvals, mean / s0, (deviation / s0, deviation / s0), curves),
        title=name,
        caption=f"Mean signal of {voxels} over the S0 of its fit, with the standard deviation over the "
        f"voxels. Fit: {words}.",
        alt=f"Mean signal of {name} over the b-value with its fit, {words}: from "
        f"{format_number(mean[0] / s0)} to {format_number(mean[-1] / s0)} of S0.",
    )
