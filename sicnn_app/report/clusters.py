"""The part of the report that tells tissues apart by their maps, with the signals of each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sicnn_app.derivatives.collect import RunDerivatives
from sicnn_app.derivatives.facts import MISSING, count_of, format_number
from sicnn_app.derivatives.names import picture_name
from sicnn_app.formats import json_bytes, tsv_bytes
from sicnn_app.ivim.checks import RELATIVE_BOUND
from sicnn_app.ivim.flags import NEGLIGIBLE_F
from sicnn_app.report import figures
from sicnn_app.report.cluster_numbers import (
    TissueClusters,
    cluster_columns,
    decay_columns,
    decay_rows,
)
from sicnn_app.report.decay import Decay, decay_chart
from sicnn_app.report.display import Display
from sicnn_app.report.picture import Picture, baseline_of, percent
from sicnn_app.report.quantities import Quantity, shown_quantities

_ROOM = 1.08
"""Upper end of the axis of the signal over the highest quartile."""


def cluster_pictures(run: RunDerivatives, found: TissueClusters, display: Display) -> list[Picture]:
    """The clusters over the image at the lowest b-value, and a chart of the signals of each."""
    tops = [decay.quartiles()[2].max() for decay in found.decays]
    top = _ROOM * max(tops) if tops and np.isfinite(tops).all() else None
    pairs = zip(found.rows, found.decays, strict=True) if found.decays else ()
    charts = [_chart(run, row, decay, top) for row, decay in pairs]
    return [_map(run, found, display), *charts]


def cluster_head(run: RunDerivatives) -> tuple[str, ...]:
    """Columns of the table on the page."""
    maps = [f"{quantity.spec.symbol} ({quantity.unit})" for quantity in _quantities(run)]
    fit = ", ".join(quantity.spec.symbol for quantity in _quantities(run))
    return (
        "Cluster",
        "Voxels",
        *maps,
        *([f"{fit} of least squares"] if run.conventional else []),
        "D* of one voxel",
    )


def cluster_rows(run: RunDerivatives, found: TissueClusters | None) -> list[dict[str, Any]]:
    """Colour, number and cells of every row of the table on the page; empty without clusters."""
    rows = []
    for row in found.rows if found else []:
        cells = [f"{row['voxels']:,} ({100 * row['share']:.0f}\u00a0%)"]
        fit = []
        for quantity in _quantities(run):
            label = quantity.spec.label
            low, median, high = (
                _number(row[f"{label}_{name}"], quantity)
                for name in ("lower_quartile", "median", "upper_quartile")
            )
            cells.append(f"{median} ({low}\u00a0–\u00a0{high})")
            fit.append(_number(row[f"lsq_{label}_median"], quantity))
        if run.conventional:
            cells.append(", ".join(fit))
        rows.append({"number": row["cluster"], "colour": row["color"], "cells": [*cells, _precision(row)]})
    return rows


def cluster_words() -> str:
    """What the table on the page says besides medians and quartiles."""
    poor, good = (100 * limit for limit in RELATIVE_BOUND)
    return (
        "Medians with quartiles. The last column is the smallest standard deviation of D* that one voxel "
        f"alone can give, without neighbours, as a share of its median: good up to {good:.0f} %, poor above "
        f"{poor:.0f} %, where D* is to be believed as a mean over many voxels only."
    )


def cluster_files(run: RunDerivatives, found: TissueClusters | None) -> list[tuple[str, bytes]]:
    """The numbers behind pictures and table, as tables with a description: file name and content."""
    if found is None:
        return []
    tables = {
        "clusters": (
            cluster_columns(),
            found.rows,
            "Voxels without a flag, grouped by their maps",
        ),
        "clusterdecay": (decay_columns(), decay_rows(found), "Signals of the clusters, relative to S0"),
    }
    files = []
    for desc, (columns, rows, words) in tables.items():
        files += [
            (picture_name(run.name, desc, "tsv"), tsv_bytes(list(columns), rows)),
            (picture_name(run.name, desc, "json"), json_bytes({"Description": words, **columns})),
        ]
    return files


def _quantities(run: RunDerivatives) -> list[Quantity]:
    return [quantity for quantity in shown_quantities(run.anatomy) if quantity.spec.of_tissue]


def _number(value: float | None, quantity: Quantity) -> str:
    return MISSING if value is None else format_number(value * quantity.factor)


def _precision(row: dict[str, Any]) -> str:
    bound, median = row["dstar_bound"], row["dstar_median"]
    if bound is None or not median:
        return MISSING
    if not math.isfinite(bound):
        return "not determined"
    return f"± {format_number(100 * bound / median)} %, {row['dstar_precision']}"


def _medians(run: RunDerivatives, row: dict[str, Any]) -> str:
    """Medians of a cluster in words."""
    words = []
    for quantity in _quantities(run):
        median = row[f"{quantity.spec.label}_median"]
        shown = MISSING if median is None else quantity.with_unit(float(f"{median * quantity.factor:.3g}"))
        words.append(f"{quantity.spec.symbol} {shown}")
    return ", ".join(words)


def _map(run: RunDerivatives, found: TissueClusters, display: Display) -> Picture:
    volume = np.zeros(run.mask.shape, dtype=int)
    volume[run.mask] = found.numbers
    rest = 100.0 * float((found.numbers == 0).mean())
    return Picture(
        file_name=picture_name(run.name, "clusters", "png"),
        content=figures.cluster_picture(
            volume, [row["color"] for row in found.rows], run.mask, baseline_of(run), display
        ),
        title="Clusters",
        caption=f"Numbered from the highest F (1) to the lowest ({len(found.rows)}). "
        f"{percent(rest)} of the voxels carry a flag and belong to none.",
        alt=f"Voxels in {count_of(len(found.rows), 'cluster')}; medians: "
        + "; ".join(f"{row['cluster']}: {_medians(run, row)}" for row in found.rows)
        + ".",
    )


def _chart(run: RunDerivatives, row: dict[str, Any], decay: Decay, top: float | None) -> Picture:
    number = row["cluster"]
    curves = "the maps and least squares predict" if decay.conventional else "the maps predict"
    fades = "" if row["f_median"] >= NEGLIGIBLE_F else " F is too small for D* to mean anything."
    return Picture(
        file_name=picture_name(run.name, f"cluster{number}decay", "svg"),
        content=decay_chart(decay, badge=(str(number), row["color"]), top=top),
        title=f"Cluster {number}",
        caption=f"{count_of(row['voxels'], 'voxel')}, median {_medians(run, row)}.{fades}",
        alt=f"Signal of cluster {number} over the b-value, with what {curves}: from "
        f"{format_number(decay.quartiles()[1][0])} to {format_number(decay.quartiles()[1][-1])} of S0.",
    )
