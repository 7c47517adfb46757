"""The numbers of the report's tables of maps and b-values, as files: what is shown can be computed with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.names import picture_name
from sicnn_app.formats import json_bytes, tsv_bytes
from sicnn_app.report.comparison import compared_voxels, has_both
from sicnn_app.report.quantities import difference_quantities, shown_quantities, spread_quantities
from sicnn_app.report.spread import relative_spread

_QUANTILES = {"quartile_1": 25.0, "median": 50.0, "quartile_3": 75.0}

_MAP_COLUMNS: dict[str, dict[str, str]] = {
    "map": {
        "LongName": "Map",
        "Description": "Label of the param entity; with _std its standard deviation, with _minus_lsq its "
        "difference from the conventional fit",
    },
    "unit": {"LongName": "Unit", "Description": "Unit of the quantiles, that of the file"},
    "voxels": {
        "LongName": "Voxels",
        "Description": "Voxels inside the mask that count; of D* those with an F of at least 0.02",
    },
    **{
        name: {"LongName": name.replace("_", " ").capitalize(), "Description": "Over these voxels"}
        for name in _QUANTILES
    },
    "outside_colour_range": {
        "LongName": "Outside the colour range",
        "Description": "Share of these voxels whose value lies outside the colour range of the picture",
    },
    "relative_median": {
        "LongName": "Median relative to the map",
        "Description": "Of a standard deviation: median over these voxels of its ratio to the map, where "
        "that is above 0",
    },
    "unflagged_voxels": {"LongName": "Voxels without a flag", "Description": "Of these voxels"},
    **{
        f"unflagged_{name}": {
            "LongName": f"{name.replace('_', ' ').capitalize()}, no flag",
            "Description": "Over the voxels without a flag",
        }
        for name in _QUANTILES
    },
}

_BVALUE_COLUMNS: dict[str, dict[str, str]] = {
    "b_value": {"LongName": "b-value", "Description": "Nominal b-value", "Units": "s/mm^2"},
    "volumes": {"LongName": "Volumes", "Description": "Volumes of the preprocessed series"},
    "mean_signal": {
        "LongName": "Mean signal",
        "Description": "Mean over the mask of the arithmetic means of the volumes, units of the source image",
        "Units": "arbitrary",
    },
    **{
        f"signal_{name}": {
            "LongName": f"Signal over S0, {name.replace('_', ' ')}",
            "Description": "Over the voxels inside the mask with a positive S0",
        }
        for name in _QUANTILES
    },
}


def number_files(run: RunDerivatives) -> list[tuple[str, bytes]]:
    """Tables with a description of their columns: file name and content; none for a run without voxels."""
    if not run.has_voxels:
        return []
    tables = {"statistics": (_MAP_COLUMNS, _map_rows(run), "Maps inside the mask")}
    if run.measured is not None and "s0" in run.maps:
        tables["signals"] = (_BVALUE_COLUMNS, _bvalue_rows(run), "Signals inside the mask by b-value")
    files = []
    for desc, (columns, rows, words) in tables.items():
        files += [
            (picture_name(run.name, desc, "tsv"), tsv_bytes(list(columns), rows)),
            (picture_name(run.name, desc, "json"), json_bytes({"Description": words, **columns})),
        ]
    return files


def _map_rows(run: RunDerivatives) -> Iterable[dict[str, Any]]:
    spreads = {quantity.spec.label: quantity for quantity in spread_quantities(run.anatomy)}
    for quantity in shown_quantities(run.anatomy):
        label, unit = quantity.spec.label, quantity.spec.unit
        for name, found, shown in (
            (label, run.maps, quantity),
            (f"{label}_std", run.spread, spreads.get(label)),
        ):
            if label not in found or label not in run.maps or shown is None:
                continue
            counted = run.meaningful(label) & np.isfinite(found[label][run.mask])
            values = found[label][run.mask].astype(np.float64)
            yield {
                "map": name,
                "unit": unit,
                **_summary(values[counted], ""),
                "outside_colour_range": shown.share_outside(values[counted]),
                "relative_median": relative_spread(values[counted], run.inside(label)[counted])
                if name != label
                else None,
                **_summary(values[counted & ~run.flagged], "unflagged_"),
            }

    for quantity in difference_quantities(run.anatomy, ""):
        label = quantity.spec.label
        if has_both(run, quantity):
            counted = compared_voxels(run, label, run.mask)[run.mask]
            values = run.inside(label) - run.conventional[label][run.mask]
            yield {
                "map": f"{label}_minus_lsq",
                "unit": quantity.spec.unit,
                **_summary(values[counted], ""),
                "outside_colour_range": quantity.share_outside(values[counted]),
                "relative_median": None,
                **_summary(values[counted & ~run.flagged], "unflagged_"),
            }


def _summary(values: np.ndarray, prefix: str) -> dict[str, float | int | None]:
    found = np.percentile(values, list(_QUANTILES.values())) if values.size else [None] * len(_QUANTILES)
    quantiles = {f"{prefix}{name}": value for name, value in zip(_QUANTILES, found, strict=True)}
    return {f"{prefix}voxels": int(values.size), **quantiles}


def _bvalue_rows(run: RunDerivatives) -> Iterable[dict[str, Any]]:
    measured, s0 = run.measured, run.inside("s0")
    for b, volumes, signals in zip(measured.bvals, measured.volumes, measured.in_mask, strict=True):
        relative = _summary(signals[s0 > 0] / s0[s0 > 0], "signal_")
        relative.pop("signal_voxels")
        yield {
            "b_value": float(b),
            "volumes": int(volumes),
            "mean_signal": float(signals.mean(dtype=np.float64)),
            **relative,
        }
