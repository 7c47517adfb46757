"""The numbers of the report's tables of maps and b-values, as files: what is shown can be computed with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.names import picture_name
from sicnn_app.formats import described, json_bytes, tsv_bytes
from sicnn_app.report.comparison import compared_voxels, has_both
from sicnn_app.report.quantities import Quantity, difference_quantities, shown_quantities, spread_quantities
from sicnn_app.report.spread import relative_spread

_QUANTILES = {"quartile_1": 25.0, "median": 50.0, "quartile_3": 75.0}
_TITLES = {name: name.replace("_", " ") for name in _QUANTILES}

_MAP_COLUMNS = {
    "map": described(
        "Map",
        "Label of the param entity; with _std its standard deviation, with _minus_lsq its difference from "
        "the conventional fit",
    ),
    "unit": described("Unit", "Unit of the quantiles, that of the file"),
    "voxels": described(
        "Voxels", "Voxels inside the mask that count; of D* those with an F of at least 0.02"
    ),
    **{name: described(title.capitalize(), "Over these voxels") for name, title in _TITLES.items()},
    "outside_colour_range": described(
        "Outside the colour range",
        "Share of these voxels whose value lies outside the colour range of the picture",
    ),
    "relative_median": described(
        "Median relative to the map",
        "Of a standard deviation: median over these voxels of its ratio to the map, where that is above 0",
    ),
    "unflagged_voxels": described("Voxels without a flag", "Of these voxels"),
    **{
        f"unflagged_{name}": described(f"{title.capitalize()}, no flag", "Over the voxels without a flag")
        for name, title in _TITLES.items()
    },
}


def _bvalue_columns(signals: str) -> dict[str, Any]:
    return {
        "b_value": described("b-value", "Nominal b-value", "s/mm^2"),
        "volumes": described("Volumes", "Volumes of the preprocessed series"),
        "mean_signal": described(
            "Mean signal", f"Mean over the mask of the {signals}; units of the source image", "arbitrary"
        ),
        **{
            f"signal_{name}": described(
                f"Signal over S0, {title}", "Over the voxels inside the mask with a positive S0"
            )
            for name, title in _TITLES.items()
        },
    }


def table_files(
    run: RunDerivatives,
    desc: str,
    words: str,
    columns: Mapping[str, Mapping[str, Any]],
    rows: Iterable[Mapping[str, Any]],
) -> list[tuple[str, bytes]]:
    """A table and the description of its columns: file name and content of each."""
    return [
        (picture_name(run.name, desc, "tsv"), tsv_bytes(list(columns), rows)),
        (picture_name(run.name, desc, "json"), json_bytes({"Description": words, **columns})),
    ]


def number_files(run: RunDerivatives) -> list[tuple[str, bytes]]:
    """Tables of the maps and of the signals, see :func:`table_files`; none for a run without voxels."""
    if not run.has_voxels:
        return []
    files = table_files(run, "statistics", "Maps inside the mask", _MAP_COLUMNS, _map_rows(run))
    if run.measured is not None and "s0" in run.maps:
        words = "Signals inside the mask by b-value"
        columns = _bvalue_columns(run.measured.words)
        files += table_files(run, "signals", words, columns, _bvalue_rows(run))
    return files


def _map_rows(run: RunDerivatives) -> Iterable[dict[str, Any]]:
    spreads = {quantity.spec.label: quantity for quantity in spread_quantities(run.anatomy)}
    for quantity in shown_quantities(run.anatomy):
        label = quantity.spec.label
        if label not in run.maps:
            continue
        inside, meaningful = run.inside(label), run.meaningful(label)
        yield _map_row(run, label, quantity, inside, meaningful & np.isfinite(inside))
        if label in run.spread and label in spreads:
            spread = run.spread[label][run.mask].astype(np.float64)
            counted = meaningful & np.isfinite(spread)
            row = _map_row(run, f"{label}_std", spreads[label], spread, counted)
            yield {**row, "relative_median": relative_spread(spread[counted], inside[counted])}
    for quantity in difference_quantities(run.anatomy, ""):
        label = quantity.spec.label
        if has_both(run, quantity):
            counted = compared_voxels(run, label, run.mask)[run.mask]
            difference = run.inside(label) - run.conventional[label][run.mask]
            yield _map_row(run, f"{label}_minus_lsq", quantity, difference, counted)


def _map_row(
    run: RunDerivatives, name: str, quantity: Quantity, inside: np.ndarray, counted: np.ndarray
) -> dict[str, Any]:
    values, unflagged = inside[counted], inside[counted & ~run.flagged]
    return {
        "map": name,
        "unit": quantity.spec.unit,
        "voxels": values.size,
        **_quantiles(values),
        "outside_colour_range": quantity.share_outside(values),
        "unflagged_voxels": unflagged.size,
        **_quantiles(unflagged, "unflagged_"),
    }


def _quantiles(values: np.ndarray, prefix: str = "") -> dict[str, float]:
    if not values.size:
        return {}
    found = np.percentile(values, list(_QUANTILES.values()))
    return {f"{prefix}{name}": value for name, value in zip(_QUANTILES, found, strict=True)}


def _bvalue_rows(run: RunDerivatives) -> Iterable[dict[str, Any]]:
    measured, s0 = run.measured, run.inside("s0")
    for b, volumes, signals in zip(measured.bvals, measured.volumes, measured.in_mask, strict=True):
        yield {
            "b_value": float(b),
            "volumes": int(volumes),
            "mean_signal": float(signals.mean(dtype=np.float64)),
            **_quantiles(signals[s0 > 0] / s0[s0 > 0], "signal_"),
        }
