"""The maps of one run to one row of numbers per region."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sicnn_app.bids.segmentations import Regions
from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import as_number
from sicnn_app.derivatives.quality import group_columns
from sicnn_app.formats import shorten
from sicnn_app.group.columns import MASK_REGION
from sicnn_app.group.statistics import spread
from sicnn_app.group.table import MAX_LETTERS
from sicnn_app.ivim.parameters import all_maps
from sicnn_app.ivim.run import DwiRun

REPEATED_ENTITIES = ("ses", "run")
"""Entities by which the measurements of one participant and acquisition are told apart."""


def region_rows(item: DwiRun, run: RunDerivatives, regions: Mapping[str, Regions]) -> list[dict[str, Any]]:
    """Rows of a run: its whole mask, then its regions.

    Parameters
    ----------
    item : DwiRun
    run : RunDerivatives
        With every map.
    regions : mapping of str to Regions
        In the voxels of its mask, by the name of the segmentation.

    Returns
    -------
    list of dict
        One value per column of :func:`sicnn_app.group.columns.measured_columns`; None where there is none.
    """
    ours = _run_values(item, run)
    whole = np.ones(int(run.mask.sum()), dtype=bool)
    rows = [{**ours, "segmentation": None, "region": MASK_REGION, **_region_values(run, whole)}]
    for segmentation, found in regions.items():
        for position, region in enumerate(found.names):
            values = _region_values(run, found.positions == position)
            rows.append({**ours, "segmentation": segmentation, "region": region, **values})
    return rows


def _run_values(item: DwiRun, run: RunDerivatives) -> dict[str, Any]:
    shared = (
        f"{key}-{label}" for key, label in item.entities.items() if key not in ("sub", *REPEATED_ENTITIES)
    )
    return {
        "participant_id": f"sub-{item.subject}",
        "session_id": None if item.session is None else f"ses-{item.session}",
        "source": item.name,
        "acquisition": "_".join(shared) or None,
        "method": _value(run.qc_row.get("method")),
        "app_version": run.software.get("sicnn-app"),
        **{name: _value(run.qc_row.get(name)) for name in (column.name for column in group_columns())},
        **_displacement(run),
    }


def _displacement(run: RunDerivatives) -> dict[str, float | None]:
    mean, largest = "framewise_displacement_mean", "framewise_displacement_max"
    recorded = {name: as_number(run.qc_row.get(name)) for name in (mean, largest)}
    if None not in recorded.values():
        return recorded
    # The quality tables of version 0.3 and before lack them.
    numbers = (as_number(row.get("framewise_displacement")) for row in run.motion)
    volumes = [value for value in numbers if value is not None]
    return {mean: float(np.mean(volumes)) if volumes else None, largest: max(volumes, default=None)}


def _value(text: str | None) -> float | int | str | None:
    """A cell of another table as a number, if it is one: it is written as numbers are."""
    number = as_number(text)
    if number is None:
        return None if text is None else shorten(text, MAX_LETTERS)
    return int(number) if number == int(number) else number


def _region_values(run: RunDerivatives, inside: np.ndarray) -> dict[str, Any]:
    count = int(np.count_nonzero(inside))
    values: dict[str, Any] = {
        "voxel_count": count,
        "dstar_voxel_count": int(np.count_nonzero(inside & run.meaningful("dstar"))),
        "flagged_share": float(run.flagged[inside].mean()) if count and run.flags is not None else None,
    }
    for spec in (spec for spec in all_maps() if spec.label in run.maps):
        chosen = inside & run.meaningful(spec.label)
        found = spread(run.inside(spec.label)[chosen])
        values |= {f"{spec.label}_{name}": value for name, value in vars(found).items()}
        if spec.label in run.spread:
            deviations = run.spread[spec.label][run.mask][chosen]
            values[f"{spec.label}_ensemble_std_median"] = spread(deviations).median
    return values
