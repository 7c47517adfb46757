"""What the outputs say about the conventional fit: the sidecars of its maps, and its part of the QC table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from sicnn_app.derivatives.sidecar import DatasetRoots, map_sidecar
from sicnn_app.ivim.comparison import COMPARED, agreement
from sicnn_app.ivim.flags import NEGLIGIBLE_F, at_bounds
from sicnn_app.ivim.maps import MAPS, MapSpec
from sicnn_app.ivim.run import RunResult
from sicnn_app.methods import LEAST_SQUARES

_NUMBERS: dict[str, tuple[str, str, bool]] = {
    "voxels": ("voxels compared", "Unflagged voxels over which {symbol} is compared", False),
    "median_difference": (
        "median difference",
        "Median over these voxels of {symbol} minus that of least squares",
        True,
    ),
    "median_absolute_difference": (
        "median absolute difference",
        "Median over these voxels of the absolute difference of {symbol} from that of least squares",
        True,
    ),
    "pearson": ("correlation", "Pearson correlation over these voxels with {symbol} of least squares", False),
    "spearman": (
        "rank correlation",
        "Spearman correlation over these voxels with {symbol} of least squares",
        False,
    ),
}
"""Title, description and whether the number has the unit of the map, by its name in ``agreement``."""


def conventional_result(result: RunResult) -> RunResult:
    """The conventional fit of a result as a result of its own, over the same voxels."""
    if result.conventional is None:
        raise ValueError(f"{result.run.name} holds no conventional fit")
    return replace(
        result,
        estimate=result.conventional,
        settings={**result.settings, "method": LEAST_SQUARES},
        conventional=None,
    )


def conventional_sidecar(conventional: RunResult, spec: MapSpec, roots: DatasetRoots) -> dict[str, Any]:
    """Sidecar of a map of the conventional fit; the result is one of :func:`conventional_result`."""
    own = map_sidecar(conventional, spec, roots)
    return {
        **own,
        "Description": "Conventional least-squares fit of the same signals in the same voxels, to compare "
        f"with: {own['Description']}",
    }


def comparison_columns() -> dict[str, dict[str, str]]:
    """``LongName``, ``Description`` and ``Units`` of the columns of :func:`comparison_row`."""
    columns = {}
    for spec in (spec for spec in MAPS if spec.label in COMPARED):
        both = f", where both F are at least {NEGLIGIBLE_F:g}" if spec.label == "dstar" else ""
        for name, (title, description, has_unit) in _NUMBERS.items():
            columns[f"lsq_{spec.label}_{name}"] = {
                "LongName": f"{spec.symbol} against least squares: {title}",
                "Description": description.format(symbol=spec.symbol) + both,
                **({"Units": spec.unit} if has_unit else {}),
            }
    columns["lsq_parameter_at_bound_count"] = {
        "LongName": "Least squares, parameter at bound: voxels",
        "Description": "Voxels inside the mask in which a parameter of the conventional fit is at a bound",
    }
    columns["lsq_parameter_at_bound_share"] = {
        "LongName": "Least squares, parameter at bound: share",
        "Description": "Share of the voxels inside the mask in which a parameter of the conventional fit is "
        "at a bound",
    }
    return columns


def comparison_row(result: RunResult) -> dict[str, float | int | None]:
    """How the maps agree with the conventional fit; None in every column where there is none."""
    row: dict[str, float | int | None] = dict.fromkeys(comparison_columns())
    if result.conventional is None:
        return row
    maps, others, mask = result.estimate.maps, result.conventional.maps, result.averaged.mask
    unflagged = mask & (result.flags == 0)
    for label in COMPARED:
        for name, value in agreement(label, maps, others, unflagged).items():
            row[f"lsq_{label}_{name}"] = value
    bounds, normaliser = result.conventional.parameters["bounds"], result.averaged.signals[..., 0]
    count = int(np.count_nonzero(at_bounds(others, mask, bounds, normaliser)))
    row["lsq_parameter_at_bound_count"] = count
    row["lsq_parameter_at_bound_share"] = count / int(mask.sum()) if mask.any() else None
    return row
