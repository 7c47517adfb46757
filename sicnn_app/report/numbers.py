"""The numbers of the report's tables of maps and b-values, as files: what is shown can be computed with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from sicnn_app.formats import json_bytes, tsv_bytes
from sicnn_app.ivim.maps import MAPS
from sicnn_app.report.collect import RunDerivatives
from sicnn_app.report.picture import picture_name

_QUANTILES = {"quartile_1": 25.0, "median": 50.0, "quartile_3": 75.0}

_MAP_COLUMNS: dict[str, dict[str, str]] = {
    "map": {
        "LongName": "Map",
        "Description": "Label of the param entity, of its standard deviation with _std",
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
            (picture_name(run, desc, "tsv"), tsv_bytes(list(columns), rows)),
            (picture_name(run, desc, "json"), json_bytes({"Description": words, **columns})),
        ]
    return files


def _map_rows(run: RunDerivatives) -> Iterable[dict[str, Any]]:
    for spec in MAPS:
        for name, found in ((spec.label, run.maps), (f"{spec.label}_std", run.spread)):
            if spec.label in found and spec.label in run.maps:
                counted = run.meaningful(spec.label) & np.isfinite(found[spec.label][run.mask])
                values = found[spec.label][run.mask].astype(np.float64)
                yield {
                    "map": name,
                    "unit": spec.unit,
                    **_summary(values[counted], ""),
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
