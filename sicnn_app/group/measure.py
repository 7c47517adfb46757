"""The maps of one run to one row of numbers per region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sicnn_app.group.columns import MASK_REGION, QC_COLUMNS
from sicnn_app.group.statistics import spread
from sicnn_app.ivim.maps import MAPS
from sicnn_app.ivim.run import DwiRun
from sicnn_app.report.collect import RunDerivatives
from sicnn_app.report.facts import as_number

REPEATED_ENTITIES = ("ses", "run")
"""Entities by which the measurements of one participant and acquisition are told apart."""


def region_rows(
    item: DwiRun,
    run: RunDerivatives,
    regions: Mapping[tuple[str | None, str], np.ndarray],
    ensemble_std: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Rows of a run: its whole mask, then its regions.

    Parameters
    ----------
    item : DwiRun
    run : RunDerivatives
        With every map.
    regions : mapping of (segmentation, region) to ndarray, shape (X, Y, Z), bool
        Only voxels of the mask count.
    ensemble_std : mapping of str to ndarray, shape (X, Y, Z)
        Standard deviation over an ensemble, by the label of the map; empty without one.

    Returns
    -------
    list of dict
        One value per column of :func:`sicnn_app.group.columns.measured_columns`; None where there is none.
    """
    whole = {(None, MASK_REGION): np.ones_like(run.mask)}
    ours = _run_values(item, run)
    rows = []
    for (segmentation, region), voxels in {**whole, **regions}.items():
        inside = voxels[run.mask]
        values = _region_values(run, inside, ensemble_std)
        rows.append({**ours, "segmentation": segmentation, "region": region, **values})
    return rows


def _run_values(item: DwiRun, run: RunDerivatives) -> dict[str, Any]:
    shared = (
        f"{key}-{label}" for key, label in item.entities.items() if key not in ("sub", *REPEATED_ENTITIES)
    )
    displacement = [as_number(row.get("framewise_displacement")) for row in run.motion]
    displacement = [value for value in displacement if value is not None]
    return {
        "participant_id": f"sub-{item.subject}",
        "session_id": None if item.session is None else f"ses-{item.session}",
        "source": item.name,
        "acquisition": "_".join(shared) or None,
        "method": run.qc_row.get("method"),
        "app_version": run.software.get("sicnn-app"),
        **{name: _value(run.qc_row.get(name)) for name in QC_COLUMNS},
        "framewise_displacement_mean": float(np.mean(displacement)) if displacement else None,
        "framewise_displacement_max": max(displacement, default=None),
    }


def _value(text: str | None) -> float | int | str | None:
    """A cell of another table as a number, if it is one: it is written as numbers are."""
    number = as_number(text)
    if number is None:
        return text
    return int(number) if number == int(number) else number


def _region_values(
    run: RunDerivatives, inside: np.ndarray, ensemble_std: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    count = int(np.count_nonzero(inside))
    values: dict[str, Any] = {
        "voxel_count": count,
        "dstar_voxel_count": int(np.count_nonzero(inside & run.meaningful("dstar"))),
        "flagged_share": float(run.flagged[inside].mean()) if count and run.flags is not None else None,
    }
    for spec in MAPS:
        chosen = inside & run.meaningful(spec.label)
        found = spread(run.inside(spec.label)[chosen])
        values |= {f"{spec.label}_{name}": value for name, value in vars(found).items()}
        if spec.label in ensemble_std:
            deviations = ensemble_std[spec.label][run.mask][chosen]
            values[f"{spec.label}_ensemble_std_median"] = spread(deviations).median
    return values
